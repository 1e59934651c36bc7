//! Which channels are open, and what happens to messages for channels that are not.

use std::time::Duration;

use channel_layer::ChannelLayer;
use metrics_util::debugging::DebuggingRecorder;

use super::tools::{ask, config, connect, connect_with, next, numbered};
use crate::support::{Counts, RedisServer, eventually};

async fn subscriptions(server: &RedisServer) -> (usize, i64) {
    let channels: Vec<String> = redis::from_redis_value(ask(&server.url(), "PUBSUB CHANNELS").await).unwrap();
    let patterns: i64 = redis::from_redis_value(ask(&server.url(), "PUBSUB NUMPAT").await).unwrap();
    (channels.len(), patterns)
}

#[tokio::test]
async fn a_layer_subscribes_to_open_channels_and_to_no_others() {
    let server = RedisServer::start();
    let layer = connect_with(config([&*server.url()]).expiry(Duration::from_millis(200))).await;
    let receiver = layer.receiver(&["work", "body?x", "send.p!"]).unwrap();
    for room in ["one", "two"] {
        layer.group_add(room, "send.p!ada").await.unwrap();
    }
    assert_eq!(subscriptions(&server).await, (4, 1));
    layer.group_discard("two", "send.p!ada").await.unwrap();
    let fewer = async || (subscriptions(&server).await == (3, 1)).then_some(());
    eventually("the end of the subscription to a group without members", fewer).await;
    drop(receiver);
    let only_the_group = async || (subscriptions(&server).await == (1, 0)).then_some(());
    eventually("the end of the subscriptions without a reader", only_the_group).await;
    layer.flush().await.unwrap();
    let nothing = async || (subscriptions(&server).await == (0, 0)).then_some(());
    eventually("the end of all subscriptions", nothing).await;
}

#[tokio::test]
async fn a_channel_stays_open_during_a_flush_for_the_next_call_of_its_reader() {
    let server = RedisServer::start();
    let (layer, other) = (connect([&*server.url()]).await, connect([&*server.url()]).await);
    layer.send("work", numbered(1)).await.unwrap();
    assert!(layer.try_receive(&["work"]).await.unwrap().is_none());
    layer.flush().await.unwrap();
    other.send("work", numbered(2)).await.unwrap();
    let delivery = layer.try_receive(&["work"]).await.unwrap().expect("the channel was open");
    assert_eq!(delivery.message, numbered(2));
}

#[tokio::test]
async fn a_membership_that_expires_ends_the_subscription() {
    let server = RedisServer::start();
    let layer = connect_with(
        config([&*server.url()]).expiry(Duration::from_millis(200)).group_expiry(Duration::from_millis(200)),
    )
    .await;
    layer.group_add("room", "news").await.unwrap();
    assert_eq!(subscriptions(&server).await, (1, 0));
    let nothing = async || (subscriptions(&server).await == (0, 0)).then_some(());
    eventually("the end of the subscription", nothing).await;
}

#[tokio::test(flavor = "current_thread")]
async fn messages_without_a_reader_are_counted() {
    let recorder = DebuggingRecorder::new();
    let mut counts = Counts::of(&recorder);
    let _guard = metrics::set_default_local_recorder(&recorder);
    let server = RedisServer::start();
    let layer = connect([&*server.url()]).await;
    layer.send("nobody", numbered(1)).await.unwrap();
    layer.group_send("nobody", numbered(1)).await.unwrap();
    assert_eq!(counts.dropped("no_reader"), 1, "a group without members loses nothing");

    let mut receiver = layer.receiver(&["somebody"]).unwrap();
    layer.subscribe(&["somebody"]).await.unwrap();
    layer.send("somebody", numbered(2)).await.unwrap();
    assert_eq!(next(&mut receiver).await, 2);
    assert_eq!(counts.dropped("no_reader"), 1);
    assert_eq!(counts.counter("channel_layer_sent_total"), 3);
    assert_eq!(counts.counter("channel_layer_received_total"), 1);
}

#[tokio::test(flavor = "current_thread")]
async fn unreadable_messages_are_counted_and_skipped() {
    let recorder = DebuggingRecorder::new();
    let mut counts = Counts::of(&recorder);
    let _guard = metrics::set_default_local_recorder(&recorder);
    let server = RedisServer::start();
    let layer = connect([&*server.url()]).await;
    layer.subscribe(&["work", "send.p!"]).await.unwrap();
    for (topic, payload) in [("work", "no-message"), ("send.p!a!b", "\u{80}"), ("send.p!", "x")] {
        ask(&server.url(), &format!("PUBLISH {topic} {payload}")).await;
    }
    layer.send("work", numbered(1)).await.unwrap();
    let mut receiver = layer.receiver(&["work", "send.p!"]).unwrap();
    assert_eq!(next(&mut receiver).await, 1);
    assert_eq!(counts.dropped("undecodable"), 3);

    let sealed = connect_with(config([&*server.url()]).symmetric_encryption_keys(["k"])).await;
    sealed.subscribe(&["sealed"]).await.unwrap();
    layer.send("sealed", numbered(1)).await.unwrap();
    assert!(sealed.try_receive(&["sealed"]).await.unwrap().is_none());
    assert_eq!(counts.dropped("undecryptable"), 1);
}
