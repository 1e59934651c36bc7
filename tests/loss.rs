//! Losses that only one layer has are counted. The conformance suite covers the others.

use std::time::Duration;

use channel_layer::{ChannelLayer, Config, MemoryLayer, RedisLayer, message};
use metrics_util::debugging::DebuggingRecorder;

use crate::support::{Counts, eventually, random_prefix, shared_servers};

const EXPIRY: Duration = Duration::from_secs(2);

fn config() -> Config {
    Config::new().prefix(random_prefix()).expiry(EXPIRY).capacity(3).max_message_size(1 << 19)
}

#[tokio::test]
async fn expired_messages_dropped_to_make_room_are_counted() {
    let layer = RedisLayer::connect(config().host(shared_servers()[0].url())).await.unwrap();
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
    assert_eq!(counts.dropped("expired"), 1, "only as many as needed make room");
}

#[tokio::test(start_paused = true)]
async fn messages_left_in_a_closed_memory_layer_are_counted() {
    let layer = MemoryLayer::with_config(&config()).unwrap();
    let recorder = DebuggingRecorder::new();
    let mut counts = Counts::of(&recorder);
    let _local = metrics::set_default_local_recorder(&recorder);
    layer.send("normal", message! {}).await.unwrap();
    layer.close().await.unwrap();
    drop(layer);
    eventually("the count of the remaining message", async || (counts.dropped("closed") == 1).then_some(())).await;
}
