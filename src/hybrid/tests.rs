//! `HybridLayer`: which of the two layers carries a call, and how reads share them.

// In a test, the panic of a failed `unwrap` is the report of the failure.
#![allow(clippy::unwrap_used)]

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Instant, Sleep, sleep, timeout};

use super::HybridLayer;
use super::source::HybridSource;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::layer::{ChannelLayer, Delivery, Receiver, Sink, Source};
use crate::memory::MemoryLayer;
use crate::message;
use crate::name::ChannelName;

const NORMAL: &str = "work";
const LOCAL: &str = "push.proc!";
const MEMBER: &str = "push.proc!ada";

fn hybrid() -> HybridLayer<MemoryLayer, MemoryLayer> {
    HybridLayer::new(MemoryLayer::new(), MemoryLayer::new())
}

async fn number(receiver: &mut Receiver) -> i64 {
    receiver.recv().await.unwrap().message.int("n").expect("a number")
}

#[tokio::test]
async fn each_kind_of_channel_goes_to_its_layer() {
    let layer = hybrid();
    let single = layer.new_channel("answer?").await.unwrap();
    for name in [NORMAL, MEMBER, single.as_str()] {
        layer.send(name, message! {}).await.unwrap();
    }
    assert_eq!(layer.local().global_statistics().await.unwrap().messages_pending, 1);
    assert_eq!(layer.remote().global_statistics().await.unwrap().messages_pending, 2);
    assert_eq!(layer.global_statistics().await.unwrap().messages_pending, 3);
    assert_eq!(layer.channel_statistics(NORMAL).await.unwrap().messages_pending, 1);
    for name in [NORMAL, LOCAL, single.as_str()] {
        assert!(layer.try_receive(&[name]).await.unwrap().is_some());
    }
}

#[tokio::test]
async fn members_on_normal_channels_are_known_everywhere_and_reached_through_the_senders_layer() {
    let remote = Arc::new(MemoryLayer::new());
    let here = HybridLayer::<_, MemoryLayer>::new(MemoryLayer::new(), Arc::clone(&remote));
    let there = HybridLayer::<_, MemoryLayer>::new(MemoryLayer::new(), remote);
    here.group_add("room", NORMAL).await.unwrap();
    here.group_add("room", MEMBER).await.unwrap();
    there.group_send("room", message! {}).await.unwrap();
    assert!(here.try_receive(&[NORMAL]).await.unwrap().is_none());
    assert!(there.try_receive(&[NORMAL]).await.unwrap().is_some());
    assert_eq!(here.try_receive(&[LOCAL]).await.unwrap().unwrap().channel, MEMBER);

    let mut members = there.group_channels("room").await.unwrap();
    members.sort();
    assert_eq!(members, [MEMBER, NORMAL]);
    there.group_discard("room", NORMAL).await.unwrap();
    assert_eq!(here.group_channels("room").await.unwrap(), [MEMBER]);
}

#[tokio::test]
async fn a_full_member_does_not_fail_a_group_send() {
    let config = Config::new().capacity(1);
    let layer = HybridLayer::new(MemoryLayer::with_config(&config).unwrap(), MemoryLayer::new());
    layer.group_add("room", NORMAL).await.unwrap();
    layer.group_send("room", message! {}).await.unwrap();
    layer.group_send("room", message! {}).await.unwrap();
    assert_eq!(layer.channel_statistics(NORMAL).await.unwrap().channel_full_count, 1);
}

#[tokio::test]
async fn a_group_message_that_the_remote_layer_refuses_reaches_nobody() {
    let config = Config::new().max_message_size(1024);
    let layer = HybridLayer::new(MemoryLayer::new(), MemoryLayer::with_config(&config).unwrap());
    layer.group_add("room", NORMAL).await.unwrap();
    let results = layer
        .group_send_many(&[
            ("room", message! { "body": vec![0u8; 2000] }),
            ("no room", message! {}),
            ("room", message! { "n": 1 }),
        ])
        .await;
    assert!(matches!(results[0], Err(Error::MessageTooLarge { .. })));
    assert!(matches!(results[1], Err(Error::InvalidName(_))));
    assert!(results[2].is_ok());
    let delivery = layer.try_receive(&[NORMAL]).await.unwrap().unwrap();
    assert_eq!(delivery.message.int("n"), Some(1));
    assert!(layer.try_receive(&[NORMAL]).await.unwrap().is_none());
}

#[tokio::test]
async fn send_many_returns_the_results_in_order() {
    let layer = hybrid();
    let results = layer
        .send_many(&[(NORMAL, message! {}), ("a!b!c", message! {}), (MEMBER, message! {}), ("", message! {})])
        .await;
    let ok: Vec<_> = results.iter().map(Result::is_ok).collect();
    assert_eq!(ok, [true, false, true, false]);
}

#[tokio::test(start_paused = true)]
async fn one_read_takes_from_both_layers_in_turn() {
    let layer = hybrid();
    for name in [NORMAL, MEMBER] {
        for n in 0..20 {
            layer.send(name, message! { "n": n }).await.unwrap();
        }
    }
    let mut last = String::new();
    for _ in 0..10 {
        let delivery = layer.receive(&[NORMAL, LOCAL]).await.unwrap();
        assert_ne!(delivery.channel.as_str(), last);
        last = delivery.channel.to_string();
    }
    let mut receiver = layer.receiver(&[NORMAL, LOCAL]).unwrap();
    for _ in 0..10 {
        let delivery = receiver.recv().await.unwrap();
        assert_ne!(delivery.channel.as_str(), last);
        last = delivery.channel.to_string();
    }
    assert_eq!(layer.global_statistics().await.unwrap().messages_pending, 20);
}

