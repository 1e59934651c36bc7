//! The shutdown of a worker: messages that it has taken are finished or requeued.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use metrics_util::debugging::DebuggingRecorder;
use tokio::sync::mpsc;

use super::{all_taken, hanging, layer, run, stopped, within};
use crate::capacity::CapacityRule;
use crate::config::Config;
use crate::error::BoxError;
use crate::layer::ChannelLayer;
use crate::memory::MemoryLayer;
use crate::message;
use crate::worker::{Context, Worker};

#[tokio::test]
async fn a_shutdown_finishes_taken_messages_and_leaves_the_rest() {
    let layer = layer();
    let finished = Arc::new(AtomicUsize::new(0));
    let (started, mut beginning) = mpsc::unbounded_channel();
    let (open, gate) = tokio::sync::watch::channel(false);
    let handler = {
        let finished = finished.clone();
        move |_: Context| {
            let (finished, started, mut gate) = (finished.clone(), started.clone(), gate.clone());
            async move {
                started.send(())?;
                gate.wait_for(|open| *open).await?;
                finished.fetch_add(1, Ordering::Relaxed);
                Ok::<_, BoxError>(())
            }
        }
    };
    let (stop, running) = run(Worker::new(layer.clone()).on("work", handler).concurrency(2));
    for _ in 0..5 {
        layer.send("work", message! {}).await.unwrap();
    }
    for _ in 0..2 {
        within(beginning.recv()).await.unwrap();
    }
    stop.send(()).unwrap();
    open.send(true).unwrap();
    within(running).await.unwrap().unwrap();
    let left = layer.channel_statistics("work").await.unwrap().messages_pending;
    assert_eq!(finished.load(Ordering::Relaxed) as u64 + left, 5);
}

#[tokio::test]
async fn a_shutdown_does_not_wait_for_a_handler_that_hangs() {
    let layer = layer();
    let (handler, mut beginning) = hanging();
    let (stop, running) = run(Worker::new(layer.clone()).on("work", handler).drain_timeout(Duration::from_millis(50)));
    layer.send("work", message! {}).await.unwrap();
    within(beginning.recv()).await.unwrap();
    stop.send(()).unwrap();
    within(running).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_shutdown_requeues_unstarted_messages() {
    let layer = layer();
    let (handler, mut beginning) = hanging();
    let worker = Worker::new(layer.clone()).on("work", handler).drain_timeout(Duration::from_millis(50));
    let (stop, running) = run(worker);
    for order in 1..=4 {
        layer.send("work", message! { "reply_channel": "c", "order": order }).await.unwrap();
    }
    assert_eq!(within(beginning.recv()).await, Some(Some(1)));
    stop.send(()).unwrap();
    within(running).await.unwrap().unwrap();
    for order in 2..=4 {
        assert_eq!(within(layer.receive(&["work"])).await.unwrap().message.int("order"), Some(order));
    }
}

#[tokio::test]
async fn requeued_messages_need_no_room() {
    let config = Config::new().channel_capacity(CapacityRule::glob("work", 4));
    let layer: Arc<dyn ChannelLayer> = Arc::new(MemoryLayer::with_config(&config).unwrap());
    let (handler, mut beginning) = hanging();
    let worker = Worker::new(layer.clone()).on("work", handler).concurrency(2).drain_timeout(Duration::from_millis(50));
    let (stop, running) = run(worker);
    let empty = async || {
        while layer.channel_statistics("work").await.unwrap().messages_pending > 0 {
            tokio::task::yield_now().await;
        }
    };
    for order in 1..=4 {
        layer.send("work", message! { "reply_channel": "c", "order": order }).await.unwrap();
        within(empty()).await;
    }
    // The second permit. No more messages are taken then.
    layer.send("work", message! { "reply_channel": "other", "order": 0 }).await.unwrap();
    for order in [1, 0] {
        assert_eq!(within(beginning.recv()).await, Some(Some(order)));
    }
    for order in 5..=8 {
        layer.send("work", message! { "reply_channel": "c", "order": order }).await.unwrap();
    }
    stop.send(()).unwrap();
    within(running).await.unwrap().unwrap();
    for order in [5, 6, 7, 8, 2, 3, 4] {
        assert_eq!(within(layer.receive(&["work"])).await.unwrap().message.int("order"), Some(order));
    }
}

#[tokio::test]
async fn a_dropped_worker_counts_its_waiting_messages() {
    let recorder = DebuggingRecorder::new();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let layer = layer();
    let (handler, mut beginning) = hanging();
    for _ in 0..4 {
        layer.send("work", message! { "reply_channel": "c" }).await.unwrap();
    }
    let (_stop, running) = run(Worker::new(layer.clone()).on("work", handler));
    within(beginning.recv()).await.unwrap();
    all_taken(&*layer, "work").await;
    running.abort();
    assert_eq!(stopped(layer, &recorder).await, 3);
}
