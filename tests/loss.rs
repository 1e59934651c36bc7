//! No message is lost silently: what is not delivered is counted under a reason, on each layer.

use std::sync::Arc;
use std::time::Duration;

use channel_layer::{ChannelLayer, Config, HybridLayer, MemoryLayer, RedisLayer, message};
use metrics_util::debugging::DebuggingRecorder;

use crate::support::{Counts, DEADLINE, RedisServer, eventually, random_prefix, shared_servers, within};

const EXPIRY: Duration = Duration::from_secs(2);

fn config() -> Config {
    let prefix = random_prefix();
    Config::new().stats_prefix(format!("{prefix}-meta:")).prefix(prefix).expiry(EXPIRY).capacity(3)
}

fn memory() -> Arc<dyn ChannelLayer> {
    Arc::new(MemoryLayer::with_config(&config()).unwrap())
}

async fn redis() -> Arc<dyn ChannelLayer> {
    let hosts = shared_servers()[..1].iter().map(RedisServer::url);
    Arc::new(RedisLayer::connect(config().hosts(hosts)).await.unwrap())
}

async fn hybrid() -> Arc<dyn ChannelLayer> {
    Arc::new(HybridLayer::new(memory(), redis().await))
}

/// Two messages expire behind the back of a channel that goes on living.
async fn expired_messages_are_counted(layer: Arc<dyn ChannelLayer>, source: &str, channel: &str) {
    let recorder = DebuggingRecorder::new();
    let mut counts = Counts::of(&recorder);
    let _local = metrics::set_default_local_recorder(&recorder);
    for old in [true, true] {
        layer.send(channel, message! { "old": old }).await.unwrap();
    }
    tokio::time::sleep(EXPIRY / 2).await;
    layer.send(channel, message! { "old": false }).await.unwrap();
    tokio::time::sleep(EXPIRY * 3 / 4).await;
    let delivery = within(DEADLINE, "the message that is young enough", layer.receive(&[source])).await.unwrap();
    assert_eq!(delivery.message, message! { "old": false });
    assert_eq!(counts.dropped("expired"), 2);
    assert_eq!(counts.dropped("full"), 0);
}

/// A group message does not fit into one member's channel.
async fn messages_for_full_members_are_counted(layer: Arc<dyn ChannelLayer>, full: &str, other: &str) {
    let recorder = DebuggingRecorder::new();
    let mut counts = Counts::of(&recorder);
    let _local = metrics::set_default_local_recorder(&recorder);
    for member in [full, other] {
        layer.group_add("group", member).await.unwrap();
    }
    for number in 0..3 {
        layer.send(full, message! { "number": number }).await.unwrap();
    }
    layer.group_send("group", message! { "number": 3 }).await.unwrap();
    assert_eq!(counts.dropped("full"), 1);
    assert!(layer.send(full, message! {}).await.is_err(), "a send that is refused is the caller's to count");
    assert_eq!(counts.dropped("full"), 1);
}

#[tokio::test(start_paused = true)]
async fn expired_messages_in_memory() {
    expired_messages_are_counted(memory(), "p!", "p!a").await;
    expired_messages_are_counted(memory(), "normal", "normal").await;
}

#[tokio::test]
async fn expired_messages_on_redis() {
    expired_messages_are_counted(redis().await, "p!", "p!a").await;
}

#[tokio::test]
async fn expired_messages_on_both() {
    expired_messages_are_counted(hybrid().await, "normal", "normal").await;
}

#[tokio::test]
async fn full_members_in_memory() {
    messages_for_full_members_are_counted(memory(), "p!a", "q!a").await;
}

#[tokio::test]
async fn full_members_on_redis() {
    messages_for_full_members_are_counted(redis().await, "p!a", "normal").await;
}

#[tokio::test]
async fn full_members_on_both() {
    messages_for_full_members_are_counted(hybrid().await, "normal", "q!a").await;
}

#[tokio::test]
async fn messages_dropped_to_make_room_on_redis() {
    let layer = redis().await;
    let recorder = DebuggingRecorder::new();
    let mut counts = Counts::of(&recorder);
    let _local = metrics::set_default_local_recorder(&recorder);
    for number in 0..2 {
        layer.send("normal", message! { "number": number }).await.unwrap();
    }
    tokio::time::sleep(EXPIRY * 3 / 4).await;
    layer.send("normal", message! { "number": 2 }).await.unwrap();
    tokio::time::sleep(EXPIRY / 2).await;
    layer.send("normal", message! { "number": 3 }).await.unwrap();
    assert_eq!(counts.dropped("expired"), 1, "as many as have to make room");
}

#[tokio::test(start_paused = true)]
async fn messages_left_in_memory_when_it_closes() {
    let layer = memory();
    let recorder = DebuggingRecorder::new();
    let mut counts = Counts::of(&recorder);
    let _local = metrics::set_default_local_recorder(&recorder);
    layer.send("normal", message! {}).await.unwrap();
    layer.close().await.unwrap();
    drop(layer);
    eventually("the count of what is left", async || (counts.dropped("closed") == 1).then_some(())).await;
}
