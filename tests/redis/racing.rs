//! Calls that are dropped at arbitrary moments during sends, over several shards and layers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use channel_layer::{ChannelLayer, Delivery, Event};
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::tools::{Layer, Site, ask, connect, event, number, numbered, take_number};
use crate::support::{DEADLINE, Moments, Proxy, RedisServer, eventually, interrupted, shared_servers, within};

const MESSAGES: usize = 3000;

/// The received numbers by channel, in the order in which they arrived.
#[derive(Default)]
struct Got {
    count: AtomicUsize,
    /// Locked only to add to it.
    numbers: Mutex<BTreeMap<String, Vec<i64>>>,
}

impl Got {
    fn add(&self, delivery: &Delivery) {
        self.numbers.lock().entry(delivery.channel.to_string()).or_default().push(number(delivery));
        self.count.fetch_add(1, Ordering::Relaxed);
    }
}

/// Receives with calls that are dropped at arbitrary moments, until all messages have arrived.
async fn read(layer: Layer, channels: Vec<String>, got: Arc<Got>, all: usize, seed: u64) {
    let channels: Vec<_> = channels.iter().map(String::as_str).collect();
    let mut moments = Moments::new(seed);
    while got.count.load(Ordering::Relaxed) < all {
        if let Some(delivery) = moments.cut(layer.receive(&channels)).await {
            got.add(&delivery.unwrap());
        }
    }
}

async fn send(layer: Layer, channels: Vec<String>, first: usize) {
    for n in first..first + MESSAGES / 2 {
        let channel = &channels[n % channels.len()];
        layer.send(channel, numbered(i64::try_from(n).unwrap())).await.unwrap();
    }
}

/// Waits until all tasks have ended. Fails if no message arrives for a while.
async fn finish(mut tasks: JoinSet<()>, got: &Got) {
    let mut before = 0;
    while !tasks.is_empty() {
        match timeout(DEADLINE, tasks.join_next()).await {
            Ok(ended) => ended.into_iter().for_each(Result::unwrap),
            Err(_) => {
                let now = got.count.load(Ordering::Relaxed);
                assert!(now > before, "{now} of {MESSAGES} messages arrived, and none for {DEADLINE:?}");
                before = now;
            }
        }
    }
}

async fn race(layers: &[Layer; 2], channels: [Vec<String>; 2], sources: [Vec<String>; 2]) -> Got {
    let got = Arc::new(Got::default());
    let mut tasks = JoinSet::new();
    for seed in 0..6 {
        let place = seed % 2;
        let reader = read(layers[place].clone(), sources[place].clone(), got.clone(), MESSAGES, seed as u64);
        tasks.spawn(reader);
    }
    for (place, channels) in channels.into_iter().enumerate() {
        tasks.spawn(send(layers[1 - place].clone(), channels, place * MESSAGES / 2));
    }
    finish(tasks, &got).await;
    for (layer, sources) in layers.iter().zip(&sources) {
        let sources: Vec<_> = sources.iter().map(String::as_str).collect();
        assert!(layer.try_receive(&sources).await.unwrap().is_none());
    }
    Arc::into_inner(got).expect("all readers have ended")
}

