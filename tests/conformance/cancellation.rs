//! A future that is dropped at any moment loses nothing and duplicates nothing.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use channel_layer::{Delivery, Result};
use futures_util::poll;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::backend::{Kind, Options};
use super::tools::{
    Layer, Others, assert_none, number, numbered, numbers_on, rest, send_numbers, take, take_many, take_until_quiet,
};
use crate::support::{DEADLINE, Moments, within};

const CHANNELS: [&str; 3] = ["cut.normal", "cut!a", "cut?a"];
const SOURCES: [&str; 3] = ["cut.normal", "cut!", "cut?a"];
const PER_CHANNEL: i64 = 120;

/// Sends to all channels, in bursts and with pauses, so that readers find them full and empty.
async fn write(layer: Layer) {
    let mut random = StdRng::seed_from_u64(1);
    for number in 0..PER_CHANNEL {
        for channel in CHANNELS {
            layer.send(channel, numbered(number)).await.unwrap();
        }
        if random.random_bool(0.2) {
            sleep(Duration::from_millis(random.random_range(0..6))).await;
        }
    }
}

/// Reads with `step` until all messages of `write` have arrived, and checks them. A step may return nothing.
async fn read_all(kind: &Kind, ordered: bool, mut step: impl AsyncFnMut(&Layer, &mut Vec<Delivery>)) {
    let backend = kind.start(Options::default()).await;
    let reader = backend.peer().await;
    let writer = tokio::spawn(write(backend.layer()));
    let expected: Vec<_> = (0..PER_CHANNEL).collect();
    let mut taken = Vec::new();
    let reading = async {
        for round in 0.. {
            step(&reader, &mut taken).await;
            if taken.len() >= CHANNELS.len() * expected.len() {
                break;
            }
            rest(round).await;
        }
    };
    within(3 * DEADLINE, "all messages despite dropped readers", reading).await;
    writer.await.unwrap();
    taken.extend(take_until_quiet(&reader, &SOURCES).await);
    for channel in CHANNELS {
        let mut got = numbers_on(channel, &taken);
        if !ordered || channel == "cut.normal" {
            got.sort_unstable();
        }
        assert_eq!(got, expected, "what came on {channel}");
    }
}

pub async fn a_dropped_receive_loses_nothing(kind: &Kind) {
    let mut moments = Moments::new(1);
    read_all(kind, true, async |layer, taken| {
        if let Some(received) = moments.cut(layer.receive(&SOURCES)).await {
            taken.push(received.unwrap());
        }
    })
    .await;
}

pub async fn a_dropped_try_receive_loses_nothing(kind: &Kind) {
    let mut moments = Moments::new(2);
    read_all(kind, true, async |layer, taken| {
        if let Some(received) = moments.cut(layer.try_receive(&SOURCES)).await {
            taken.extend(received.unwrap());
        }
    })
    .await;
}

pub async fn a_dropped_recv_loses_nothing(kind: &Kind) {
    let (mut moments, mut receiver) = (Moments::new(3), None);
    read_all(kind, true, async |layer, taken| {
        let receiver = receiver.get_or_insert_with(|| layer.receiver(&SOURCES).unwrap());
        if let Some(received) = moments.cut(receiver.recv()).await {
            taken.push(received.unwrap());
        }
    })
    .await;
}

pub async fn a_dropped_recv_many_loses_nothing(kind: &Kind) {
    let (mut moments, mut receiver) = (Moments::new(4), None);
    read_all(kind, true, async |layer, taken| {
        let receiver = receiver.get_or_insert_with(|| layer.receiver(&SOURCES).unwrap());
        let before = taken.len();
        match moments.cut(receiver.recv_many(taken, 7)).await {
            Some(count) => assert_eq!(taken.len(), before + count.unwrap()),
            None => assert_eq!(taken.len(), before, "a dropped recv_many handed over messages"),
        }
    })
    .await;
}

pub async fn a_dropped_receiver_loses_nothing(kind: &Kind) {
    let mut moments = Moments::new(5);
    // Messages that a dropped receiver puts back in the background may follow those that the next one reads meanwhile.
    read_all(kind, false, async |layer, taken| {
        let mut receiver = layer.receiver(&SOURCES).unwrap();
        for _ in 0..3 {
            if let Some(received) = moments.cut(receiver.recv_many(taken, 2)).await {
                received.unwrap();
            }
        }
    })
    .await;
}

