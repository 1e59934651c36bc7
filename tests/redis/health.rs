//! The health of a layer, in code and over HTTP.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use channel_layer::health::{ShardState, Status};
use channel_layer::server::{SocketOptions, health_routes};
use channel_layer::{ChannelLayer, HybridLayer, InterfaceServer, MemoryLayer, PubSubLayer, RedisLayer};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::tools::{Site, connect, numbered};
use crate::support::{DEADLINE, RedisServer, eventually, shared_servers, within};

/// Returns the status and the body of the response for `path`.
async fn get(address: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    within(DEADLINE, "an answer", stream.read_to_string(&mut answer)).await.unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
}

/// Serves the routes of `layer`. Returns the address.
async fn served(layer: Arc<dyn ChannelLayer>) -> String {
    // The layers of a site accept no larger messages.
    let sockets = SocketOptions::new().max_message_size(1 << 19);
    let server = InterfaceServer::new(layer.clone()).sockets(sockets).routes(health_routes(layer));
    let server = server.bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr().to_string();
    tokio::spawn(server.serve(std::future::pending()));
    address
}

#[tokio::test]
async fn the_probe_sends_a_message_through_every_server_and_leaves_no_keys() {
    let before = SystemTime::now();
    let site = Site::on(shared_servers());
    let layer = site.layer().await;
    let health = layer.health().await;
    assert_eq!((health.status, health.fallback_mode, health.shards.len()), (Status::Healthy, false, 3));
    for (index, (shard, server)) in health.shards.iter().zip(shared_servers()).enumerate() {
        assert_eq!((shard.shard, shard.state, &shard.reason), (index, ShardState::Up, &None));
        assert_eq!(shard.server.as_deref(), Some(format!("127.0.0.1:{}", server.port()).as_str()));
        assert_eq!(shard.role.as_deref(), Some("master"));
        assert!(shard.version.as_ref().is_some_and(|version| version.starts_with(char::is_numeric)));
        assert!(shard.latency.is_some() && shard.epoch.is_some() && shard.since >= before);
        let probe = shard.probe.as_ref().unwrap();
        assert!(probe.round_trip.is_some() && probe.error.is_none(), "{probe:?}");
        let left: Vec<_> = site.keys(server).await.into_keys().filter(|key| key.contains("channel:{")).collect();
        assert!(left.is_empty(), "{left:?}");
    }
    // A second call within a second gets the result of the same probe.
    let sent = layer.global_statistics().await.unwrap().messages_count;
    layer.health().await;
    assert_eq!(layer.global_statistics().await.unwrap().messages_count, sent);
}

#[tokio::test]
async fn the_keys_of_a_lost_probe_expire_soon() {
    let server = RedisServer::start();
    let site = Site::on(std::slice::from_ref(&server));
    let layer = connect(site.config().expiry(Duration::from_mins(10))).await;
    let mut connection = server.connection().await;
    let () = super::tools::ask(&mut connection, redis::cmd("ACL").arg(&["SETUSER", "default", "-lmpop"])).await;
    let health = eventually("a probe that does not arrive", async || {
        let health = layer.health().await;
        (health.status == Status::Unhealthy).then_some(health)
    })
    .await;
    assert!(health.shards[0].probe.as_ref().unwrap().error.is_some());
    assert_eq!(health.shards[0].state, ShardState::Up);
    let keys = super::tools::all_keys(&mut connection, &site.list("channel-layer.health*")).await;
    assert!(!keys.is_empty(), "the probe leaves a key if it is not read");
    for key in keys {
        let ttl = super::tools::ttl(&mut connection, &key).await;
        assert!((0..=10_000).contains(&ttl), "{key} lives for {ttl} ms");
    }
}

#[tokio::test]
async fn readers_that_use_all_connections_do_not_make_the_process_unready() {
    let server = RedisServer::start();
    let config = Site::on(std::slice::from_ref(&server)).config();
    let layer = connect(config.pool_size(1).connect_timeout(Duration::from_millis(300))).await;
    let reading = layer.clone();
    let reading = tokio::spawn(async move { reading.receive(&["taken?a"]).await });
    crate::pubsub::tools::somebody_waits(&server.url()).await;
    let mut other = layer.receiver(&["other?a"]).unwrap();
    let refused = within(DEADLINE, "the lack of a connection", other.recv()).await.unwrap_err();
    assert!(refused.is_transient() && !refused.may_have_run(), "{refused:?}");
    let health = layer.health().await;
    assert!(health.is_ready(), "{health:?}");
    layer.send("taken?a", numbered(1)).await.unwrap();
    within(DEADLINE, "the reader", reading).await.unwrap().unwrap();
}

#[tokio::test]
async fn concurrent_calls_share_one_probe() {
    let layer = Site::on(&shared_servers()[..1]).layer().await;
    let asked = futures_util::future::join_all((0..50).map(|_| layer.health())).await;
    assert!(asked.iter().all(channel_layer::Health::is_ready));
    assert_eq!(layer.global_statistics().await.unwrap().messages_count, 1);
}

