//! Panics in the tasks of a layer. Each costs only the message or batch that was being handled.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use channel_layer::{ChannelLayer, Error, Event, Format};
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use metrics_util::debugging::DebuggingRecorder;
use parking_lot::Mutex;
use redis::AsyncCommands;
use tokio::runtime::Builder;

use super::tools::{Site, ask, connect, entries, event, now_ms, number, numbered, quarantined};
use crate::support::{Counts, DEADLINE, RedisServer, eventually, shared_servers, stored_formats, within};

const ROUND_TRIP: &str = "channel_layer_round_trip_seconds";
const DROPPED: &str = "channel_layer_dropped_total";

/// A metrics recorder that panics at the next metrics of the name for which it is armed. A recorder is foreign code
/// that runs in every task. The tests run all tasks of a layer on one thread.
#[derive(Default)]
struct Trap {
    /// The name, and how often it panics.
    armed: Mutex<Option<(&'static str, usize)>>,
    /// How often it has panicked.
    sprung: AtomicUsize,
    recorder: DebuggingRecorder,
}

impl Trap {
    fn arm(&self, metric: &'static str) {
        self.arm_repeatedly(metric, 1);
    }

    fn arm_repeatedly(&self, metric: &'static str, times: usize) {
        *self.armed.lock() = Some((metric, times));
    }

    fn is_armed(&self) -> bool {
        self.armed.lock().is_some()
    }

    fn spring(&self, key: &Key) {
        let mut armed = self.armed.lock();
        let Some((_, times)) = armed.as_mut().filter(|(metric, _)| *metric == key.name()) else { return };
        *times -= 1;
        armed.take_if(|(_, times)| *times == 0);
        drop(armed);
        self.sprung.fetch_add(1, Ordering::Relaxed);
        panic!("as the test wants it");
    }

    /// How often it has panicked since the last call.
    fn take_sprung(&self) -> usize {
        self.sprung.swap(0, Ordering::Relaxed)
    }

    /// What has been counted.
    fn counts(&self) -> Counts {
        Counts::of(&self.recorder)
    }
}

impl Recorder for Trap {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, metadata: &Metadata<'_>) -> Counter {
        self.spring(key);
        self.recorder.register_counter(key, metadata)
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        self.spring(key);
        Gauge::noop()
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        self.spring(key);
        Histogram::noop()
    }
}

