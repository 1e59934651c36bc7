//! Panics in the tasks of a layer. Each costs only the message or batch that was being handled.

use channel_layer::{ChannelLayer, Error, Event, Format};
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use parking_lot::Mutex;
use redis::AsyncCommands;

use super::tools::{Site, ask, connect, event, number, numbered, quarantined};
use crate::support::{DEADLINE, RedisServer, eventually, shared_servers, within};

const ROUND_TRIP: &str = "channel_layer_round_trip_seconds";

/// A metrics recorder that panics once, at the next metric of the name for which it is armed. A recorder is foreign code that
/// runs in every task. The tests run all tasks of a layer on one thread.
#[derive(Default)]
struct Trap(Mutex<Option<&'static str>>);

impl Trap {
    fn arm(&self, metric: &'static str) {
        *self.0.lock() = Some(metric);
    }

    fn is_armed(&self) -> bool {
        self.0.lock().is_some()
    }

    fn spring(&self, key: &Key) {
        let sprung = self.0.lock().take_if(|armed| *armed == key.name());
        assert!(sprung.is_none(), "as the test wants it");
    }
}

impl Recorder for Trap {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        self.spring(key);
        Counter::noop()
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
    for format in [Format::Native, Format::ChannelsRedis, Format::AsgiRedis] {
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

#[tokio::test]
async fn a_panic_at_an_entry_costs_that_entry() {
    let trap = Trap::default();
    let _recording = metrics::set_default_local_recorder(&trap);
    let server = &shared_servers()[0];
    let site = Site::on(std::slice::from_ref(server));
    let layer = site.layer().await;
    let () = server.connection().await.rpush(site.list("s?a"), &["no entry", "nor this"]).await.unwrap();
    layer.send("s?a", numbered(1)).await.unwrap();
    trap.arm("channel_layer_dropped_total");
    let mut receiver = layer.receiver(&["s?a"]).unwrap();
    assert_eq!(number(&within(DEADLINE, "a message", receiver.recv()).await.unwrap()), 1);
    assert!(!trap.is_armed());
    receiver.close().await.unwrap();
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
    trap.arm("channel_layer_dropped_total");
    let mut connection = shared_servers()[0].connection().await;
    let reached: i64 = connection.publish(&channel, "no message").await.unwrap();
    assert_eq!(reached, 1);
    eventually("the panic", async || (!trap.is_armed()).then_some(())).await;
    layer.send(&channel, numbered(2)).await.unwrap();
    assert_eq!(number(&within(DEADLINE, "a message", receiver.recv()).await.unwrap()), 2);
}
