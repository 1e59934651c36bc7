//! A queue that is full drops by the policy, and counts.

use channel_layer::{ChannelLayer, Overflow};
use metrics_util::debugging::DebuggingRecorder;

use super::tools::{config, connect_with, number, numbered};
use crate::support::{Counts, RedisServer};

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
    let mut kept = Vec::new();
    while let Some(delivery) = layer.try_receive(&["slow"]).await.unwrap() {
        kept.push(number(&delivery));
    }
    assert_eq!(layer.channel_statistics("slow").await.unwrap().channel_full_count, 2);
    (kept, counts.dropped("overflow"))
}

#[tokio::test(flavor = "current_thread")]
async fn the_oldest_go() {
    assert_eq!(kept(Overflow::DropOldest).await, (vec![2, 3, 4], 2));
}

#[tokio::test(flavor = "current_thread")]
async fn the_newest_go() {
    assert_eq!(kept(Overflow::DropNewest).await, (vec![0, 1, 2], 2));
}
