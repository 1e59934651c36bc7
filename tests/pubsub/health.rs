//! The health of the layer: a probe publishes a message through each server and receives it.

use std::time::Duration;

use channel_layer::health::{ShardState, Status};
use channel_layer::{ChannelLayer, Mode, PubSubLayer};

use super::tools::{ask, config, connect, connect_with, mode};
use crate::support::{DEADLINE, RedisServer, eventually, within};

/// Returns the Redis channels of `server` that have subscribers.
async fn subscribed(server: &RedisServer) -> Vec<String> {
    redis::from_redis_value(ask(&server.url(), "PUBSUB CHANNELS").await).unwrap()
}

/// Waits until the probe of the first server fails.
async fn probe_fails(layer: &PubSubLayer) {
    eventually("a probe that fails", async || {
        let shard = layer.health().await.shards.swap_remove(0);
        shard.probe.unwrap().error.map(|error| assert!(error.contains("NOPERM"), "{error}"))
    })
    .await;
}

#[tokio::test]
async fn the_probe_sends_a_message_through_every_server_and_leaves_no_keys() {
    let servers = [RedisServer::start(), RedisServer::start()];
    let urls = servers.each_ref().map(RedisServer::url);
    for sharded in [false, true] {
        let layer = connect_with(config(urls.iter().map(String::as_str)).sharded_pubsub(sharded)).await;
        let health = within(DEADLINE, "health", layer.health()).await;
        assert_eq!((health.status, health.fallback_mode, health.shards.len()), (Status::Healthy, false, 2));
        for shard in &health.shards {
            let probe = shard.probe.as_ref().unwrap();
            assert!(probe.round_trip.is_some() && probe.error.is_none(), "{probe:?}");
        }
        // A second call within a second gets the result of the same probe.
        let again = layer.health().await;
        assert_eq!(
            again.shards[0].probe.as_ref().unwrap().round_trip,
            health.shards[0].probe.as_ref().unwrap().round_trip
        );
        assert_eq!(layer.global_statistics().await.unwrap().messages_pending, 0);
        for server in &servers {
            eventually("the end of the subscription", async || subscribed(server).await.is_empty().then_some(())).await;
        }
    }
}

#[tokio::test]
async fn a_probe_that_does_not_return_makes_the_process_unready() {
    for forbidden in ["publish", "subscribe"] {
        let server = RedisServer::start();
        let layer = connect([&*server.url()]).await;
        assert!(layer.health().await.is_ready());
        ask(&server.url(), &format!("ACL SETUSER default -{forbidden}")).await;
        probe_fails(&layer).await;
        let health = layer.health().await;
        assert_eq!((health.status, health.shards[0].state), (Status::Unhealthy, ShardState::Up));
        assert!(!health.is_ready() && !health.fallback_mode);
        ask(&server.url(), &format!("ACL SETUSER default +{forbidden}")).await;
        eventually("a probe that arrives", async || layer.health().await.is_ready().then_some(())).await;
    }
}

#[tokio::test]
async fn a_failed_probe_makes_the_process_unready_even_if_another_server_is_down() {
    let (refusing, mut down) = (RedisServer::start(), RedisServer::start());
    let layer = connect([&*refusing.url(), &*down.url()]).await;
    down.stop();
    mode(&layer, Mode::LocalOnly).await;
    let health = layer.health().await;
    assert!(health.is_ready() && health.fallback_mode, "{health:?}");
    assert_eq!(health.shards.iter().map(|shard| shard.fallback_mode).collect::<Vec<_>>(), [false, true]);
    ask(&refusing.url(), "ACL SETUSER default -publish").await;
    probe_fails(&layer).await;
    let health = layer.health().await;
    assert!(!health.is_ready() && health.fallback_mode, "{health:?}");
}

#[tokio::test]
async fn no_probe_is_sent_to_a_server_that_is_down() {
    let mut server = RedisServer::start();
    let layer = connect([&*server.url()]).await;
    server.stop();
    mode(&layer, Mode::LocalOnly).await;
    let health = within(Duration::from_millis(500), "health", layer.health()).await;
    assert!(health.shards[0].probe.as_ref().unwrap().error.is_some(), "{health:?}");
    assert_eq!(layer.status()[0].stayed_local, 0);
}
