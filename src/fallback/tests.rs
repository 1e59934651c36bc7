//! Messages and memberships of a `FallbackLayer` across outages of a remote layer whose faults are simulated.

// In a test, the panic of a failed `unwrap` is the report of the failure.
#![allow(clippy::unwrap_used)]

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::broadcast;
use tokio::time::{Instant, sleep, timeout};

use super::FallbackLayer;
use crate::config::Config;
use crate::drops;
use crate::error::{Error, Result};
use crate::health::Health;
use crate::layer::{ChannelLayer, Delivery, Event, Mode, Receiver, Statistics};
use crate::memory::MemoryLayer;
use crate::message;
use crate::message::Message;
use crate::name::ChannelName;
use crate::redis::node::fault::Fault;
use crate::supervise::trap::{BrokenRecorder, CallingRecorder};

const MEMBER: &str = "push.proc!ada";
const SOURCE: &str = "push.proc!";
const GROUP_EXPIRY: Duration = Duration::from_mins(10);
/// Longer than any background work of the layer.
const LONG: Duration = Duration::from_mins(1);

/// A server in memory. During an outage nothing can be sent to it; its messages can still be read.
struct Remote {
    memory: MemoryLayer,
    unreachable: AtomicBool,
    /// Whether the server is unreachable and `outage` does not know it yet.
    unnoticed: AtomicBool,
    /// Whether sends do not end.
    stalled: AtomicBool,
    /// A group whose members the server refuses, although it is reachable.
    refused: Mutex<Option<&'static str>>,
    /// The method whose next call panics.
    panics: Mutex<Option<&'static str>>,
    events: broadcast::Sender<Event>,
}

fn outage() -> Error {
    Error::Redis { shard: 0, cause: Box::new(Fault::unsent("it is unreachable").at("127.0.0.1:6379")) }
}

impl Remote {
    fn new(config: &Config) -> Self {
        let memory = MemoryLayer::with_config(config).unwrap();
        let (events, _) = broadcast::channel(16);
        let [unreachable, unnoticed, stalled] = [false; 3].map(AtomicBool::new);
        let (refused, panics) = (Mutex::default(), Mutex::default());
        Self { memory, unreachable, unnoticed, stalled, refused, panics, events }
    }

    fn check(&self) -> Result<()> {
        let is_unreachable = [&self.unreachable, &self.unnoticed].iter().any(|flag| flag.load(Ordering::SeqCst));
        if is_unreachable { Err(outage()) } else { Ok(()) }
    }

    async fn check_send(&self) -> Result<()> {
        if self.stalled.load(Ordering::SeqCst) {
            pending::<()>().await;
        }
        self.check()
    }

    fn check_group(&self, group: &str) -> Result<()> {
        self.check()?;
        if *self.refused.lock() == Some(group) {
            let fault = Fault::busy("it lacks memory").at("127.0.0.1:6379");
            return Err(Error::Redis { shard: 0, cause: Box::new(fault) });
        }
        Ok(())
    }

    fn spring(&self, method: &'static str) {
        assert!(self.panics.lock().take_if(|panics| *panics == method).is_none(), "injected by the test");
    }

    async fn lose_data(&self) {
        self.memory.flush().await.unwrap();
        self.events.send(Event::DataLost { shard: 0 }).unwrap();
    }
}

#[async_trait]
impl ChannelLayer for Remote {
    async fn send(&self, channel: &str, message: Message) -> Result<()> {
        self.check_send().await?;
        self.memory.send(channel, message).await
    }

    async fn receive(&self, channels: &[&str]) -> Result<Delivery> {
        self.memory.receive(channels).await
    }

    async fn try_receive(&self, channels: &[&str]) -> Result<Option<Delivery>> {
        self.memory.try_receive(channels).await
    }

    fn receiver(&self, channels: &[&str]) -> Result<Receiver> {
        self.memory.receiver(channels)
    }

    async fn new_channel(&self, pattern: &str) -> Result<ChannelName> {
        self.check()?;
        self.memory.new_channel(pattern).await
    }

