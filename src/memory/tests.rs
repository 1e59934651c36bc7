//! `MemoryLayer`: fairness, wake-ups, limits and the removal of expired entries, which the conformance suite does not
//! cover.

// In a test, the panic of a failed `unwrap` is the report of the failure.
#![allow(clippy::unwrap_used)]

use std::collections::HashSet;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::runtime::{Builder, Handle};
use tokio::time::{Instant, sleep, timeout};

use super::{Bounds, MemoryLayer};
use crate::config::{Config, Overflow};
use crate::error::Error;
use crate::layer::{ChannelLayer, Mode, Source};
use crate::message;

mod recorder;

const CHANNEL: &str = "work";
const LOCAL: &str = "push.proc!";

#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Polls a future by hand, and counts its wake-ups.
macro_rules! waiting {
    ($future:expr => $pinned:ident, $count:ident) => {
        let mut $pinned = Box::pin($future);
        let $count = Arc::new(Count::default());
        assert!(poll($pinned.as_mut(), &$count).is_pending());
    };
}

fn poll<F: Future>(future: std::pin::Pin<&mut F>, count: &Arc<Count>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(&Waker::from(Arc::clone(count))))
}

fn woken(count: &Arc<Count>) -> usize {
    count.0.swap(0, Ordering::Relaxed)
}

fn short() -> MemoryLayer {
    let config = Config::new().expiry(Duration::from_secs(2)).group_expiry(Duration::from_secs(20));
    MemoryLayer::with_config(&config).expect("valid")
}

#[tokio::test]
async fn one_message_wakes_the_first_waiter_only() {
    let layer = MemoryLayer::new();
    waiting!(layer.receive(&[CHANNEL]) => first, count1);
    waiting!(layer.receive(&[CHANNEL]) => second, count2);
    layer.send(CHANNEL, message! {}).await.unwrap();
    assert_eq!((woken(&count1), woken(&count2)), (1, 0));
    assert!(poll(first.as_mut(), &count1).is_ready());
    assert!(poll(second.as_mut(), &count2).is_pending());
    assert_eq!(woken(&count2), 0);
}

#[tokio::test]
async fn a_dropped_waiter_passes_its_wake_up_on() {
    let layer = MemoryLayer::new();
    waiting!(layer.receive(&[CHANNEL]) => first, count1);
    waiting!(layer.receive(&[CHANNEL]) => second, count2);
    layer.send(CHANNEL, message! {}).await.unwrap();
    assert_eq!((woken(&count1), woken(&count2)), (1, 0));
    drop(first);
    assert_eq!(woken(&count2), 1);
    assert!(poll(second.as_mut(), &count2).is_ready());
}

#[tokio::test]
async fn a_waiter_served_by_another_channel_passes_its_wake_up_on() {
    let layer = MemoryLayer::new();
    waiting!(layer.receive(&["other", CHANNEL]) => both, count1);
    waiting!(layer.receive(&[CHANNEL]) => one, count2);
    layer.send("other", message! { "for": 1 }).await.unwrap();
    layer.send(CHANNEL, message! { "for": 2 }).await.unwrap();
    assert_eq!((woken(&count1), woken(&count2)), (2, 0));
    let Poll::Ready(Ok(served)) = poll(both.as_mut(), &count1) else { panic!("no message arrived") };
    if served.channel == "other" {
        assert_eq!(woken(&count2), 1);
        assert!(poll(one.as_mut(), &count2).is_ready());
    } else {
        assert!(poll(one.as_mut(), &count2).is_pending());
        assert!(layer.try_receive(&["other"]).await.unwrap().is_some());
    }
}

#[tokio::test]
async fn a_waiter_woken_without_a_message_keeps_its_place() {
    let layer = MemoryLayer::new();
    waiting!(layer.receive(&[CHANNEL]) => first, count1);
    waiting!(layer.receive(&[CHANNEL]) => _second, count2);
    layer.send(CHANNEL, message! {}).await.unwrap();
    assert!(layer.try_receive(&[CHANNEL]).await.unwrap().is_some());
    assert!(poll(first.as_mut(), &count1).is_pending());
    assert_eq!(woken(&count1), 1);
    layer.send(CHANNEL, message! {}).await.unwrap();
    assert_eq!((woken(&count1), woken(&count2)), (1, 0));
}