fn assert_each_once(got: &Got) {
    let mut numbers: Vec<_> = got.numbers.lock().values().flatten().copied().collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..i64::try_from(MESSAGES).unwrap()).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_receives_of_a_normal_channel_neither_lose_nor_duplicate_messages() {
    let site = Site::on(shared_servers());
    let layers = [connect(site.config()).await, connect(site.config()).await];
    let names = || vec!["race".to_owned()];
    assert_each_once(&race(&layers, [names(), names()], [names(), names()]).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_receives_of_many_channels_neither_lose_nor_duplicate_messages() {
    let site = Site::on(shared_servers());
    let layers = [connect(site.config()).await, connect(site.config()).await];
    let named = |kinds: [&str; 6], layer: usize| kinds.map(|kind| kind.replace('#', &layer.to_string())).to_vec();
    let channels = ["race", "race#?x", "race#?y", "race#!a", "race#!b", "other"];
    let sources = ["race", "race#?x", "race#?y", "race#!", "race#!", "other"];
    let got = race(&layers, [named(channels, 0), named(channels, 1)], [named(sources, 0), named(sources, 1)]);
    assert_each_once(&got.await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repeatedly_dropped_receives_get_all_messages_in_order() {
    let site = Site::on(shared_servers());
    let layer = connect(site.config()).await;
    let sender = connect(site.config()).await;
    let mut tasks = JoinSet::new();
    for place in 0..3 {
        let (layer, sender) = (layer.clone(), sender.clone());
        tasks.spawn(async move {
            for n in 0..1000 {
                sender.send(&format!("order?{place}"), numbered(n)).await.unwrap();
            }
        });
        tasks.spawn(async move {
            let mut moments = Moments::new(place);
            let source = format!("order?{place}");
            let mut next = 0;
            while next < 1000 {
                if let Some(delivery) = moments.cut(layer.receive(&[&source])).await {
                    assert_eq!(number(&delivery.unwrap()), next, "{source}");
                    next += 1;
                }
            }
        });
    }
    within(DEADLINE * 3, "all in order", tasks.join_all()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn short_lived_receivers_in_two_layers_neither_lose_nor_duplicate_messages() {
    let site = Site::on(shared_servers());
    let layers = [connect(site.config()).await, connect(site.config()).await];
    let got = Arc::new(Got::default());
    let mut tasks = JoinSet::new();
    for seed in 0..4 {
        let (layer, got) = (layers[seed % 2].clone(), got.clone());
        tasks.spawn(async move {
            let mut moments = Moments::new(seed as u64);
            while got.count.load(Ordering::Relaxed) < MESSAGES {
                let mut receiver = layer.receiver(&["go"]).unwrap();
                for _ in 0..5 {
                    let mut deliveries = Vec::new();
                    if let Some(result) = moments.cut(receiver.recv_many(&mut deliveries, 7)).await {
                        assert_eq!(result.unwrap(), deliveries.len());
                    }
                    for delivery in &deliveries {
                        got.add(delivery);
                    }
                }
            }
        });
    }
    for (place, layer) in layers.iter().enumerate() {
        tasks.spawn(send(layer.clone(), vec!["go".into()], place * MESSAGES / 2));
    }
    finish(tasks, &got).await;
    eventually("an empty channel", async || {
        let waits = layers[0].channel_statistics("go").await.unwrap().messages_pending;
        (waits == 0).then_some(())
    })
    .await;
    assert_each_once(&got);
}

/// How many blocking reads the server has begun.
async fn reads(server: &RedisServer) -> u64 {
    let stats: String = ask(&mut server.connection().await, redis::cmd("INFO").arg("commandstats")).await;
    let calls = stats.lines().find_map(|line| line.strip_prefix("cmdstat_blmpop:calls=")?.split(',').next());
    calls.map_or(0, |calls| calls.parse().unwrap())
}

#[tokio::test]
async fn two_readers_of_a_single_reader_channel_take_turns_without_a_flood_of_reads() {
    let server = RedisServer::start();
    let layer = Site::on(std::slice::from_ref(&server)).layer().await;
    let mut waiting = JoinSet::new();
    let mut receiver = layer.receiver(&["l!"]).unwrap();
    waiting.spawn(async move { receiver.recv().await });
    let reading = layer.clone();
    waiting.spawn(async move { reading.receive(&["l!"]).await });
    // Long enough for thousands of reads.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let begun = reads(&server).await;
    assert!((1..50).contains(&begun), "{begun} reads");
    let mut got = Vec::new();
    for n in 0..2 {
        layer.send("l!a", numbered(n)).await.unwrap();
        let next = within(DEADLINE, "a message", waiting.join_next()).await.unwrap();
        got.push(number(&next.unwrap().unwrap()));
    }
    assert_eq!(got, [0, 1]);
}

#[tokio::test]
async fn a_group_send_does_not_overtake_messages_in_a_send_queue() {
    let server = RedisServer::start();
    let proxy = Proxy::before(&server.url()).await;
    let layer = Site::at([proxy.url()]).layer().await;
    layer.group_add("g", "l!a").await.unwrap();
    let mut receiver = layer.receiver(&["l!"]).unwrap();
    // From the third send on the routes are known.
    for n in 0..4 {
        layer.group_send("g", numbered(n)).await.unwrap();
        assert_eq!(number(&within(DEADLINE, "a message", receiver.recv()).await.unwrap()), n);
    }
    proxy.stall();
    let mut under_way = Box::pin(layer.send("l!a", numbered(4)));
    assert!(interrupted(1, DEADLINE, &mut under_way).await.is_none(), "the answer does not come");
    let dropped = interrupted(1, DEADLINE, layer.send("l!a", numbered(5))).await;
    assert!(dropped.is_none(), "it waits for the previous send");
    let mut group = Box::pin(layer.group_send("g", numbered(6)));
    assert!(interrupted(1, DEADLINE, &mut group).await.is_none(), "the answer does not come");
    proxy.resume();
    within(DEADLINE, "both sends", async { tokio::try_join!(under_way, group) }).await.unwrap();
    for n in 4..7 {
        assert_eq!(number(&within(DEADLINE, "a message", receiver.recv()).await.unwrap()), n);
    }
}

#[tokio::test]
async fn a_group_send_without_an_answer_fails_if_the_last_ones_found_no_members() {
    let server = RedisServer::start();
    let proxy = Proxy::before(&server.url()).await;
    let site = Site::at([proxy.url()]);
    let (layer, other) = (site.layer().await, connect(site.config().hosts([server.url()])).await);
    for n in 0..3 {
        layer.group_send("joined-later", numbered(n)).await.unwrap();
    }
    other.group_add("joined-later", "l!a").await.unwrap();
    let mut events = layer.events();
    proxy.lose_answer_to(b"joined-later");
    let sent = within(DEADLINE, "the end of the send", layer.group_send("joined-later", numbered(3))).await;
    let error = sent.expect_err("the message did not reach the member");
    assert!(error.is_transient() && !error.may_have_run(), "{error:?}");
    event(&mut events, "the next connection", |event| matches!(event, Event::ShardUp { .. })).await;
    layer.group_send("joined-later", numbered(4)).await.unwrap();
    assert_eq!(take_number(&other, "l!").await, 4);
}
