//! A master is killed under load. A replica is promoted, and no process has to be restarted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use channel_layer::{ChannelLayer, Config, Event, FallbackLayer, Mode, PubSubLayer, Receiver, RedisLayer, message};
use parking_lot::Mutex;
use tokio::sync::broadcast;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::tools::{ask, event, number, numbered};
use crate::support::{DEADLINE, Replicated, eventually, python_formats, random_prefix, within};

/// Longest time of a failover, from the kill until all messages arrive again.
const FAILOVER: Duration = Duration::from_secs(15);

/// Longest time from the acknowledgement of a message until it has reached the replicas or a reader.
const IN_FLIGHT: Duration = Duration::from_secs(1);

/// The channels that are read. Messages to the group arrive on the last one.
const READ: [&str; 3] = ["n", "s?a", "l!"];
const ARRIVING: [&str; 4] = ["n", "s?a", "l!a", MEMBER];
const GROUP: &str = "g";
const MEMBER: &str = "l!g";

/// A sender, and the channel on which its messages arrive.
type Stream = (i64, String);
/// The acknowledged numbers, with the time of the acknowledgement and the mode of the layer then.
type Acknowledged = BTreeMap<i64, (Instant, Mode)>;

/// Sends numbers from several layers to every channel and the group. Each number is sent after the previous one was
/// acknowledged.
struct Load {
    senders: Vec<(Stream, JoinHandle<Acknowledged>)>,
    stop: CancellationToken,
}

/// Reads all messages in the order of their arrival.
struct Collector {
    layer: Arc<dyn ChannelLayer>,
    arrived: Arc<Mutex<BTreeMap<Stream, Vec<i64>>>>,
    stop: CancellationToken,
    reading: JoinHandle<()>,
}

fn config(service: &Replicated) -> Config {
    Config::new()
        .sentinels(service.sentinel_hosts())
        .services(["messages"])
        .prefix(random_prefix())
        .stats_prefix(format!("{}-meta:", random_prefix()))
        .capacity(100_000)
        .blocking_timeout(Duration::from_secs(1))
        .return_after(Duration::from_millis(200))
}

impl Load {
    fn of<'l>(layers: impl IntoIterator<Item = &'l Arc<dyn ChannelLayer>>) -> Self {
        let stop = CancellationToken::new();
        let mut senders = Vec::new();
        for (sender, layer) in (0..).zip(layers) {
            for channel in ARRIVING {
                let sending = tokio::spawn(send_all(layer.clone(), sender, channel, stop.clone()));
                senders.push(((sender, channel.to_owned()), sending));
            }
        }
        Self { senders, stop }
    }

    async fn end(self) -> BTreeMap<Stream, Acknowledged> {
        self.stop.cancel();
        let mut all = BTreeMap::new();
        for (stream, sending) in self.senders {
            all.insert(stream, within(DEADLINE, "a sender", sending).await.unwrap());
        }
        all
    }
}