#[tokio::test]
async fn one_group_message_serves_all_waiting_readers() {
    let layer = MemoryLayer::new();
    for local in ["a", "b"] {
        layer.group_add("room", &format!("{LOCAL}{local}")).await.unwrap();
    }
    waiting!(layer.receive(&[LOCAL]) => first, count1);
    waiting!(layer.receive(&[LOCAL]) => second, count2);
    layer.group_send("room", message! {}).await.unwrap();
    assert_eq!((woken(&count1), woken(&count2)), (1, 0));
    assert!(poll(first.as_mut(), &count1).is_ready());
    assert_eq!(woken(&count2), 1);
    assert!(poll(second.as_mut(), &count2).is_ready());
}

#[tokio::test]
async fn a_paused_receiver_is_not_woken() {
    let layer = MemoryLayer::new();
    let mut receiver = layer.receiver(&[CHANNEL]).unwrap();
    assert!(timeout(Duration::from_millis(1), receiver.recv()).await.is_err());
    waiting!(layer.receive(&[CHANNEL]) => other, count);
    layer.send(CHANNEL, message! {}).await.unwrap();
    assert_eq!(woken(&count), 1);
    assert!(poll(other.as_mut(), &count).is_ready());
}

#[tokio::test]
async fn closing_wakes_all_waiters_and_refuses_later_calls() {
    let layer = MemoryLayer::new();
    waiting!(layer.receive(&[CHANNEL]) => first, count1);
    waiting!(layer.receive(&["other", CHANNEL]) => second, count2);
    layer.close().await.unwrap();
    assert!(woken(&count1) > 0 && woken(&count2) > 0);
    assert!(matches!(poll(first.as_mut(), &count1), Poll::Ready(Err(Error::Closed))));
    assert!(matches!(poll(second.as_mut(), &count2), Poll::Ready(Err(Error::Closed))));
    assert!(matches!(layer.send(CHANNEL, message! {}).await, Err(Error::Closed)));
    assert!(matches!(layer.receiver(&[CHANNEL]), Err(Error::Closed)));
}

/// Returns the sizes of the messages that remain of `sizes`, and the number of dropped ones, in a layer whose queues
/// hold 10,000 bytes.
async fn kept(overflow: Overflow, sizes: &[usize]) -> (Vec<usize>, u64) {
    let layer = MemoryLayer::dropping(&Config::new(), Bounds { overflow, bytes: 10_000 }).unwrap();
    for size in sizes {
        layer.send(CHANNEL, message! { "body": vec![0u8; *size] }).await.unwrap();
    }
    let mut kept = Vec::new();
    while let Some(delivery) = layer.try_receive(&[CHANNEL]).await.unwrap() {
        kept.push(delivery.message.bytes("body").unwrap().len());
    }
    (kept, layer.channel_statistics(CHANNEL).await.unwrap().channel_full_count)
}

#[tokio::test]
async fn a_queue_that_drops_messages_is_bounded_in_bytes() {
    use Overflow::{DropNewest, DropOldest};
    assert_eq!(kept(DropOldest, &[4000, 4001, 4002, 4003]).await, (vec![4002, 4003], 2));
    assert_eq!(kept(DropNewest, &[4000, 4001, 4002, 4003, 1]).await, (vec![4000, 4001, 1], 2));
    // One large message replaces many small ones. An empty queue accepts a message of any size.
    assert_eq!(kept(DropOldest, &[1, 2, 3, 20_000]).await, (vec![20_000], 3));
    assert_eq!(kept(DropNewest, &[20_000, 1]).await, (vec![20_000], 1));
}

#[tokio::test]
async fn a_queue_is_bounded_by_the_memory_of_its_messages() {
    let layer =
        MemoryLayer::dropping(&Config::new(), Bounds { overflow: Overflow::DropOldest, bytes: 1 << 20 }).unwrap();
    for _ in 0..100 {
        // Each takes one byte in its encoded form.
        layer.send(CHANNEL, message! { "list": vec![1i64; 10_000] }).await.unwrap();
    }
    let pending = layer.channel_statistics(CHANNEL).await.unwrap().messages_pending;
    assert!((1..10).contains(&pending), "{pending}");
}

/// Closes a layer when it is woken.
struct Closes(Arc<MemoryLayer>);

