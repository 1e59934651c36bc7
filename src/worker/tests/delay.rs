//! The delay server.

use std::sync::Arc;
use std::time::Duration;

use metrics_util::debugging::DebuggingRecorder;
use tokio::sync::oneshot;

use super::{all_taken, layer, stopped, within};
use crate::capacity::CapacityRule;
use crate::config::Config;
use crate::layer::{ChannelLayer, Delivery};
use crate::memory::MemoryLayer;
use crate::message;
use crate::worker::{Context, DelayServer};

#[tokio::test(start_paused = true)]
async fn a_delayed_message_arrives_when_it_is_due() {
    let layer = layer();
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(DelayServer::new(layer.clone()).run(async {
        let _ = stopped.await;
    }));
    let delivery = Delivery::new("work".parse().unwrap(), message! {});
    let context = Context::new(layer.clone(), delivery, Duration::from_secs(1));
    let started = tokio::time::Instant::now();
    for (seconds, text) in [(30, "later"), (10, "soon"), (50, "much later")] {
        context.send_later("jobs", Duration::from_secs(seconds), message! { "text": text }).await.unwrap();
    }
    layer.send("asgi.delay", message! { "delay": "nonsense" }).await.unwrap();
    for (seconds, text) in [(10, "soon"), (30, "later")] {
        assert_eq!(layer.receive(&["jobs"]).await.unwrap().message.text("text"), Some(text));
        assert_eq!(started.elapsed().as_secs(), seconds);
    }
    stop.send(()).unwrap();
    running.await.unwrap().unwrap();
    let left = layer.receive(&["asgi.delay"]).await.unwrap().message;
    assert_eq!((left.text("channel"), left.int("delay")), (Some("jobs"), Some(20_000)));
    assert_eq!(left.get("content").unwrap().as_map().unwrap().get("text").unwrap().as_text(), Some("much later"));
}

#[tokio::test(start_paused = true)]
async fn due_messages_without_room_count_towards_the_limit() {
    let config = Config::new().channel_capacity(CapacityRule::glob("jobs", 1));
    let layer: Arc<dyn ChannelLayer> = Arc::new(MemoryLayer::with_config(&config).unwrap());
    layer.send("jobs", message! {}).await.unwrap();
    let (_stop, stopped) = oneshot::channel::<()>();
    let _running = tokio::spawn(DelayServer::new(layer.clone()).limit(2).run(async {
        let _ = stopped.await;
    }));
    for _ in 0..5 {
        layer.send("asgi.delay", message! { "channel": "jobs", "delay": 0, "content": message! {} }).await.unwrap();
    }
    // The clock only advances here. Sends of the two due messages are retried for 10 s.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(layer.channel_statistics("asgi.delay").await.unwrap().messages_pending, 3);
}

#[tokio::test(start_paused = true)]
async fn requeued_delayed_messages_need_no_room() {
    let config = Config::new().channel_capacity(CapacityRule::glob("asgi.delay", 10));
    let layer: Arc<dyn ChannelLayer> = Arc::new(MemoryLayer::with_config(&config).unwrap());
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(DelayServer::new(layer.clone()).run(async {
        let _ = stopped.await;
    }));
    for number in 0..500 {
        let message =
            message! { "channel": "jobs", "delay": 60_000 + number, "content": message! { "number": number } };
        let sent = crate::layer::send_while_full(&*layer, "asgi.delay", message, Duration::from_secs(10));
        within(sent).await.unwrap();
    }
    within(async {
        while layer.channel_statistics("asgi.delay").await.unwrap().messages_pending > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    stop.send(()).unwrap();
    within(running).await.unwrap().unwrap();
    for number in 0..500 {
        let left = within(layer.receive(&["asgi.delay"])).await.unwrap().message;
        assert_eq!(left.get("content").unwrap().as_map().unwrap().get("number").unwrap().as_int(), Some(number));
    }
}

#[tokio::test(start_paused = true)]
async fn a_dropped_delay_server_counts_its_messages() {
    let recorder = DebuggingRecorder::new();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let layer = layer();
    let running = tokio::spawn(DelayServer::new(layer.clone()).run(std::future::pending()));
    for delay in [60_000, 120_000, 180_000] {
        layer.send("asgi.delay", message! { "channel": "jobs", "delay": delay, "content": message! {} }).await.unwrap();
    }
    all_taken(&*layer, "asgi.delay").await;
    running.abort();
    assert_eq!(stopped(layer, &recorder).await, 3);
}