    async fn group_add(&self, group: &str, channel: &str) -> Result<()> {
        self.check()?;
        self.memory.group_add(group, channel).await
    }

    async fn group_add_for(&self, group: &str, channel: &str, lasts: Duration) -> Result<()> {
        self.check_group(group)?;
        self.spring("group_add_for");
        self.memory.group_add_for(group, channel, lasts).await
    }

    async fn group_discard(&self, group: &str, channel: &str) -> Result<()> {
        self.check_group(group)?;
        self.memory.group_discard(group, channel).await
    }

    async fn group_channels(&self, group: &str) -> Result<Vec<ChannelName>> {
        self.check()?;
        self.spring("group_channels");
        self.memory.group_channels(group).await
    }

    async fn group_send(&self, group: &str, message: Message) -> Result<()> {
        self.check_send().await?;
        self.memory.group_send(group, message).await
    }

    async fn flush(&self) -> Result<()> {
        self.memory.flush().await
    }

    async fn global_statistics(&self) -> Result<Statistics> {
        self.check()?;
        self.memory.global_statistics().await
    }

    async fn channel_statistics(&self, channel: &str) -> Result<Statistics> {
        self.check()?;
        self.memory.channel_statistics(channel).await
    }

    async fn close(&self) -> Result<()> {
        self.memory.close().await
    }

    fn group_expiry(&self) -> Duration {
        self.memory.group_expiry()
    }

    fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    async fn health(&self) -> Health {
        self.spring("health");
        self.memory.health().await
    }

    fn outage(&self) -> Option<usize> {
        self.spring("outage");
        self.unreachable.load(Ordering::SeqCst).then_some(0)
    }
}

fn layer() -> FallbackLayer<Remote> {
    let config = Config::new().group_expiry(GROUP_EXPIRY).expiry(LONG * 100);
    FallbackLayer::new(Remote::new(&config), &config).unwrap()
}

/// Waits until the layer is in mode `expected`.
async fn mode(layer: &FallbackLayer<Remote>, expected: Mode) {
    let mut modes = layer.mode();
    timeout(LONG, modes.wait_for(|mode| *mode == expected)).await.unwrap().unwrap();
}

async fn go_down(layer: &FallbackLayer<Remote>) {
    layer.remote().unreachable.store(true, Ordering::SeqCst);
    mode(layer, Mode::LocalOnly).await;
}

async fn come_back(layer: &FallbackLayer<Remote>) {
    layer.remote().unreachable.store(false, Ordering::SeqCst);
    mode(layer, Mode::Remote).await;
}

async fn send(layer: &FallbackLayer<Remote>, number: i64) {
    layer.send(MEMBER, message! { "number": number }).await.unwrap();
}

fn number(delivery: Delivery) -> i64 {
    delivery.message.int("number").unwrap()
}

async fn members(layer: &impl ChannelLayer) -> Vec<ChannelName> {
    layer.group_channels("room").await.unwrap()
}

/// A layer in its second outage: 1 was sent in the first one, 2 between them, and 3 in the second one.
async fn in_the_second_outage() -> FallbackLayer<Remote> {
    let layer = layer();
    go_down(&layer).await;
    send(&layer, 1).await;
    come_back(&layer).await;
    send(&layer, 2).await;
    go_down(&layer).await;
    send(&layer, 3).await;
    layer
}