impl Wake for Closes {
    fn wake(self: Arc<Self>) {
        self.0.end();
    }
}

#[tokio::test]
async fn a_group_send_interrupted_by_a_close_succeeds_if_a_member_got_the_message() {
    let layer = Arc::new(MemoryLayer::new());
    let waker = Waker::from(Arc::new(Closes(layer.clone())));
    let mut readers = Vec::new();
    for channel in ["first", "second"] {
        layer.group_add("room", channel).await.unwrap();
        let mut source = layer.source(&[channel]).unwrap();
        assert!(source.poll_recv_many(&mut Context::from_waker(&waker), &mut |_| {}, 1).is_pending());
        readers.push(source);
    }
    // The reader of the first member closes the layer before the message is pushed to the second one.
    layer.group_send("room", message! {}).await.unwrap();
    assert!(matches!(layer.group_send("room", message! {}).await, Err(Error::Closed)));
}

#[tokio::test]
async fn a_receiver_ends_when_its_layer_is_dropped() {
    let layer = MemoryLayer::new();
    let mut receiver = layer.receiver(&[CHANNEL]).unwrap();
    drop(layer);
    assert!(matches!(receiver.recv().await, Err(Error::Closed)));
}

#[tokio::test]
async fn readers_that_wait_through_a_flush_are_served_after_it() {
    let layer = MemoryLayer::new();
    waiting!(layer.receive(&[CHANNEL]) => reader, count);
    layer.send(CHANNEL, message! {}).await.unwrap();
    layer.flush().await.unwrap();
    assert!(poll(reader.as_mut(), &count).is_pending());
    woken(&count);
    layer.send(CHANNEL, message! {}).await.unwrap();
    assert_eq!(woken(&count), 1);
    assert!(poll(reader.as_mut(), &count).is_ready());
    assert_eq!(layer.global_statistics().await.unwrap().messages_count, 1);
}

#[tokio::test(start_paused = true)]
async fn expired_entries_are_freed_without_a_reader() {
    let layer = short();
    layer.send(CHANNEL, message! {}).await.unwrap();
    layer.send("answer?abc", message! {}).await.unwrap();
    layer.group_add("room", "answer?abc").await.unwrap();
    sleep(Duration::from_secs(3)).await;
    assert_eq!(layer.channel_statistics(CHANNEL).await.unwrap().messages_pending, 0);
    assert_eq!(layer.inner.channels.len(), 1, "a single-reader channel is freed after the expiry");
    assert_eq!(layer.inner.groups.len(), 1);
    sleep(Duration::from_secs(25)).await;
    assert_eq!(layer.inner.groups.len(), 0);
    sleep(Duration::from_secs(3700)).await;
    assert_eq!(layer.inner.channels.len(), 0, "the counters are kept for an hour");
    assert_eq!(layer.global_statistics().await.unwrap().messages_count, 2);
    sleep(Duration::from_hours(25)).await;
    assert_eq!(layer.global_statistics().await.unwrap().messages_count, 0);
}

#[tokio::test(start_paused = true)]
async fn a_new_message_is_freed_before_an_older_deadline() {
    let layer = short();
    layer.send(CHANNEL, message! {}).await.unwrap();
    sleep(Duration::from_secs(1000)).await;
    layer.send(CHANNEL, message! {}).await.unwrap();
    sleep(Duration::from_secs(3)).await;
    assert_eq!(layer.channel_statistics(CHANNEL).await.unwrap().messages_pending, 0);
}

#[tokio::test]
async fn an_unused_channel_is_removed_with_its_reader() {
    let layer = MemoryLayer::new();
    let receiver = layer.receiver(&[CHANNEL]).unwrap();
    assert_eq!(layer.inner.channels.len(), 1);
    drop(receiver);
    assert_eq!(layer.inner.channels.len(), 0);
    layer.group_add("room", CHANNEL).await.unwrap();
    layer.group_discard("room", CHANNEL).await.unwrap();
    assert_eq!(layer.inner.groups.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_idle_layer_keeps_no_timer() {
    let layer = short();
    layer.send(CHANNEL, message! {}).await.unwrap();
    layer.receive(&[CHANNEL]).await.unwrap();
    sleep(Duration::from_hours(26)).await;
    // With the clock paused, tokio advances time while any timer is set and a thread is being waited for.
    let before = Instant::now();
    let (done, wait) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        done.send(()).ok();
    });
    wait.await.unwrap();
    assert_eq!(Instant::now(), before);
}