async fn send_all(
    layer: Arc<dyn ChannelLayer>,
    sender: i64,
    channel: &'static str,
    stop: CancellationToken,
) -> Acknowledged {
    let mut acknowledged = Acknowledged::new();
    for number in 0.. {
        if stop.is_cancelled() {
            break;
        }
        let message = message! { "number": number, "sender": sender };
        let sent = match channel {
            MEMBER => layer.group_send(GROUP, message).await,
            channel => layer.send(channel, message).await,
        };
        // Without a master a send may fail. A real sender would wait before the next attempt.
        let pause = if sent.is_ok() { 1 } else { 10 };
        if sent.is_ok() {
            acknowledged.insert(number, (Instant::now(), *layer.mode().borrow()));
        }
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
    acknowledged
}

impl Collector {
    fn of(layer: &Arc<dyn ChannelLayer>) -> Self {
        let (arrived, stop) = (Arc::default(), CancellationToken::new());
        let receiver = layer.receiver(&READ).unwrap();
        let reading = tokio::spawn(read_all(receiver, Arc::clone(&arrived), stop.clone()));
        Self { layer: layer.clone(), arrived, stop, reading }
    }

    /// Waits until further messages of every stream of `senders` have arrived.
    async fn more(&self, senders: &[i64], what: &str) {
        let count = || {
            let arrived = self.arrived.lock();
            let streams = senders.iter().flat_map(|sender| ARRIVING.map(|channel| (*sender, channel.to_owned())));
            streams.map(|stream| arrived.get(&stream).map_or(0, Vec::len)).collect::<Vec<_>>()
        };
        let before = count();
        let grown = async || count().iter().zip(&before).all(|(now, before)| *now > before + 20).then_some(());
        eventually(what, grown).await;
    }

    /// Returns the received messages, including those that still wait.
    async fn end(self) -> BTreeMap<Stream, Vec<i64>> {
        self.stop.cancel();
        within(DEADLINE, "a reader", self.reading).await.unwrap();
        while let Some(delivery) = self.layer.try_receive(&READ).await.unwrap() {
            note(&self.arrived, &delivery);
        }
        std::mem::take(&mut *self.arrived.lock())
    }
}

async fn read_all(mut receiver: Receiver, arrived: Arc<Mutex<BTreeMap<Stream, Vec<i64>>>>, stop: CancellationToken) {
    while let Some(result) = stop.run_until_cancelled(receiver.recv()).await {
        // An error reports the outage of the master.
        if let Ok(delivery) = result {
            note(&arrived, &delivery);
        }
    }
    receiver.close().await.unwrap();
}

fn note(arrived: &Mutex<BTreeMap<Stream, Vec<i64>>>, delivery: &channel_layer::Delivery) {
    let sender = delivery.message.int("sender").unwrap();
    arrived.lock().entry((sender, delivery.channel.to_string())).or_default().push(number(delivery));
}

/// Checks that all messages arrived in order and once. `may_be_lost` decides by sender and time of the acknowledgement
/// whether a message may be missing.
fn check(
    sent: &BTreeMap<Stream, Acknowledged>,
    arrived: &BTreeMap<Stream, Vec<i64>>,
    may_be_lost: impl Fn(i64, Instant) -> bool,
) {
    for (stream, acknowledged) in sent {
        let numbers = arrived.get(stream).map_or(&[][..], Vec::as_slice);
        let disorder = numbers.windows(2).position(|pair| pair[0] >= pair[1]);
        let around = disorder.map(|at| &numbers[at.saturating_sub(5)..numbers.len().min(at + 7)]);
        assert_eq!(around, None, "{stream:?}: a message came twice or out of order");
        let once: BTreeSet<_> = numbers.iter().collect();
        let lost: Vec<_> = acknowledged.iter().filter(|(number, _)| !once.contains(number)).collect();
        let unexplained = lost.iter().filter(|(_, (at, _))| !may_be_lost(stream.0, *at)).count();
        assert_eq!(unexplained, 0, "{stream:?}: {} of {} are lost", lost.len(), acknowledged.len());
    }
}

/// Sorts the received messages so that those sent before the outage come first. Messages that waited on the server when
/// it became unreachable arrive after messages that were sent during the outage.
fn around_an_outage(
    sent: &BTreeMap<Stream, Acknowledged>,
    mut arrived: BTreeMap<Stream, Vec<i64>>,
) -> BTreeMap<Stream, Vec<i64>> {
    for (stream, numbers) in &mut arrived {
        // The first message that was acknowledged in the outage may have been on its way to the server when the outage
        // began. Messages without an acknowledgement before it may wait on the server too.
        let border = sent[stream].iter().find(|(_, (_, mode))| *mode != Mode::Remote);
        let border = border.map_or(i64::MAX, |(number, _)| *number);
        // The sort is stable: messages on one side of the border keep their order.
        numbers.sort_by_key(|number| number.cmp(&border));
    }
    arrived
}

/// Waits until every replica has all data that was written so far.
async fn replicated(service: &Replicated) {
    let mut master = service.servers[0].connection().await;
    let () = ask(&mut master, redis::cmd("SET").arg(&["a mark", "behind everything"])).await;
    let replicas = service.servers.len() - 1;
    let held: usize = ask(&mut master, redis::cmd("WAIT").arg(replicas).arg(10_000)).await;
    assert_eq!(held, replicas);
}

/// Returns the address of the only server of the layer.
async fn server(layer: &Arc<dyn ChannelLayer>) -> Option<String> {
    layer.health().await.shards.remove(0).server
}

/// Waits until messages are sent to the server again.
async fn remote(layer: &Arc<dyn ChannelLayer>) {
    let mut mode = layer.mode();
    within(FAILOVER, "the return to the server", mode.wait_for(|mode| *mode == Mode::Remote)).await.unwrap();
}

fn is_down(event: &Event) -> bool {
    matches!(event, Event::ShardDown { shard: 0, .. })
}

fn is_up(event: &Event) -> bool {
    matches!(event, Event::ShardUp { shard: 0 })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_master_is_replaced_under_load_without_loss_of_replicated_messages() {
    let mut service = Replicated::start().await;
    let config = config(&service);
    let connect = async || Arc::new(RedisLayer::connect(config.clone()).await.unwrap()) as Arc<dyn ChannelLayer>;
    let layers = [connect().await, connect().await];
    let [writer, reader] = &layers;
    reader.group_add(GROUP, MEMBER).await.unwrap();
    replicated(&service).await;
    let mut events = [layers[0].events(), layers[1].events()];
    let (load, collector) = (Load::of([writer]), Collector::of(reader));
    collector.more(&[0], "some load").await;
    let before = server(writer).await;

    service.servers[0].stop();
    let killed = Instant::now();
    for events in &mut events {
        event(events, "the loss", is_down).await;
        event(events, "the new master", is_up).await;
    }
    assert!(killed.elapsed() < FAILOVER, "it took {:?}", killed.elapsed());
    collector.more(&[0], "load through the new master").await;
    assert_ne!(server(writer).await, before);
    assert_eq!(server(writer).await, server(reader).await);

    let sent = load.end().await;
    check(&sent, &collector.end().await, |_, at| at < killed && killed.duration_since(at) < IN_FLIGHT);
}

/// Two processes that keep working on their own until there is a new master. One of them reads.
struct Publishing {
    layers: [Arc<dyn ChannelLayer>; 2],
    events: [broadcast::Receiver<Event>; 2],
    load: Load,
    collector: Collector,
}

impl Publishing {
    async fn start(config: Config) -> Self {
        let connect = async || Arc::new(PubSubLayer::connect(config.clone()).await.unwrap()) as Arc<dyn ChannelLayer>;
        let layers = [connect().await, connect().await];
        let reader = &layers[1];
        let collector = Collector::of(reader);
        reader.group_add(GROUP, MEMBER).await.unwrap();
        let events = [layers[0].events(), layers[1].events()];
        let load = Load::of(&layers);
        collector.more(&[0, 1], "some load").await;
        Self { layers, events, load, collector }
    }

    /// Checks that both processes report the outage with its reason.
    async fn are_alone(&mut self) {
        for (layer, events) in self.layers.iter().zip(&mut self.events) {
            event(events, "the loss of messages", |event| matches!(event, Event::SubscriptionLost { .. })).await;
            event(events, "the fallback", |event| matches!(event, Event::LocalOnly { .. })).await;
            assert_eq!(*layer.mode().borrow(), Mode::LocalOnly);
            let health = layer.health().await;
            assert!(health.fallback_mode && health.shards[0].reason.is_some(), "{health:?}");
        }
        // Messages of the reading process arrive meanwhile.
        self.collector.more(&[1], "messages of its own process").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn published_messages_follow_a_failover_under_load() {
    let mut service = Replicated::start().await;
    let config = config(&service);
    let mut all = Vec::new();
    // Both pairs use the same server and different names.
    for sharded in [false, true] {
        all.push(Publishing::start(config.clone().sharded_pubsub(sharded)).await);
    }
    let before = server(&all[0].layers[0]).await;

    service.servers[0].stop();
    let killed = Instant::now();
    for publishing in &mut all {
        publishing.are_alone().await;
    }
    for layer in all.iter().flat_map(|publishing| &publishing.layers) {
        remote(layer).await;
        assert_ne!(server(layer).await, before);
    }
    let returned = Instant::now();
    assert!(killed.elapsed() < FAILOVER, "it took {:?}", killed.elapsed());
    for Publishing { load, collector, .. } in all {
        collector.more(&[0, 1], "load through the new master").await;
        let sent = load.end().await;
        assert!(sent.values().all(|acknowledged| acknowledged.values().any(|(at, _)| *at > returned)));
        let settled = |at: Instant| at < killed && killed.duration_since(at) > IN_FLIGHT;
        check(&sent, &collector.end().await, |sender, at| match sender {
            // During the outage, a message from the other process does not arrive.
            0 => !settled(at) && at < returned,
            // A message that is sent in the reading process arrives during the outage.
            _ => !settled(at) && at < killed + IN_FLIGHT,
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_layer_with_a_fallback_follows_a_failover_under_load() {
    let mut service = Replicated::start().await;
    let layer = Arc::new(FallbackLayer::connect(config(&service)).await.unwrap()) as Arc<dyn ChannelLayer>;
    layer.group_add(GROUP, MEMBER).await.unwrap();
    replicated(&service).await;
    let mut events = layer.events();
    let (load, collector) = (Load::of([&layer]), Collector::of(&layer));
    collector.more(&[0], "some load").await;
    let before = server(&layer).await;

    let killed = Instant::now();
    service.servers[0].stop();
    event(&mut events, "the fallback", |event| matches!(event, Event::LocalOnly { .. })).await;
    assert!(layer.health().await.fallback_mode);
    collector.more(&[0], "load in the process").await;
    remote(&layer).await;
    assert!(killed.elapsed() < FAILOVER, "it took {:?}", killed.elapsed());
    assert_ne!(server(&layer).await, before);
    collector.more(&[0], "load through the new master").await;

    let sent = load.end().await;
    let arrived = around_an_outage(&sent, collector.end().await);
    check(&sent, &arrived, |_, at| at < killed + IN_FLIGHT && at + IN_FLIGHT > killed);
}

#[tokio::test]
async fn layers_in_the_formats_of_python_follow_a_failover() {
    let mut service = Replicated::start().await;
    let config = config(&service);
    let mut layers = Vec::new();
    for format in python_formats() {
        let config = config.clone().prefix(random_prefix()).format(format);
        let layer = channel_layer::connect(config).await.unwrap();
        layer.group_add("g", "l!a").await.unwrap();
        layer.group_send("g", numbered(0)).await.unwrap();
        assert_eq!(number(&within(DEADLINE, "a message", layer.receive(&["l!"])).await.unwrap()), 0);
        layers.push(layer);
    }
    replicated(&service).await;
    service.servers[0].stop();
    for layer in layers {
        within(FAILOVER, "a send through another master", async {
            while layer.group_send("g", numbered(1)).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        // The reader may not have noticed the outage yet, and reports it once.
        let read = eventually("a read from another master", async || layer.receive(&["l!"]).await.ok()).await;
        assert_eq!(number(&read), 1);
    }
}