#[tokio::test]
async fn a_server_that_does_not_answer_makes_the_process_unready_until_it_does() {
    let mut server = RedisServer::start();
    let site = Site::on(std::slice::from_ref(&server));
    let short = Duration::from_millis(500);
    let layer = connect(site.config().command_timeout(short).connect_timeout(short).blocking_timeout(short)).await;
    let address = served(layer.clone()).await;
    assert_eq!(get(&address, "/ready").await, (200, "ready\n".into()));
    let (status, body) = get(&address, "/health/redis").await;
    let json: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &json["status"], &json["fallback_mode"]), (200, &"healthy".into(), &false.into()));
    let shard = &json["shards"][0];
    assert_eq!((&shard["state"], &shard["role"], &shard["reason"]), (&"up".into(), &"master".into(), &Value::Null));
    assert!(shard["since"].is_f64() && shard["latency_seconds"].is_f64() && shard["epoch"].is_string(), "{shard}");
    assert!(shard["probe"]["round_trip_seconds"].is_f64() && shard["probe"]["age_seconds"].is_f64(), "{shard}");

    server.freeze();
    eventually("503", async || {
        let (status, body) = get(&address, "/ready").await;
        (status == 503 && body.starts_with("not ready\n")).then_some(())
    })
    .await;
    assert_eq!(get(&address, "/live").await.0, 200);
    let (status, body) = get(&address, "/health/redis").await;
    let json: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &json["status"]), (503, &"unhealthy".into()));
    server.thaw();
    eventually("200", async || (get(&address, "/ready").await.0 == 200).then_some(())).await;

    server.stop();
    eventually("the reason", async || {
        let (status, body) = get(&address, "/health/redis").await;
        let json: Value = serde_json::from_str(&body).unwrap();
        let shard = &json["shards"][0];
        (status == 503 && shard["state"] == "down" && shard["reason"].is_string()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_ready_process_without_its_server_reports_the_reason() {
    let server = RedisServer::start();
    let layer = Arc::new(PubSubLayer::connect(Site::on(std::slice::from_ref(&server)).config()).await.unwrap());
    let address = served(layer).await;
    assert_eq!(get(&address, "/ready").await, (200, "ready\n".into()));
    let mut connection = server.connection().await;
    let () = redis::cmd("CONFIG").arg(&["SET", "requirepass", "other"]).query_async(&mut connection).await.unwrap();
    let _: i64 = redis::cmd("CLIENT").arg(&["KILL", "TYPE", "normal"]).query_async(&mut connection).await.unwrap();
    eventually("the reason", async || {
        let (status, body) = get(&address, "/ready").await;
        assert!(body.starts_with("ready\n") || status == 503, "{body}");
        (status == 200 && body.to_ascii_lowercase().contains("noauth")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn layers_in_memory_have_no_servers_to_report() {
    let layer: Arc<dyn ChannelLayer> = Arc::new(MemoryLayer::new());
    let health = layer.health().await;
    assert_eq!((health.status, health.shards.len(), health.is_ready()), (Status::Disabled, 0, true));
    assert_eq!(layer.redis_stats().await.unwrap(), []);
    let address = served(layer).await;
    assert_eq!(get(&address, "/ready").await.0, 200);
    let (status, body) = get(&address, "/health/redis").await;
    assert_eq!((status, body.as_str()), (200, r#"{"status":"disabled","fallback_mode":false,"shards":[]}"#));
}

#[tokio::test]
async fn a_shared_hybrid_layer_reports_its_servers() {
    let remote = Site::on(&shared_servers()[..2]).layer().await;
    let layer: Arc<dyn ChannelLayer> = Arc::new(HybridLayer::<_, RedisLayer>::new(MemoryLayer::new(), remote));
    let health = layer.health().await;
    assert_eq!((health.status, health.shards.len()), (Status::Healthy, 2));
    assert_eq!(layer.redis_stats().await.unwrap().len(), 2);
}

#[tokio::test]
async fn servers_report_their_load() {
    let layer = Site::on(shared_servers()).layer().await;
    let stats = layer.redis_stats().await.unwrap();
    assert_eq!(stats.iter().map(|stats| stats.shard).collect::<Vec<_>>(), [0, 1, 2]);
    for stats in stats {
        assert!(stats.connected_clients > 0 && stats.used_memory > 100_000, "{stats:?}");
        assert!(stats.total_commands_processed > 0, "{stats:?}");
    }
}

#[tokio::test]
async fn a_layer_in_fallback_mode_is_unhealthy_and_ready() {
    let mut server = RedisServer::start();
    let config = Site::on(std::slice::from_ref(&server)).config().command_timeout(Duration::from_secs(1));
    let layer = PubSubLayer::connect(config).await.unwrap();
    let health = layer.health().await;
    assert_eq!((health.status, health.fallback_mode), (Status::Healthy, false));
    assert_eq!(layer.redis_stats().await.unwrap().len(), 1);
    server.stop();
    let health = eventually("the fallback", async || {
        let health = layer.health().await;
        health.fallback_mode.then_some(health)
    })
    .await;
    assert_eq!((health.status, health.is_ready()), (Status::Unhealthy, true));
    assert!(health.shards[0].reason.is_some());
}