#[tokio::test(start_paused = true)]
async fn the_sweeper_tasks_end_with_the_layer() {
    let tasks = || Handle::current().metrics().num_alive_tasks();
    let layer = short();
    assert_eq!(tasks(), 0);
    layer.send(CHANNEL, message! {}).await.unwrap();
    layer.group_add("room", CHANNEL).await.unwrap();
    assert_eq!(tasks(), 2);
    drop(layer);
    sleep(Duration::from_millis(1)).await;
    assert_eq!(tasks(), 0);
}

#[test]
fn a_layer_works_without_a_runtime() {
    let layer = MemoryLayer::new();
    let count = Arc::new(Count::default());
    waiting!(layer.receive(&[CHANNEL]) => reader, woken_reader);
    assert!(poll(pin!(layer.send(CHANNEL, message! {})), &count).is_ready());
    assert_eq!(woken(&woken_reader), 1);
    assert!(poll(reader.as_mut(), &count).is_ready());
}

#[test]
fn a_layer_outlives_the_runtime_that_used_it_first() {
    let layer = short();
    let run = |test: &dyn Fn()| {
        let runtime = Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            layer.send(CHANNEL, message! {}).await.unwrap();
            sleep(Duration::from_millis(1)).await;
            test();
        });
        runtime
    };
    drop(run(&|| ()));
    let runtime = run(&|| assert_eq!(Handle::current().metrics().num_alive_tasks(), 1));
    drop(runtime);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn cancelled_readers_lose_and_duplicate_nothing() {
    const MESSAGES: i64 = 20_000;
    const WRITERS: i64 = 4;
    let config = Config::new().capacity(usize::try_from(MESSAGES * WRITERS).expect("small"));
    let layer = Arc::new(MemoryLayer::with_config(&config).expect("valid"));
    let names = ["a", "b", "c"];
    let read = Arc::new(AtomicUsize::new(0));
    let readers: Vec<_> = (0..6usize)
        .map(|reader| {
            let (layer, read) = (Arc::clone(&layer), Arc::clone(&read));
            tokio::spawn(async move {
                let mut seen = Vec::new();
                while read.load(Ordering::Relaxed) < usize::try_from(MESSAGES * WRITERS).expect("small") {
                    let mut receive = pin!(layer.receive(&names[reader % 3..]));
                    // Each future is polled a few times only, so that many are dropped after a wake-up.
                    let mut polls = 0;
                    let polled = std::future::poll_fn(|cx| {
                        polls += 1;
                        match receive.as_mut().poll(cx) {
                            Poll::Pending if polls > reader => Poll::Ready(None),
                            polled => polled.map(Some),
                        }
                    });
                    if let Ok(Some(delivery)) = timeout(Duration::from_millis(5), polled).await {
                        seen.push(delivery.unwrap().message.int("id").expect("an id"));
                        read.fetch_add(1, Ordering::Relaxed);
                    } else {
                        tokio::task::yield_now().await;
                    }
                }
                seen
            })
        })
        .collect();
    for writer in 0..WRITERS {
        let layer = Arc::clone(&layer);
        tokio::spawn(async move {
            for id in 0..MESSAGES {
                let name = names[usize::try_from(id % 3).expect("small")];
                layer.send(name, message! { "id": writer * MESSAGES + id }).await.unwrap();
                if id % 64 == 0 {
                    tokio::task::yield_now().await;
                }
            }
        });
    }
    let mut seen = Vec::new();
    for reader in readers {
        seen.extend(timeout(Duration::from_secs(30), reader).await.expect("no wake-up is lost").unwrap());
    }
    assert_eq!(seen.len(), usize::try_from(MESSAGES * WRITERS).expect("small"));
    assert_eq!(seen.iter().collect::<HashSet<_>>().len(), seen.len());
}

#[test]
fn a_layer_without_servers_has_no_events() {
    let layer = MemoryLayer::new();
    let (mut events, mut mode) = (layer.events(), layer.mode());
    assert!(events.recv().now_or_never().is_none(), "a loop around it would spin");
    assert!(mode.changed().now_or_never().is_none(), "a loop around it would spin");
    assert_eq!(*mode.borrow(), Mode::Remote);
}