pub async fn a_dropped_reader_leaves_its_turn_to_the_next(kind: &Kind) {
    let backend = kind.start(Options::default()).await;
    let (layer, peer) = (backend.layer(), backend.peer().await);
    for (channel, source) in CHANNELS.into_iter().zip(SOURCES) {
        for second in [&layer, &peer] {
            let sources = [source];
            let mut first = Box::pin(layer.receive(&sources));
            assert!(poll!(&mut first).is_pending());
            // A separate task, which polls again only after a wake-up.
            let second = Arc::clone(second);
            let waiting = tokio::spawn(async move { second.receive(&[source]).await });
            sleep(Duration::from_millis(30)).await;
            layer.send(channel, numbered(1)).await.unwrap();
            // The first waiter is woken for the message, and is dropped before it polls.
            sleep(Duration::from_millis(30)).await;
            drop(first);
            within(DEADLINE, "the message that the first reader did not take", waiting).await.unwrap().unwrap();
        }
    }
}

pub async fn readers_that_come_and_go_lose_nothing(kind: &Kind) {
    let backend = kind.start(Options::default()).await;
    let (done, mut all_done) = mpsc::unbounded_channel();
    let mut readers = JoinSet::new();
    for seed in 0..6 {
        let (layer, done) = (if seed % 2 == 0 { backend.layer() } else { backend.peer().await }, done.clone());
        readers.spawn(async move {
            let mut moments = Moments::new(seed);
            loop {
                if let Some(received) = moments.cut(layer.receive(&["cut.normal"])).await {
                    done.send(number(&received.unwrap())).ok();
                }
            }
        });
    }
    let mut writers = JoinSet::new();
    for writer in 0..4 {
        let layer = backend.layer();
        writers.spawn(async move {
            for number in 0..100 {
                layer.send("cut.normal", numbered(writer * 100 + number)).await.unwrap();
            }
        });
    }
    let mut got = BTreeSet::new();
    for _ in 0..400 {
        let number = within(DEADLINE, "all 400 messages", all_done.recv()).await.unwrap();
        assert!(got.insert(number), "message {number} came twice");
    }
    writers.join_all().await;
    assert!(take_until_quiet(&backend.layer(), &["cut.normal"]).await.is_empty(), "more messages came than were sent");
    assert!(all_done.try_recv().is_err(), "more messages came than were sent");
}

/// Checks the messages of `channel`: the awaited ones in order, and none of the others twice.
#[track_caller]
fn assert_arrived(channel: &str, taken: &[Delivery], awaited: &[i64], tried: i64) {
    let got = numbers_on(channel, taken);
    let set: BTreeSet<_> = got.iter().copied().collect();
    assert_eq!(set.len(), got.len(), "a message came twice on {channel}");
    assert!(set.iter().all(|number| (0..tried).contains(number)), "a message came that was not sent");
    let known: BTreeSet<_> = awaited.iter().copied().collect();
    let mut got: Vec<_> = got.into_iter().filter(|number| known.contains(number)).collect();
    if channel == "cut.normal" {
        got.sort_unstable();
    }
    assert_eq!(got, awaited, "the awaited messages on {channel}");
}

/// Writes with `step`, dropping nine of ten futures at various moments, while another task sends without drops, and
/// reads everything.
async fn write_all(kind: &Kind, seed: u64, step: impl AsyncFn(&Layer, i64) -> Result<()>) {
    const TRIED: i64 = 250;
    let backend = kind.start(Options::default()).await;
    let (layer, reader) = (backend.layer(), backend.peer().await);
    for channel in CHANNELS {
        layer.group_add("cut", channel).await.unwrap();
    }
    let others = Others::on(&layer);
    let mut moments = Moments::new(seed);
    let mut awaited = Vec::new();
    for number in 0..TRIED {
        let call = step(&layer, number);
        let result = if number % 10 == 0 { Some(call.await) } else { moments.cut(call).await };
        match result {
            Some(result) => {
                result.unwrap();
                awaited.push(number);
            }
            None => tokio::task::yield_now().await,
        }
    }
    others.end().await;
    let (mut taken, mut missing) = (Vec::new(), CHANNELS.len() * awaited.len());
    while missing > 0 {
        let delivery = take(&reader, &SOURCES).await;
        missing -= usize::from(awaited.contains(&number(&delivery)));
        taken.push(delivery);
    }
    taken.extend(take_until_quiet(&reader, &SOURCES).await);
    for channel in CHANNELS {
        assert_arrived(channel, &taken, &awaited, TRIED);
    }
}

pub async fn a_dropped_send_arrives_once_or_not_at_all(kind: &Kind) {
    write_all(kind, 6, async |layer, number| {
        for channel in CHANNELS {
            layer.send(channel, numbered(number)).await?;
        }
        Ok(())
    })
    .await;
}

