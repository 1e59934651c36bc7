//! Outages as callers of `receive` see them: one error, then messages as soon as the server is back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use channel_layer::{ChannelLayer, Error, Event, HybridLayer, MemoryLayer, RedisLayer};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use super::tools::{Site, ask, connect, event, number, numbered};
use crate::support::{DEADLINE, RedisServer, eventually, stored_formats, within};

pub(super) type AnyLayer = Arc<dyn ChannelLayer>;

/// The default of the first retry pause of a layer.
const PAUSE: Duration = Duration::from_millis(250);
/// The longest allowed median time until reading resumes after a reset. Python's layers take 60 to 140 ms; the rest is
/// for a busy machine.
const RECOVERY: Duration = Duration::from_millis(500);

/// Closes all connections to a server.
async fn reset(server: &RedisServer) {
    let () = ask(&mut server.connection().await, redis::cmd("CLIENT").arg(&["KILL", "TYPE", "normal"])).await;
}

/// Connects a layer of every kind that stores its messages in Redis.
async fn layers(servers: &[RedisServer]) -> Vec<(String, AnyLayer)> {
    let one = || Site::on(&servers[..1]).config();
    let mut layers: Vec<(_, AnyLayer)> = vec![
        ("three shards".to_owned(), connect(Site::on(servers).config()).await),
        ("hybrid".to_owned(), Arc::new(HybridLayer::<_, RedisLayer>::new(MemoryLayer::new(), connect(one()).await))),
    ];
    for format in stored_formats() {
        layers.push((format!("{format:?}"), channel_layer::connect(one().format(format)).await.unwrap()));
    }
    layers
}

/// Waits until `layer` has a connection to all servers. Each layer in turn restarts them.
async fn connected(layer: &AnyLayer) {
    eventually("a connection", async || layer.outage().is_none().then_some(())).await;
}

/// Calls `receive` on `sources` again and again without a pause until a message arrives. Returns its number and the
/// times at which calls failed.
fn call(layer: &AnyLayer, sources: &'static [&'static str]) -> JoinHandle<(i64, Vec<Instant>)> {
    let layer = layer.clone();
    tokio::spawn(async move {
        let mut failures = Vec::new();
        loop {
            match layer.receive(sources).await {
                Ok(delivery) => return (number(&delivery), failures),
                Err(Error::Redis { .. }) => failures.push(Instant::now()),
                Err(other) => panic!("{other}"),
            }
        }
    })
}

/// As [`call`], with a receiver.
fn receive(layer: &AnyLayer, sources: &'static [&'static str]) -> JoinHandle<(i64, Vec<Instant>)> {
    let mut receiver = layer.receiver(sources).unwrap();
    tokio::spawn(async move {
        let mut failures = Vec::new();
        loop {
            match receiver.recv().await {
                Ok(delivery) => return (number(&delivery), failures),
                Err(Error::Redis { .. }) => failures.push(Instant::now()),
                Err(other) => panic!("{other}"),
            }
        }
    })
}

/// Starts callers and receivers of every kind of channel. Several read the same channels.
fn readers(layer: &AnyLayer) -> Vec<JoinHandle<(i64, Vec<Instant>)>> {
    let mut readers: Vec<_> = (0..3).map(|_| call(layer, &["n"])).collect();
    readers.extend([call(layer, &["l!"]), call(layer, &["l!", "n"]), call(layer, &["s?a"])]);
    readers.extend([receive(layer, &["n"]), receive(layer, &["n", "m!"])]);
    readers
}