#[tokio::test]
async fn names_are_checked_before_either_layer_reads() {
    let layer = hybrid();
    layer.send(NORMAL, message! {}).await.unwrap();
    for channels in [&[][..], &[NORMAL, MEMBER], &["bad name"]] {
        assert!(matches!(layer.receive(channels).await, Err(Error::InvalidName(_))));
        assert!(matches!(layer.try_receive(channels).await, Err(Error::InvalidName(_))));
        assert!(matches!(layer.receiver(channels), Err(Error::InvalidName(_))));
    }
    assert_eq!(layer.global_statistics().await.unwrap().messages_pending, 1);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_read_of_both_layers_loses_nothing() {
    let layer = hybrid();
    let mut receiver = layer.receiver(&[NORMAL, LOCAL]).unwrap();
    for n in 0..50 {
        let (early, late) = if n % 2 == 0 { (NORMAL, MEMBER) } else { (MEMBER, NORMAL) };
        assert!(timeout(Duration::from_millis(1), receiver.recv()).await.is_err());
        assert!(timeout(Duration::from_millis(1), layer.receive(&[NORMAL, LOCAL])).await.is_err());
        layer.send(early, message! { "n": n }).await.unwrap();
        layer.send(late, message! { "n": n }).await.unwrap();
        timeout(Duration::from_millis(1), receiver.recv()).await.ok();
        let mut left = layer.global_statistics().await.unwrap().messages_pending;
        assert!(left >= 1);
        while left > 0 {
            layer.receive(&[NORMAL, LOCAL]).await.unwrap();
            left -= 1;
        }
        assert!(layer.try_receive(&[NORMAL, LOCAL]).await.unwrap().is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_with_short_timeouts_gets_waiting_messages() {
    let layer = hybrid();
    let mut receiver = layer.receiver(&[NORMAL, LOCAL]).unwrap();
    for n in 0..10 {
        layer.send(NORMAL, message! { "n": n }).await.unwrap();
    }
    let mut taken = 0;
    for _ in 0..12 {
        taken += usize::from(timeout(Duration::from_millis(1), receiver.recv()).await.is_ok());
    }
    assert_eq!(taken, 10);
}

#[tokio::test]
async fn both_layers_close_and_flush_together() {
    let layer = hybrid();
    layer.send(NORMAL, message! {}).await.unwrap();
    layer.group_add("room", NORMAL).await.unwrap();
    layer.flush().await.unwrap();
    assert_eq!(layer.global_statistics().await.unwrap().messages_count, 0);
    assert!(layer.group_channels("room").await.unwrap().is_empty());
    let mut receiver = layer.receiver(&[NORMAL, LOCAL]).unwrap();
    layer.close().await.unwrap();
    assert!(matches!(receiver.recv().await, Err(Error::Closed)));
    assert!(matches!(layer.local().try_receive(&[NORMAL]).await, Err(Error::Closed)));
    assert!(matches!(layer.remote().try_receive(&[LOCAL]).await, Err(Error::Closed)));
}

/// A source that needs some time for each answer and cancels it when it is paused, as a source behind a network may.
struct Distant {
    messages: VecDeque<i64>,
    answer: Option<Pin<Box<Sleep>>>,
}

#[async_trait]
impl Source for Distant {
    fn poll_recv_many(&mut self, cx: &mut Context<'_>, sink: Sink<'_>, _: usize) -> Poll<Result<usize>> {
        let answer = self.answer.get_or_insert_with(|| Box::pin(sleep(Duration::from_millis(2))));
        if answer.as_mut().poll(cx).is_pending() || self.messages.is_empty() {
            return Poll::Pending;
        }
        self.answer = None;
        let n = self.messages.pop_front().expect("it is not empty");
        sink(Delivery::new(ChannelName::parse(MEMBER).expect("valid"), message! { "n": n }));
        Poll::Ready(Ok(1))
    }

    fn pause(&mut self) {
        self.answer = None;
    }

    async fn close(&mut self) -> Result<()> {
        Ok(())
    }
}

async fn beside_a_busy_channel(messages: VecDeque<i64>) -> (MemoryLayer, Receiver) {
    let layer = MemoryLayer::with_config(&Config::new().capacity(100_000)).unwrap();
    for _ in 0..100_000 {
        layer.send(NORMAL, message! { "n": -1 }).await.unwrap();
    }
    let busy = layer.receiver(&[NORMAL]).unwrap();
    let distant = Receiver::new(Distant { messages, answer: None });
    (layer, Receiver::new(HybridSource::new([busy, distant])))
}

#[tokio::test(start_paused = true)]
async fn a_busy_layer_does_not_starve_a_slower_one() {
    let (_layer, mut receiver) = beside_a_busy_channel([0, 1, 2].into()).await;
    let start = Instant::now();
    let mut next = 0;
    while next < 3 {
        let n = number(&mut receiver).await;
        if n >= 0 {
            assert_eq!(n, next);
            next += 1;
        }
        sleep(Duration::from_micros(10)).await;
    }
    assert!(start.elapsed() < Duration::from_secs(1), "it took {:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn waiting_for_a_quiet_layer_barely_slows_a_busy_one() {
    let (_layer, mut receiver) = beside_a_busy_channel([].into()).await;
    let start = Instant::now();
    for _ in 0..1000 {
        assert_eq!(number(&mut receiver).await, -1);
        sleep(Duration::from_millis(1)).await;
    }
    let waited = start.elapsed().checked_sub(Duration::from_secs(1)).unwrap();
    assert!(waited < Duration::from_millis(100), "it waited {waited:?}");
}
