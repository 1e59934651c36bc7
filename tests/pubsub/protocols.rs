//! Servers that only speak RESP2, and servers that refuse connections, subscriptions or messages.

use std::time::{Duration, Instant};

use channel_layer::{ChannelLayer, Error, PubSubLayer};

use super::tools::{ask, config, connect, connect_with, next, number, numbered};
use crate::support::{DEADLINE, FakeServer, RedisServer, eventually, within};

#[tokio::test]
async fn a_server_without_resp3_is_used_over_resp2() {
    let server = RedisServer::with(&["--appendonly", "no", "--rename-command", "HELLO", ""]);
    let (layer, other) = (connect([&*server.url()]).await, connect([&*server.url()]).await);
    let mut receiver = layer.receiver(&["send.p!", "work"]).unwrap();
    layer.group_add("room", "send.p!ada").await.unwrap();
    layer.subscribe(&["work"]).await.unwrap();
    for number in 0..500 {
        other.group_send("room", numbered(2 * number)).await.unwrap();
        other.send("work", numbered(2 * number + 1)).await.unwrap();
    }
    let mut got = Vec::new();
    for _ in 0..1000 {
        got.push(next(&mut receiver).await);
    }
    for rest in [0, 1] {
        let of_one: Vec<_> = got.iter().copied().filter(|number| number % 2 == rest).collect();
        assert_eq!(of_one, (0..500).map(|number| 2 * number + rest).collect::<Vec<_>>());
    }
    // `try_receive` finds earlier messages, although they arrive over another connection.
    for round in 0..50 {
        other.send("work", numbered(round)).await.unwrap();
        let found = layer.try_receive(&["work"]).await.unwrap().expect("the message was sent before");
        assert_eq!(number(&found), round);
    }
    layer.group_discard("room", "send.p!ada").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_resp2_a_flood_of_messages_delays_no_subscription() {
    // The server does not close a connection that falls behind.
    let server = RedisServer::with(&["--client-output-buffer-limit", "pubsub 0 0 0", "--rename-command", "HELLO", ""]);
    let layer = connect_with(config([&*server.url()]).command_timeout(Duration::from_mins(1))).await;
    let mut events = layer.events();
    layer.subscribe(&["work"]).await.unwrap();
    // A map with a list of 10,000 numbers, as MessagePack. Decoding all of these messages takes many seconds.
    let large = [&b"\x81\xa4list\xdc\x27\x10"[..], &[1; 10_000]].concat();
    let mut flood = redis::pipe();
    for _ in 0..6000 {
        flood.cmd("PUBLISH").arg("work").arg(&large).ignore();
    }
    let () = flood.query_async(&mut server.connection().await).await.unwrap();
    let began = Instant::now();
    let mut number = 0;
    // Longer than the connection may be silent before it is probed.
    while began.elapsed() < Duration::from_secs(2) {
        let name = format!("other{number}");
        within(Duration::from_secs(3), "a subscription", layer.subscribe(&[&name])).await.unwrap();
        number += 1;
    }
    let event = events.try_recv();
    assert!(event.is_err(), "{event:?}");
}

#[tokio::test]
async fn a_refusal_of_the_server_is_returned_to_the_caller() {
    for hello in ["", "-hello"] {
        let server = RedisServer::start();
        ask(
            &server.url(),
            &format!("ACL SETUSER limited on >pw +@all {hello} resetchannels &allowed*").replace("  ", " "),
        )
        .await;
        let url = server.url().replace("redis://", "redis://limited:pw@");
        let layer = connect_with(config([&*url])).await;
        layer.subscribe(&["allowed"]).await.unwrap();
        for refused in [
            layer.subscribe(&["other"]).await.unwrap_err(),
            layer.send("other", numbered(1)).await.unwrap_err(),
            within(DEADLINE, "a refusal", layer.receive(&["other"])).await.unwrap_err(),
            layer.group_add("room", "allowed").await.unwrap_err(),
        ] {
            assert!(matches!(refused, Error::Redis { shard: 0, .. }), "{refused:?}");
        }
        layer.send("allowed", numbered(2)).await.unwrap();
        assert_eq!(number(&within(DEADLINE, "the message", layer.receive(&["allowed"])).await.unwrap()), 2);
    }
}

#[tokio::test]
async fn a_subscription_refused_later_is_reported_and_retried() {
    let server = RedisServer::start();
    ask(&server.url(), "ACL SETUSER limited on >pw +@all allchannels").await;
    let url = server.url().replace("redis://", "redis://limited:pw@");
    let layer = connect_with(config([&*url])).await;
    let mut receiver = layer.receiver(&["work"]).unwrap();
    layer.subscribe(&["work"]).await.unwrap();
    // Redis closes the connections of clients that may no longer use one of their channels.
    ask(&server.url(), "ACL SETUSER limited resetchannels &channel-layer*").await;
    let refused = within(DEADLINE, "the refusal", receiver.recv()).await.unwrap_err();
    assert!(matches!(refused, Error::Redis { shard: 0, .. }), "{refused:?}");
    let health = layer.health().await;
    let reason = health.shards[0].reason.as_deref();
    assert!(!health.is_ready() && reason.is_some_and(|reason| reason.contains("refused")), "{health:?}");

    ask(&server.url(), "ACL SETUSER limited allchannels").await;
    eventually("the subscription", async || layer.health().await.is_ready().then_some(())).await;
    layer.send("work", numbered(1)).await.unwrap();
    assert_eq!(number(&within(DEADLINE, "the message", receiver.recv()).await.unwrap()), 1);
}

#[tokio::test]
async fn a_server_that_is_too_old_is_refused() {
    for (version, sharded, needed) in [("4.0.14", false, "5.0"), ("6.2.14", true, "7.0")] {
        let server = FakeServer::of_version(version).await;
        let config = config([&*server.url()]).sharded_pubsub(sharded);
        let error = within(DEADLINE, "a refusal", PubSubLayer::connect(config)).await.unwrap_err();
        assert!(error.to_string().contains(needed), "{error}");
    }
}

#[tokio::test]
async fn a_prefix_with_pattern_characters_is_refused() {
    for prefix in ["a!", "a*", "a[b]", "a?"] {
        let config = config(["redis://127.0.0.1:1"]).prefix(prefix);
        let error = PubSubLayer::connect(config).await.unwrap_err();
        assert!(matches!(error, Error::InvalidConfig { .. }), "{error}");
    }
}