pub async fn a_dropped_send_many_arrives_once_or_not_at_all(kind: &Kind) {
    write_all(kind, 7, async |layer, number| {
        layer.send_many(&CHANNELS.map(|channel| (channel, numbered(number)))).await.into_iter().collect()
    })
    .await;
}

pub async fn a_dropped_group_send_arrives_once_or_not_at_all(kind: &Kind) {
    write_all(kind, 8, async |layer, number| layer.group_send("cut", numbered(number)).await).await;
}

pub async fn a_dropped_group_send_many_arrives_once_or_not_at_all(kind: &Kind) {
    write_all(kind, 9, async |layer, number| {
        layer.group_send_many(&[("cut", numbered(number))]).await.into_iter().collect()
    })
    .await;
}

pub async fn a_dropped_requeue_arrives_once_or_not_at_all(kind: &Kind) {
    write_all(kind, 10, async |layer, number| {
        layer.requeue(&CHANNELS.map(|channel| (channel, numbered(number)))).await.into_iter().collect()
    })
    .await;
}

pub async fn a_change_of_a_group_is_made_unless_it_is_dropped(kind: &Kind) {
    let layer = kind.start(Options::default()).await.layer();
    let mut moments = Moments::new(11);
    for (member, number) in CHANNELS.into_iter().cycle().zip(0..60) {
        let added = moments.cut(layer.group_add("cut", member)).await.transpose().unwrap();
        let members = layer.group_channels("cut").await.unwrap();
        assert!(members == [member] || added.is_none() && members.is_empty(), "added: {added:?}, then {members:?}");
        let discarded = moments.cut(layer.group_discard("cut", member)).await.transpose().unwrap();
        let left = layer.group_channels("cut").await.unwrap();
        assert!(left.is_empty() || discarded.is_none() && left == members, "discarded: {discarded:?}, then {left:?}");
        // Dropped futures must not block what follows.
        layer.group_add("cut", member).await.unwrap();
        layer.group_send("cut", numbered(number)).await.unwrap();
        let delivery = take(&layer, &SOURCES).await;
        assert_eq!((delivery.channel.as_str(), delivery.message), (member, numbered(number)));
        layer.group_discard("cut", member).await.unwrap();
        assert!(layer.group_channels("cut").await.unwrap().is_empty());
    }
    assert_none(layer.try_receive(&SOURCES).await.unwrap());
}

pub async fn a_dropped_query_changes_nothing(kind: &Kind) {
    let layer = kind.start(Options::default()).await.layer();
    for channel in CHANNELS {
        send_numbers(&layer, channel, 0..5).await;
    }
    let mut moments = Moments::new(12);
    for _ in 0..20 {
        moments.cut(layer.new_channel("cut.new?")).await.transpose().unwrap();
        moments.cut(layer.group_channels("cut")).await.transpose().unwrap();
        moments.cut(layer.global_statistics()).await.transpose().unwrap();
        moments.cut(layer.channel_statistics("cut!")).await.transpose().unwrap();
        // Without a reachable server this fails.
        moments.cut(layer.redis_stats()).await.and_then(Result::ok);
        moments.cut(layer.health()).await;
    }
    within(DEADLINE, "the health after dropped queries", layer.health()).await;
    let taken = take_many(&layer, &SOURCES, 15).await;
    for channel in CHANNELS {
        let mut got = numbers_on(channel, &taken);
        if channel == "cut.normal" {
            got.sort_unstable();
        }
        assert_eq!(got, [0, 1, 2, 3, 4], "what came on {channel}");
    }
    assert_none(layer.try_receive(&SOURCES).await.unwrap());
}

pub async fn a_dropped_flush_leaves_a_layer_that_works(kind: &Kind) {
    let layer = kind.start(Options::default()).await.layer();
    let mut moments = Moments::new(13);
    for number in 0..30 {
        for channel in CHANNELS {
            layer.send(channel, numbered(number)).await.unwrap();
            layer.group_add("cut", channel).await.unwrap();
        }
        moments.cut(layer.flush()).await.transpose().unwrap();
    }
    layer.flush().await.unwrap();
    assert_none(layer.try_receive(&SOURCES).await.unwrap());
    assert!(layer.group_channels("cut").await.unwrap().is_empty());
    for channel in CHANNELS {
        layer.send(channel, numbered(1)).await.unwrap();
    }
    take_many(&layer, &SOURCES, CHANNELS.len()).await;
}
