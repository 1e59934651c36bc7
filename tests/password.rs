//! The password of a server changes while layers are connected. The reason of the outage is reported once.

use channel_layer::{ChannelLayer, Event, FallbackLayer, PubSubLayer, RedisLayer};

use crate::pubsub::tools::{config, event};
use crate::support::{Log, RedisServer, eventually};

fn has_the_reason(text: &str) -> bool {
    text.to_ascii_lowercase().contains("noauth")
}

async fn total_connections(connection: &mut redis::aio::MultiplexedConnection) -> u64 {
    let info: String = redis::cmd("INFO").arg("stats").query_async(connection).await.unwrap();
    let line = info.lines().find_map(|line| line.strip_prefix("total_connections_received:")).unwrap();
    line.trim().parse().unwrap()
}

/// Changes the password of `server` under `layer`, and checks that events, health and the log report the reason.
async fn reports_why(layer: impl ChannelLayer, server: &RedisServer, log: &Log, expected: fn(&Event) -> Option<&str>) {
    let mut connection = server.connection().await;
    let mut events = layer.events();
    let () = redis::cmd("CONFIG").arg(&["SET", "requirepass", "other"]).query_async(&mut connection).await.unwrap();
    for kind in ["normal", "pubsub"] {
        let _: i64 = redis::cmd("CLIENT").arg(&["KILL", "TYPE", kind]).query_async(&mut connection).await.unwrap();
    }
    event(&mut events, "the reason", |event| expected(event).is_some_and(has_the_reason)).await;
    let before = total_connections(&mut connection).await;
    eventually("more attempts", async || (total_connections(&mut connection).await >= before + 3).then_some(())).await;
    let reason = layer.health().await.shards.swap_remove(0).reason;
    assert!(reason.as_deref().is_some_and(has_the_reason), "{reason:?}");
    let log = log.text();
    // The text after the time of a line.
    let mut warnings: Vec<_> =
        log.lines().filter_map(|line| line.trim().split_once(' ')).map(|(_, line)| line.trim()).collect();
    warnings.retain(|line| line.starts_with("WARN") && has_the_reason(line));
    warnings.sort_unstable();
    let lines = warnings.len();
    warnings.dedup();
    assert!(lines > 0 && lines == warnings.len(), "{log}");
}

fn down(event: &Event) -> Option<&str> {
    match event {
        Event::ShardDown { shard: 0, reason } => Some(reason),
        _ => None,
    }
}

fn local_only(event: &Event) -> Option<&str> {
    match event {
        Event::LocalOnly { shard: 0, reason } => Some(reason),
        _ => None,
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_layer_reports_why_its_server_refuses_it() {
    let log = Log::default();
    let _guard = log.keep();
    let server = RedisServer::start();
    let layer = RedisLayer::connect(config([&*server.url()])).await.unwrap();
    reports_why(layer, &server, &log, down).await;
}

#[tokio::test(flavor = "current_thread")]
async fn a_fallback_layer_reports_why_its_server_refuses_it() {
    let log = Log::default();
    let _guard = log.keep();
    let server = RedisServer::start();
    let layer = FallbackLayer::connect(config([&*server.url()])).await.unwrap();
    reports_why(layer, &server, &log, local_only).await;
}

#[tokio::test(flavor = "current_thread")]
async fn a_pubsub_layer_reports_why_its_server_refuses_it() {
    let log = Log::default();
    let _guard = log.keep();
    let server = RedisServer::start();
    let layer = PubSubLayer::connect(config([&*server.url()])).await.unwrap();
    reports_why(layer, &server, &log, local_only).await;
}

#[tokio::test(flavor = "current_thread")]
async fn a_lost_subscription_has_the_reason_with_the_reason() {
    let log = Log::default();
    let _guard = log.keep();
    let server = RedisServer::start();
    let layer = PubSubLayer::connect(config([&*server.url()])).await.unwrap();
    layer.subscribe(&["work"]).await.unwrap();
    let mut connection = server.connection().await;
    let mut events = layer.events();
    let () = redis::cmd("CONFIG").arg(&["SET", "requirepass", "other"]).query_async(&mut connection).await.unwrap();
    let _: i64 = redis::cmd("CLIENT").arg(&["KILL", "TYPE", "pubsub"]).query_async(&mut connection).await.unwrap();
    event(&mut events, "the reason", |event| local_only(event).is_some_and(has_the_reason)).await;
    let health = layer.health().await;
    assert!(health.shards[0].reason.as_deref().is_some_and(has_the_reason), "{health:?}");
    assert!(has_the_reason(&log.text()));
}