/// Sends to all channels until every reader has a message. Returns the times at which the calls of each reader failed.
async fn serve(layer: &AnyLayer, readers: Vec<JoinHandle<(i64, Vec<Instant>)>>) -> Vec<Vec<Instant>> {
    let sending = layer.clone();
    let sender = tokio::spawn(async move {
        for n in 0.. {
            for channel in ["n", "l!a", "s?a", "m!a"] {
                let _ = sending.send(channel, numbered(n)).await;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    let mut failures = Vec::new();
    for reader in readers {
        failures.push(within(DEADLINE, "a message for every reader", reader).await.unwrap().1);
    }
    sender.abort();
    failures
}

fn assert_pauses(failures: &[Vec<Instant>], what: &str) {
    for failures in failures {
        for two in failures.windows(2) {
            // A caller gets each error a little after it was decided, which may shorten the time between two errors.
            assert!(two[1] - two[0] >= PAUSE * 9 / 10, "{what}: two errors within {:?}", two[1] - two[0]);
        }
    }
}

// These tests run on one thread. A call that returns at once lets no other task run there.

#[tokio::test]
async fn calls_without_a_pause_get_one_error_for_a_reset_and_then_messages() {
    let servers = [RedisServer::start(), RedisServer::start(), RedisServer::start()];
    for (kind, layer) in layers(&servers).await {
        connected(&layer).await;
        let readers = readers(&layer);
        tokio::task::yield_now().await;
        for server in &servers {
            reset(server).await;
        }
        let failures = serve(&layer, readers).await;
        assert_pauses(&failures, &kind);
        layer.close().await.unwrap();
    }
}

#[tokio::test]
async fn calls_without_a_pause_get_one_error_per_pause_of_a_long_outage() {
    let mut server = RedisServer::durable();
    for (kind, layer) in layers(std::slice::from_ref(&server)).await {
        connected(&layer).await;
        let readers = readers(&layer);
        tokio::task::yield_now().await;
        server.stop();
        // Long enough for the third report of the outage, after pauses of 250 and 500 ms.
        tokio::time::sleep(4 * PAUSE).await;
        server.start_again();
        let failures = serve(&layer, readers).await;
        // Half of the readers of a hybrid layer read only from its local part, which has no server.
        let failed = failures.iter().filter(|failures| !failures.is_empty()).count();
        assert_eq!(failed, if kind == "hybrid" { failures.len() / 2 } else { failures.len() }, "{kind}");
        assert_pauses(&failures, &kind);
        layer.close().await.unwrap();
    }
}

#[tokio::test]
async fn reading_resumes_as_soon_as_the_server_is_back() {
    let server = RedisServer::start();
    for (kind, layer) in layers(std::slice::from_ref(&server)).await {
        connected(&layer).await;
        let mut times = Vec::new();
        for _ in 0..9 {
            let reader = call(&layer, &["s?a"]);
            let mut events = layer.events();
            tokio::task::yield_now().await;
            reset(&server).await;
            event(&mut events, "the end of the outage", |event| matches!(event, Event::ShardUp { .. })).await;
            let back = Instant::now();
            eventually("a send", async || layer.send("s?a", numbered(1)).await.ok()).await;
            within(DEADLINE, "a message", reader).await.unwrap();
            times.push(back.elapsed());
        }
        times.sort_unstable();
        assert!(times[4] < RECOVERY, "{kind}: {times:?}");
        layer.close().await.unwrap();
    }
}

#[tokio::test]
async fn try_receive_reports_an_outage_every_time() {
    let mut server = RedisServer::durable();
    for (kind, layer) in layers(std::slice::from_ref(&server)).await {
        connected(&layer).await;
        let mut events = layer.events();
        server.stop();
        event(&mut events, "the outage", |event| matches!(event, Event::ShardDown { .. })).await;
        for _ in 0..3 {
            let result = within(DEADLINE, "an answer", layer.try_receive(&["l!"])).await;
            assert!(matches!(result, Err(Error::Redis { .. })), "{kind}: {result:?}");
        }
        server.start_again();
        event(&mut events, "the end of the outage", |event| matches!(event, Event::ShardUp { .. })).await;
        assert_eq!(layer.try_receive(&["l!"]).await.unwrap(), None, "{kind}");
        layer.close().await.unwrap();
    }
}

#[tokio::test]
async fn calls_that_are_dropped_around_a_reset_lose_nothing() {
    const MESSAGES: i64 = 200;
    let server = RedisServer::start();
    for (kind, layer) in layers(std::slice::from_ref(&server)).await {
        connected(&layer).await;
        let mut readers = JoinSet::new();
        let mut events = layer.events();
        for polls in 1..4 {
            let layer = layer.clone();
            readers.spawn(async move {
                let mut numbers = Vec::new();
                while numbers.last() != Some(&-1) {
                    // Calls that wait for the server are dropped too.
                    if let Ok(Ok(delivery)) = timeout(Duration::from_millis(polls), layer.receive(&["s?a"])).await {
                        numbers.push(number(&delivery));
                    }
                }
                numbers
            });
        }
        reset(&server).await;
        event(&mut events, "the end of the outage", |event| matches!(event, Event::ShardUp { .. })).await;
        for n in 0..MESSAGES {
            layer.send("s?a", numbered(n)).await.unwrap();
        }
        for _ in 0..3 {
            layer.send("s?a", numbered(-1)).await.unwrap();
        }
        let mut numbers = within(DEADLINE, "all messages", readers.join_all()).await.concat();
        numbers.retain(|number| *number >= 0);
        numbers.sort_unstable();
        assert_eq!(numbers, (0..MESSAGES).collect::<Vec<_>>(), "{kind}");
        layer.close().await.unwrap();
    }
}
