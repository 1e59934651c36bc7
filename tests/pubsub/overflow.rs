//! A full queue drops messages by its policy and counts them.

use channel_layer::{ChannelLayer, Config, Overflow};
use metrics_util::debugging::DebuggingRecorder;

use super::tools::{config, connect_with, number, numbered, up_to};
use crate::support::{Counts, DEADLINE, RedisServer, within};

async fn kept(overflow: Overflow) -> (Vec<i64>, u64) {
    let recorder = DebuggingRecorder::new();
    let mut counts = Counts::of(&recorder);
    let _guard = metrics::set_default_local_recorder(&recorder);
    let server = RedisServer::start();
    let layer = connect_with(config([&*server.url()]).capacity(3).overflow(overflow)).await;
    layer.subscribe(&["slow"]).await.unwrap();
    for number in 0..5 {
        layer.send("slow", numbered(number)).await.unwrap();
    }
    // All messages arrive before the first is taken.
    assert!(layer.try_receive(&["other"]).await.unwrap().is_none());
    let mut kept = Vec::new();
    while let Some(delivery) = layer.try_receive(&["slow"]).await.unwrap() {
        kept.push(number(&delivery));
    }
    assert_eq!(layer.channel_statistics("slow").await.unwrap().channel_full_count, 2);
    (kept, counts.dropped("overflow"))
}

#[tokio::test]
async fn a_burst_waits_in_a_queue_of_the_default_length() {
    let server = RedisServer::start();
    let layer = connect_with(Config::new().host(server.url())).await;
    layer.subscribe(&["slow"]).await.unwrap();
    let burst: Vec<_> = (0..10_001).map(|number| ("slow", numbered(number))).collect();
    for result in layer.send_many(&burst).await {
        result.unwrap();
    }
    assert!(layer.try_receive(&["other"]).await.unwrap().is_none());
    let mut receiver = layer.receiver(&["slow"]).unwrap();
    let last = within(DEADLINE, "the whole burst", up_to(&mut receiver, 10_000)).await;
    assert_eq!(last, (1..=10_000).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_queue_is_bounded_in_bytes() {
    let server = RedisServer::start();
    let layer = connect_with(config([&*server.url()]).max_queue_size(1 << 20)).await;
    layer.subscribe(&["slow"]).await.unwrap();
    for number in 0..20 {
        layer.send("slow", numbered(number).with("body", vec![0u8; 100_000])).await.unwrap();
    }
    // `try_receive` waits for all messages that were published before it, on any channel.
    assert!(layer.try_receive(&["other"]).await.unwrap().is_none());
    let mut receiver = layer.receiver(&["slow"]).unwrap();
    assert_eq!(up_to(&mut receiver, 19).await, (10..20).collect::<Vec<_>>());
}

#[tokio::test(flavor = "current_thread")]
async fn drop_oldest_drops_the_oldest_messages() {
    assert_eq!(kept(Overflow::DropOldest).await, (vec![2, 3, 4], 2));
}

#[tokio::test(flavor = "current_thread")]
async fn drop_newest_drops_the_newest_messages() {
    assert_eq!(kept(Overflow::DropNewest).await, (vec![0, 1, 2], 2));
}