#[tokio::test]
async fn a_panic_while_a_message_is_opened_costs_that_message() {
    let trap = Trap::default();
    let _recording = metrics::set_default_local_recorder(&trap);
    let server = &shared_servers()[0];
    let site = Site::on(std::slice::from_ref(server));
    let layer = site.layer().await;
    for n in 0..3 {
        layer.send("s?a", numbered(n)).await.unwrap();
    }
    trap.arm("channel_layer_queue_age_seconds");
    let mut receiver = layer.receiver(&["s?a"]).unwrap();
    for n in 1..3 {
        assert_eq!(number(&within(DEADLINE, "a message", receiver.recv()).await.unwrap()), n);
    }
    let mut connection = server.connection().await;
    eventually("the entry in quarantine", async || {
        (quarantined(&mut connection, &site).await.len() == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_panic_while_a_batch_is_sent_costs_that_batch() {
    let trap = Trap::default();
    let _recording = metrics::set_default_local_recorder(&trap);
    let site = Site::on(&shared_servers()[..1]);
    for format in stored_formats() {
        let layer = channel_layer::connect(site.config().format(format).prefix(crate::support::random_prefix())).await;
        let layer = layer.unwrap();
        trap.arm(ROUND_TRIP);
        let sent = within(DEADLINE, "an answer", layer.send("s?a", numbered(0))).await;
        assert!(matches!(&sent, Err(error @ Error::Redis { .. }) if error.may_have_run()), "{format:?}: {sent:?}");
        // The message had been sent before the panic.
        within(DEADLINE, "an answer", layer.send("s?a", numbered(1))).await.unwrap();
        for n in 0..2 {
            let delivery = within(DEADLINE, "a message", layer.receive(&["s?a"])).await.unwrap();
            assert_eq!(number(&delivery), n, "{format:?}");
        }
        layer.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_panic_of_a_reader_costs_its_read_and_is_announced() {
    let trap = Trap::default();
    let _recording = metrics::set_default_local_recorder(&trap);
    let layer = Site::on(&shared_servers()[..1]).layer().await;
    for n in 0..3 {
        layer.send("n", numbered(n)).await.unwrap();
    }
    let mut events = layer.events();
    trap.arm(ROUND_TRIP);
    let looked = within(DEADLINE, "an answer", layer.try_receive(&["n"])).await.unwrap();
    assert_eq!(number(&looked.unwrap()), 1);
    event(&mut events, "the loss", |event| matches!(event, Event::ReadInterrupted { .. })).await;
    assert_eq!(number(&within(DEADLINE, "a message", layer.receive(&["n"])).await.unwrap()), 2);
}

/// Waits until the quarantine has these entries.
async fn keeps(server: &RedisServer, site: &Site, expected: &[Vec<u8>]) {
    let mut connection = server.connection().await;
    eventually("the entries in quarantine", async || {
        (quarantined(&mut connection, site).await == expected).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_panic_at_an_entry_costs_that_entry() {
    let trap = Trap::default();
    let _recording = metrics::set_default_local_recorder(&trap);
    let server = &shared_servers()[0];
    let site = Site::on(std::slice::from_ref(server));
    let layer = site.layer().await;
    layer.group_add("g", "l!a").await.unwrap();
    layer.group_send("g", numbered(0)).await.unwrap();
    layer.send("l!a", numbered(1)).await.unwrap();
    let sent = entries(&mut server.connection().await, &site.list("l!")).await;
    // The first command of the reader that is no read asks for the members of the group.
    trap.arm(ROUND_TRIP);
    let mut receiver = layer.receiver(&["l!"]).unwrap();
    assert_eq!(number(&within(DEADLINE, "a message", receiver.recv()).await.unwrap()), 1);
    assert!(!trap.is_armed());
    keeps(server, &site, &sent[..1]).await;
    assert_eq!(trap.counts().dropped("undecodable"), 1);
    receiver.close().await.unwrap();
}

#[tokio::test]
async fn a_panic_while_drops_are_counted_costs_no_message_of_the_read() {
    let trap = Trap::default();
    let _recording = metrics::set_default_local_recorder(&trap);
    let server = &shared_servers()[0];
    let site = Site::on(std::slice::from_ref(server));
    let layer = site.layer().await;
    let unreadable = [b"no entry".to_vec(), b"nor this".to_vec()];
    let () = server.connection().await.rpush(site.list("s?a"), &unreadable[..]).await.unwrap();
    for n in 1..4 {
        layer.send("s?a", numbered(n)).await.unwrap();
    }
    trap.arm_repeatedly(DROPPED, usize::MAX);
    let mut receiver = layer.receiver(&["s?a"]).unwrap();
    for n in 1..4 {
        assert_eq!(number(&within(DEADLINE, "a message", receiver.recv()).await.unwrap()), n);
    }
    keeps(server, &site, &unreadable).await;
    assert!(trap.take_sprung() > 0);
    receiver.close().await.unwrap();
}

#[tokio::test]
async fn a_panic_while_received_messages_are_counted_costs_no_message() {
    let trap = Trap::default();
    let _recording = metrics::set_default_local_recorder(&trap);
    let site = Site::on(&shared_servers()[..1]);
    for format in [Format::Native, Format::PubSub] {
        let layer = channel_layer::connect(site.config().format(format)).await.unwrap();
        // A pub/sub layer uses no prefix for channels.
        let (source, channel) = (format!("{}!", site.prefix), format!("{}!a", site.prefix));
        let mut receiver = layer.receiver(&[&source]).unwrap();
        trap.arm_repeatedly("channel_layer_received_total", usize::MAX);
        layer.send(&channel, numbered(0)).await.unwrap();
        assert_eq!(number(&within(DEADLINE, "a message", receiver.recv()).await.unwrap()), 0, "{format:?}");
        layer.send(&channel, numbered(1)).await.unwrap();
        let mut deliveries = Vec::new();
        within(DEADLINE, "a message", receiver.recv_many(&mut deliveries, 10)).await.unwrap();
        assert_eq!(deliveries.iter().map(number).collect::<Vec<_>>(), [1], "{format:?}");
        receiver.close().await.unwrap();
        layer.send(&channel, numbered(2)).await.unwrap();
        assert_eq!(number(&within(DEADLINE, "a message", layer.receive(&[&source])).await.unwrap()), 2, "{format:?}");
        layer.send(&channel, numbered(3)).await.unwrap();
        let taken = eventually("a message", async || layer.try_receive(&[&source]).await.unwrap()).await;
        assert_eq!(number(&taken), 3, "{format:?}");
        assert!(trap.take_sprung() >= 4, "{format:?}: the count of each call panics");
    }
}

#[tokio::test]
async fn messages_count_as_dropped_after_a_panic_while_they_are_put_back() {
    let trap = Trap::default();
    let _recording = metrics::set_default_local_recorder(&trap);
    let layer = Site::on(&shared_servers()[..1]).layer().await;
    for n in 0..3 {
        layer.send("s?a", numbered(n)).await.unwrap();
    }
    let mut receiver = layer.receiver(&["s?a"]).unwrap();
    assert_eq!(number(&within(DEADLINE, "a message", receiver.recv()).await.unwrap()), 0);
    trap.arm(ROUND_TRIP);
    let closed = within(DEADLINE, "the end of the receiver", receiver.close()).await;
    assert!(matches!(&closed, Err(error) if error.may_have_run()), "{closed:?}");
    assert!(!trap.is_armed());
    assert_eq!(trap.counts().dropped("unconfirmed"), 2);
    // The server had run the call before the panic.
    for n in 1..3 {
        assert_eq!(number(&within(DEADLINE, "a message", layer.receive(&["s?a"])).await.unwrap()), n);
    }
}

#[tokio::test]
async fn messages_that_were_put_back_are_not_lost_by_a_panic_while_expired_ones_are_counted() {
    let trap = Trap::default();
    let _recording = metrics::set_default_local_recorder(&trap);
    let server = &shared_servers()[0];
    let site = Site::on(std::slice::from_ref(server));
    let (short, long) = (connect(site.config().expiry(Duration::from_millis(300))).await, site.layer().await);
    long.send("s?a", numbered(0)).await.unwrap();
    short.send("s?a", numbered(1)).await.unwrap();
    long.send("s?a", numbered(2)).await.unwrap();
    let mut connection = server.connection().await;
    let sent = now_ms(&mut connection).await;
    let mut receiver = long.receiver(&["s?a"]).unwrap();
    assert_eq!(number(&within(DEADLINE, "a message", receiver.recv()).await.unwrap()), 0);
    trap.arm(DROPPED);
    eventually("the expiry of a message", async || (now_ms(&mut connection).await > sent + 300).then_some(())).await;
    within(DEADLINE, "the end of the receiver", receiver.close()).await.unwrap();
    assert!(!trap.is_armed());
    assert_eq!(trap.counts().dropped("shard_down"), 0);
    assert_eq!(number(&within(DEADLINE, "a message", long.receive(&["s?a"])).await.unwrap()), 2);
}

#[test]
fn calls_end_with_the_runtime_though_counting_what_is_lost_panics() {
    let trap = Trap::default();
    let _recording = metrics::set_default_local_recorder(&trap);
    let runtime = || Builder::new_current_thread().enable_all().build().unwrap();
    let ended = runtime();
    let receiver = ended.block_on(async {
        let layer = Site::on(&shared_servers()[..1]).layer().await;
        for n in 0..3 {
            layer.send("s?a", numbered(n)).await.unwrap();
        }
        let mut receiver = layer.receiver(&["s?a"]).unwrap();
        assert_eq!(number(&within(DEADLINE, "a message", receiver.recv()).await.unwrap()), 0);
        receiver
    });
    trap.arm(DROPPED);
    drop(ended);
    assert!(!trap.is_armed());
    let closed = runtime().block_on(async { within(DEADLINE, "the end of the receiver", receiver.close()).await });
    assert!(matches!(closed, Err(Error::Redis { .. })), "two messages are lost: {closed:?}");
}

#[tokio::test]
async fn a_panic_between_the_two_steps_of_a_read_is_announced() {
    let trap = Trap::default();
    let _recording = metrics::set_default_local_recorder(&trap);
    let server = RedisServer::start();
    let site = Site::on(std::slice::from_ref(&server));
    let layer = channel_layer::connect(site.config().format(Format::AsgiRedis)).await.unwrap();
    let mut connection = server.connection().await;
    let list = |channel| format!("{}{channel}", site.prefix);
    layer.send("other", numbered(1)).await.unwrap();
    let mut events = layer.events();
    let reader = layer.clone();
    let reading = tokio::spawn(async move { reader.receive(&["n"]).await });
    eventually("the blocking read", async || {
        let clients: String = ask(&mut connection.clone(), redis::cmd("INFO").arg("clients")).await;
        clients.contains("blocked_clients:1").then_some(())
    })
    .await;
    // The read takes the key of the message first, and then the message under it.
    trap.arm(ROUND_TRIP);
    let () = connection.rename(list("other"), list("n")).await.unwrap();
    event(&mut events, "the loss", |event| matches!(event, Event::ReadInterrupted { .. })).await;
    assert!(!trap.is_armed());
    layer.send("n", numbered(2)).await.unwrap();
    let delivery = within(DEADLINE, "a message", reading).await.unwrap().unwrap();
    assert_eq!(number(&delivery), 2);
}

#[tokio::test]
async fn a_panic_of_the_quarantine_writer_costs_one_entry() {
    let trap = Trap::default();
    let _recording = metrics::set_default_local_recorder(&trap);
    let server = &shared_servers()[0];
    let site = Site::on(std::slice::from_ref(server));
    let layer = site.layer().await;
    let mut connection = server.connection().await;
    let mut receiver = layer.receiver(&["s?a"]).unwrap();
    let reading = tokio::spawn(async move { receiver.recv().await });
    trap.arm(ROUND_TRIP);
    for n in 0..2 {
        let () = connection.rpush(site.list("s?a"), format!("no entry {n}")).await.unwrap();
        eventually("the panic", async || (!trap.is_armed()).then_some(())).await;
    }
    eventually("the second entry in quarantine", async || {
        let kept = quarantined(&mut server.connection().await, &site).await;
        kept.last().is_some_and(|last| last == b"no entry 1").then_some(())
    })
    .await;
    reading.abort();
}

#[tokio::test]
async fn a_panic_of_the_counters_costs_the_counts_of_one_write() {
    let trap = Trap::default();
    let _recording = metrics::set_default_local_recorder(&trap);
    let layer = Site::on(&shared_servers()[..1]).layer().await;
    // More channels than one call counts. The panic comes when the server has run the first call.
    let names: Vec<_> = (0..300).map(|n| format!("n{n}")).collect();
    let messages: Vec<_> = names.iter().map(|name| (&**name, numbered(0))).collect();
    assert!(layer.send_many(&messages).await.iter().all(Result::is_ok));
    trap.arm(ROUND_TRIP);
    let counted = within(DEADLINE, "an answer", layer.global_statistics()).await.unwrap().messages_count;
    assert!(!trap.is_armed());
    assert!((1..300).contains(&counted), "{counted}");
    layer.send("n0", numbered(1)).await.unwrap();
    let statistics = within(DEADLINE, "an answer", layer.global_statistics()).await.unwrap();
    assert_eq!(statistics.messages_count, counted + 1);
}

#[tokio::test]
async fn a_panic_of_the_supervisor_of_a_server_does_not_end_it() {
    let trap = Trap::default();
    let _recording = metrics::set_default_local_recorder(&trap);
    let server = RedisServer::start();
    let layer = connect(Site::on(std::slice::from_ref(&server)).config()).await;
    let mut events = layer.events();
    trap.arm("channel_layer_reconnects_total");
    for _ in 0..2 {
        let () = ask(&mut server.connection().await, redis::cmd("CLIENT").arg(&["KILL", "TYPE", "normal"])).await;
        event(&mut events, "the end of the outage", |event| matches!(event, Event::ShardUp { .. })).await;
        eventually("the panic", async || (!trap.is_armed()).then_some(())).await;
    }
    layer.send("n", numbered(1)).await.unwrap();
}

#[tokio::test]
async fn a_panic_of_a_pubsub_layer_costs_one_batch_or_one_message() {
    let trap = Trap::default();
    let _recording = metrics::set_default_local_recorder(&trap);
    let site = Site::on(&shared_servers()[..1]);
    let layer = channel_layer::connect(site.config().format(Format::PubSub)).await.unwrap();
    // The format publishes under the name of the channel, which has no prefix.
    let (source, channel) = (format!("{}!", site.prefix), format!("{}!a", site.prefix));
    let mut receiver = layer.receiver(&[&source]).unwrap();
    trap.arm(ROUND_TRIP);
    let sent = within(DEADLINE, "an answer", layer.send(&channel, numbered(0))).await;
    assert!(matches!(&sent, Err(error @ Error::Redis { .. }) if error.may_have_run()), "{sent:?}");
    assert_eq!(number(&within(DEADLINE, "what was sent before the panic", receiver.recv()).await.unwrap()), 0);
    layer.send(&channel, numbered(1)).await.unwrap();
    assert_eq!(number(&within(DEADLINE, "a message", receiver.recv()).await.unwrap()), 1);
    // An unreadable message is counted when it arrives.
    trap.arm(DROPPED);
    let mut connection = shared_servers()[0].connection().await;
    let reached: i64 = connection.publish(&channel, "no message").await.unwrap();
    assert_eq!(reached, 1);
    eventually("the panic", async || (!trap.is_armed()).then_some(())).await;
    layer.send(&channel, numbered(2)).await.unwrap();
    assert_eq!(number(&within(DEADLINE, "a message", receiver.recv()).await.unwrap()), 2);
}