#[tokio::test(start_paused = true)]
async fn messages_of_an_earlier_outage_precede_later_remote_messages() {
    let layer = in_the_second_outage().await;
    let mut receiver = layer.receiver(&[SOURCE]).unwrap();
    for expected in 1..=3 {
        assert_eq!(number(receiver.recv().await.unwrap()), expected);
    }
    let layer = in_the_second_outage().await;
    for expected in 1..=3 {
        assert_eq!(number(layer.receive(&[SOURCE]).await.unwrap()), expected);
    }
    let layer = in_the_second_outage().await;
    for expected in 1..=3 {
        assert_eq!(number(layer.try_receive(&[SOURCE]).await.unwrap().unwrap()), expected);
    }
    assert!(layer.try_receive(&[SOURCE]).await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_group_message_that_was_certainly_not_sent_stays_in_this_process() {
    for many in [false, true] {
        let layer = layer();
        layer.group_add("room", MEMBER).await.unwrap();
        layer.remote().unnoticed.store(true, Ordering::SeqCst);
        let message = message! { "number": 1 };
        let sent = if many {
            layer.group_send_many(&[("room", message)]).await.remove(0)
        } else {
            layer.group_send("room", message).await
        };
        sent.unwrap();
        let mut receiver = layer.receiver(&[SOURCE]).unwrap();
        assert_eq!(number(timeout(LONG, receiver.recv()).await.unwrap().unwrap()), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_requeued_message_ignores_the_capacity_though_the_outage_is_not_noticed_before() {
    let layer = layer();
    go_down(&layer).await;
    let message = |number: i64| message! { "number": number };
    while layer.send(MEMBER, message(0)).await.is_ok() {}
    let full = layer.send(MEMBER, message(0)).await;
    assert!(matches!(full, Err(Error::ChannelFull { .. })), "{full:?}");
    come_back(&layer).await;
    layer.remote().unnoticed.store(true, Ordering::SeqCst);
    let requeued = layer.requeue(&[(MEMBER, message(1)), ("other", message(2))]).await;
    assert!(matches!(requeued[..], [Ok(()), Ok(())]), "{requeued:?}");
}

#[tokio::test(start_paused = true)]
async fn messages_that_a_dropped_call_has_not_begun_to_send_count_as_dropped() {
    // The remote layer sends one message at a time, as every layer with the default implementation.
    let layer = layer();
    layer.remote().stalled.store(true, Ordering::SeqCst);
    let messages = |to| [1, 2, 3].map(|number| (to, message! { "number": number }));
    for is_group in [false, true] {
        let recorder = metrics_util::debugging::DebuggingRecorder::new();
        let _recording = metrics::set_default_local_recorder(&recorder);
        let sent = if is_group {
            timeout(LONG, layer.group_send_many(&messages("room"))).await
        } else {
            timeout(LONG, layer.send_many(&messages(MEMBER))).await
        };
        assert!(sent.is_err(), "{sent:?}");
        // The stalled send would count the first message.
        assert_eq!(drops::recorded(&recorder), [("shard_down".to_owned(), 2)]);
    }
}

#[tokio::test(start_paused = true)]
async fn the_call_that_notices_an_outage_succeeds() {
    for call in 0..7 {
        let layer = layer();
        layer.remote().unnoticed.store(true, Ordering::SeqCst);
        let noticed = match call {
            0 => layer.new_channel("reply?").await.map(drop),
            1 => layer.group_add("room", MEMBER).await,
            2 => layer.group_discard("room", MEMBER).await,
            3 => layer.group_channels("room").await.map(drop),
            4 => layer.global_statistics().await.map(drop),
            5 => layer.channel_statistics(MEMBER).await.map(drop),
            _ => layer.send(MEMBER, message! {}).await,
        };
        noticed.unwrap();
        assert_eq!(*layer.mode().borrow(), Mode::LocalOnly, "call {call}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_membership_replayed_after_data_loss_keeps_its_end() {
    let layer = layer();
    let end = Instant::now() + GROUP_EXPIRY;
    layer.group_add("room", MEMBER).await.unwrap();
    sleep(GROUP_EXPIRY / 2).await;
    layer.remote().lose_data().await;
    sleep(LONG).await;
    assert_eq!(members(layer.remote()).await, [MEMBER]);
    tokio::time::sleep_until(end).await;
    assert!(members(layer.remote()).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_membership_made_in_an_outage_keeps_its_end() {
    let layer = layer();
    go_down(&layer).await;
    let end = Instant::now() + GROUP_EXPIRY;
    layer.group_add("room", MEMBER).await.unwrap();
    sleep(GROUP_EXPIRY / 2).await;
    come_back(&layer).await;
    assert_eq!(members(layer.remote()).await, [MEMBER]);
    tokio::time::sleep_until(end).await;
    assert!(members(layer.remote()).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_refused_membership_delays_neither_the_return_nor_the_other_memberships() {
    let layer = layer();
    go_down(&layer).await;
    for group in ["a", "full", "room", "z"] {
        layer.group_add(group, MEMBER).await.unwrap();
    }
    *layer.remote().refused.lock() = Some("full");
    come_back(&layer).await;
    for (group, expected) in [("a", 1), ("full", 0), ("room", 1), ("z", 1)] {
        assert_eq!(layer.group_channels(group).await.unwrap().len(), expected, "{group}");
    }
    *layer.remote().refused.lock() = None;
    sleep(LONG).await;
    assert_eq!(layer.group_channels("full").await.unwrap(), [MEMBER]);
}

#[tokio::test(start_paused = true)]
async fn a_refused_membership_does_not_delay_the_others_after_a_loss_of_data() {
    let layer = layer();
    let member = |number: usize| format!("push.proc!{number}");
    layer.group_add("full", MEMBER).await.unwrap();
    for number in 0..200 {
        layer.group_add("room", &member(number)).await.unwrap();
    }
    *layer.remote().refused.lock() = Some("full");
    layer.remote().lose_data().await;
    sleep(LONG).await;
    assert_eq!(members(&layer).await.len(), 200);
    *layer.remote().refused.lock() = None;
    sleep(LONG).await;
    assert_eq!(layer.group_channels("full").await.unwrap(), [MEMBER]);
}

#[tokio::test(start_paused = true)]
async fn a_change_after_a_refused_one_is_made_at_once() {
    let layer = layer();
    go_down(&layer).await;
    layer.group_add("full", MEMBER).await.unwrap();
    *layer.remote().refused.lock() = Some("full");
    come_back(&layer).await;
    *layer.remote().refused.lock() = None;
    layer.group_discard("full", MEMBER).await.unwrap();
    sleep(LONG).await;
    assert!(layer.group_channels("full").await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_change_refused_after_one_outage_is_made_before_the_return_from_the_next() {
    let layer = layer();
    go_down(&layer).await;
    layer.group_add("full", MEMBER).await.unwrap();
    *layer.remote().refused.lock() = Some("full");
    come_back(&layer).await;
    // The pauses between the attempts grow.
    sleep(LONG).await;
    go_down(&layer).await;
    *layer.remote().refused.lock() = None;
    come_back(&layer).await;
    assert_eq!(layer.group_channels("full").await.unwrap(), [MEMBER]);
}

#[tokio::test(start_paused = true)]
async fn a_remote_layer_that_was_closed_in_an_outage_does_not_end_it() {
    let layer = layer();
    go_down(&layer).await;
    layer.group_add("room", MEMBER).await.unwrap();
    layer.remote().memory.close().await.unwrap();
    layer.remote().unreachable.store(false, Ordering::SeqCst);
    sleep(LONG).await;
    assert_eq!(*layer.mode().borrow(), Mode::LocalOnly);
    layer.send(MEMBER, message! { "number": 1 }).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_the_remote_layer_ends_one_step_of_the_failover_task() {
    for method in ["health", "outage", "group_add_for", "group_channels"] {
        let layer = layer();
        go_down(&layer).await;
        layer.group_add("room", MEMBER).await.unwrap();
        *layer.remote().panics.lock() = Some(method);
        // No call of this test reaches the method before the task does.
        layer.remote().unreachable.store(false, Ordering::SeqCst);
        let sprung = async {
            while layer.remote().panics.lock().is_some() {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(LONG, sprung).await.unwrap();
        mode(&layer, Mode::Remote).await;
        // A panic while the membership is replayed counts as a refusal, which is retried.
        sleep(LONG).await;
        assert_eq!(members(&layer.remote().memory).await, [MEMBER], "{method}");
        layer.remote().memory.group_discard("room", MEMBER).await.unwrap();
        sleep(LONG).await;
        go_down(&layer).await;
        assert!(members(&layer).await.is_empty(), "{method}: the comparison goes on");
    }
}

#[tokio::test(start_paused = true)]
async fn a_layer_returns_although_the_recorder_of_metrics_panics() {
    let _recording = metrics::set_default_local_recorder(&BrokenRecorder);
    let layer = layer();
    for number in 1..=2 {
        go_down(&layer).await;
        send(&layer, number).await;
        come_back(&layer).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_recorder_of_metrics_may_call_the_layer_at_each_change_of_mode() {
    let layer = Arc::new(layer());
    let (called, runtime) = (layer.clone(), Handle::current());
    let recorder = CallingRecorder::new(move || {
        let _inside = runtime.enter();
        called.status();
        called.group_add("room", MEMBER).now_or_never();
    });
    let _recording = metrics::set_default_local_recorder(&recorder);
    for mode in [Mode::LocalOnly, Mode::Remote] {
        layer.remote().unreachable.store(mode == Mode::LocalOnly, Ordering::SeqCst);
        self::mode(&layer, mode).await;
        // The mode is known before the gauge is set.
        let updated = async {
            loop {
                let returned = recorder.returned();
                if !returned.is_empty() {
                    return returned;
                }
                sleep(Duration::from_millis(10)).await;
            }
        };
        assert_eq!(timeout(LONG, updated).await.unwrap(), [true], "{mode:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_member_discarded_by_another_process_does_not_return() {
    let layer = layer();
    for member in [MEMBER, "push.proc!bob"] {
        layer.group_add("room", member).await.unwrap();
    }
    layer.remote().memory.group_discard("room", MEMBER).await.unwrap();
    sleep(LONG).await;
    go_down(&layer).await;
    assert_eq!(members(&layer).await, ["push.proc!bob"]);
    come_back(&layer).await;
    layer.remote().lose_data().await;
    sleep(LONG).await;
    assert_eq!(members(layer.remote()).await, ["push.proc!bob"]);
}

#[tokio::test(start_paused = true)]
async fn a_member_added_again_after_a_discard_by_another_process_stays() {
    let layer = layer();
    layer.group_add("room", MEMBER).await.unwrap();
    for _ in 0..100 {
        layer.remote().memory.group_discard("room", MEMBER).await.unwrap();
        sleep(Duration::from_millis(1700)).await;
        layer.group_add("room", MEMBER).await.unwrap();
    }
    sleep(LONG).await;
    go_down(&layer).await;
    assert_eq!(members(&layer).await, [MEMBER]);
}

#[tokio::test(start_paused = true)]
async fn lost_data_does_not_count_as_discarded_members() {
    let layer = layer();
    layer.group_add("room", MEMBER).await.unwrap();
    for after in (0..10_000).step_by(700).map(Duration::from_millis) {
        sleep(after).await;
        layer.remote().memory.flush().await.unwrap();
        // The loss of data is noticed later.
        sleep(Duration::from_secs(2)).await;
        layer.remote().lose_data().await;
        sleep(Duration::from_secs(1)).await;
        assert_eq!(members(layer.remote()).await, [MEMBER], "after {after:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_journal_holds_no_membership_that_the_remote_layer_knows() {
    let layer = layer();
    for number in 0..1000 {
        layer.group_add("room", &format!("push.proc!{number}")).await.unwrap();
    }
    assert!(layer.state.journal.lock().pending_changes().is_empty());
}

#[tokio::test(start_paused = true)]
async fn only_an_outage_delays_the_return() {
    let config = Config::new().return_after(LONG * 10);
    let layer = FallbackLayer::new(Remote::new(&config), &config).unwrap();
    go_down(&layer).await;
    sleep(Duration::from_millis(500)).await;
    let back = Instant::now();
    come_back(&layer).await;
    assert!(back.elapsed() <= Duration::from_millis(500), "after {:?}", back.elapsed());
    sleep(LONG * 20).await;
    go_down(&layer).await;
    sleep(Duration::from_secs(2)).await;
    layer.remote().unreachable.store(false, Ordering::SeqCst);
    sleep(LONG * 9).await;
    assert_eq!(*layer.mode().borrow(), Mode::LocalOnly);
    sleep(LONG * 2).await;
    assert_eq!(*layer.mode().borrow(), Mode::Remote);
}
