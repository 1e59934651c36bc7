//! Helpers of the tests of the pub/sub layer.

use std::cell::Cell;
use std::pin::pin;
use std::time::{Duration, Instant};

use channel_layer::{ChannelLayer, Config, Delivery, Event, Message, Mode, PubSubLayer, Receiver, message};
use tokio::sync::broadcast;

use crate::support::{Counts, DEADLINE, RedisServer, eventually, within};

/// Longest time until messages arrive again after a fault has ended.
pub const RECOVERY: Duration = Duration::from_secs(15);

/// Connects a layer to the servers at `urls`. It considers a server down after a second of silence.
pub async fn connect<'u>(urls: impl IntoIterator<Item = &'u str>) -> PubSubLayer {
    connect_with(config(urls)).await
}

pub async fn connect_with(config: Config) -> PubSubLayer {
    within(DEADLINE, "a layer", PubSubLayer::connect(config)).await.unwrap()
}

pub fn config<'u>(urls: impl IntoIterator<Item = &'u str>) -> Config {
    Config::new()
        .hosts(urls)
        .capacity(10_000)
        .connect_timeout(DEADLINE)
        .command_timeout(Duration::from_secs(1))
        .return_after(Duration::from_millis(200))
}

pub fn numbered(number: i64) -> Message {
    message! { "number": number }
}

pub fn number(delivery: &Delivery) -> i64 {
    delivery.message.int("number").expect("the message is numbered")
}

/// Receives the next message and returns its number. Panics if none arrives.
pub async fn next(receiver: &mut Receiver) -> i64 {
    number(&within(DEADLINE, "the next message", receiver.recv()).await.unwrap())
}

/// Receives messages up to the one with the number `last`. Returns their numbers.
pub async fn up_to(receiver: &mut Receiver, last: i64) -> Vec<i64> {
    let mut numbers = Vec::new();
    while numbers.last() != Some(&last) {
        numbers.push(next(receiver).await);
    }
    numbers
}

/// Waits until the layer is in the mode `expected`.
pub async fn mode(layer: &(impl ChannelLayer + ?Sized), expected: Mode) {
    let mut modes = layer.mode();
    let reached = modes.wait_for(|mode| *mode == expected);
    within(RECOVERY, &format!("the mode {expected:?}"), reached).await.unwrap();
}

/// Waits for an event that `matches`.
pub async fn event(events: &mut broadcast::Receiver<Event>, what: &str, matches: impl Fn(&Event) -> bool) -> Event {
    let waiting = async {
        loop {
            let event = events.recv().await.expect("the layer is open, and the events fit its buffer");
            if matches(&event) {
                return event;
            }
        }
    };
    within(RECOVERY, what, waiting).await
}

/// Waits until a client of the server at `url` waits for a message of a list.
pub async fn somebody_waits(url: &str) {
    eventually("a read that waits", async || {
        let list: String = redis::from_redis_value(ask(url, "CLIENT LIST").await).unwrap();
        list.lines().any(|line| line.contains(" cmd=blmpop") && line.contains(" flags=b")).then_some(())
    })
    .await;
}

/// Runs a command on the server at `url`.
pub async fn ask(url: &str, command: &str) -> redis::Value {
    let mut connection = redis::Client::open(url).unwrap().get_multiplexed_async_connection().await.unwrap();
    let mut words = command.split(' ');
    let mut asked = redis::cmd(words.next().unwrap());
    asked.arg(words.collect::<Vec<_>>());
    asked.query_async(&mut connection).await.unwrap()
}

/// Where a message went, by the counters of its layer after the send.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    /// It went to the server.
    Remote,
    /// It stayed in this process.
    StayedHere,
    /// It may have gone to the server, and was counted.
    Unconfirmed,
}

/// Sends numbered messages during two outages of the server. They must arrive in order and at most once. A message may
/// be missing if the layer counted it, or if it was among the last ones that went to the server before an outage: these
/// are lost with the server.
pub async fn order_holds(
    layer: &impl ChannelLayer,
    receiver: &mut Receiver,
    server: &mut RedisServer,
    counts: Counts,
    send: impl AsyncFn(Message),
) {
    let stop = Cell::new(false);
    let reading = async {
        let mut got = Vec::new();
        for _ in 0..2 {
            for expected in [Mode::LocalOnly, Mode::Remote] {
                if expected == Mode::Remote {
                    server.start_again();
                } else {
                    server.stop();
                }
                let mut reached = pin!(mode(layer, expected));
                loop {
                    tokio::select! {
                        biased;
                        delivery = receiver.recv() => got.push(number(&delivery.unwrap())),
                        () = &mut reached => break,
                    }
                }
            }
        }
        stop.set(true);
        got
    };
    let (fates, mut got) = tokio::join!(send_until(&stop, counts, send), reading);
    let last = i64::try_from(fates.len()).unwrap() - 1;
    if got.last() != Some(&last) {
        got.extend(up_to(receiver, last).await);
    }
    assert!(got.is_sorted_by(|a, b| a < b), "a message came out of order or twice: {got:?}");
    assert!(fates.contains(&Fate::StayedHere));
    let mut gone = None;
    for (number, fate) in (0..).zip(&fates) {
        let arrived = got.binary_search(&number).is_ok();
        match fate {
            Fate::StayedHere => assert!(arrived, "message {number} stayed in the process and is missing"),
            Fate::Remote if arrived => assert_eq!(gone, None, "this message is missing, and {number} came after it"),
            Fate::Remote => gone = gone.or(Some(number)),
            Fate::Unconfirmed => {}
        }
        if *fate == Fate::StayedHere {
            gone = None;
        }
    }
}

async fn send_until(stop: &Cell<bool>, mut counts: Counts, send: impl AsyncFn(Message)) -> Vec<Fate> {
    let mut fates = Vec::new();
    let (mut stayed, mut unconfirmed) = (0, 0);
    while !stop.get() {
        send(numbered(i64::try_from(fates.len()).unwrap())).await;
        let before = (stayed, unconfirmed);
        stayed = counts.counter("channel_layer_stayed_local_total");
        unconfirmed = counts.dropped("unconfirmed");
        fates.push(match before {
            (before, _) if stayed > before => Fate::StayedHere,
            (_, before) if unconfirmed > before => Fate::Unconfirmed,
            _ => Fate::Remote,
        });
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    fates
}

/// Pauses writes on the server for a while. Checks that the layer, whose `receiver` reads `work`, keeps delivering its
/// own messages at once and does not return to the server.
pub async fn stays_here_while_writes_are_paused(layer: &impl ChannelLayer, receiver: &mut Receiver, url: &str) {
    ask(url, "CLIENT PAUSE 60000 WRITE").await;
    // The first send waits for its answer.
    layer.send("work", numbered(1)).await.unwrap();
    mode(layer, Mode::LocalOnly).await;
    let mut events = layer.events();
    let began = Instant::now();
    let mut number = 2;
    while began.elapsed() < Duration::from_secs(5) {
        within(Duration::from_millis(500), "a send", layer.send("work", numbered(number))).await.unwrap();
        assert_eq!(next(receiver).await, number);
        number += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    while let Ok(event) = events.try_recv() {
        assert!(!matches!(event, Event::Remote { .. }), "after {number} messages");
    }
    ask(url, "CLIENT UNPAUSE").await;
    mode(layer, Mode::Remote).await;
}
