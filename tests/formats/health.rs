//! The health of layers in the formats of Python.

use channel_layer::health::{ShardState, Status};
use channel_layer::{Config, Event, message};

use super::site::Site;
use crate::support::{DEADLINE, RedisServer, eventually, python_formats, shared_servers, within};

#[tokio::test]
async fn the_probe_sends_a_message_through_every_server_and_leaves_no_keys() {
    for format in python_formats() {
        let mut site = Site::start().await;
        let layer = channel_layer::connect(site.config_on(3).format(format)).await.unwrap();
        let health = layer.health().await;
        assert_eq!((health.status, health.fallback_mode, health.shards.len()), (Status::Healthy, false, 3));
        for (shard, server) in health.shards.iter().zip(shared_servers()) {
            assert_eq!((shard.state, &shard.reason), (ShardState::Up, &None));
            assert_eq!(shard.server.as_deref(), Some(format!("127.0.0.1:{}", server.port()).as_str()));
            assert!(
                shard.epoch.is_some()
                    && shard.latency.is_some()
                    && shard.version.is_some()
                    && shard.role.as_deref() == Some("master")
            );
            let probe = shard.probe.as_ref().unwrap();
            assert!(probe.round_trip.is_some() && probe.error.is_none(), "{probe:?}");
        }
        let mut left = site.keys().await;
        // Statistics of asgi_redis outlive the messages.
        left.retain(|key| !key.starts_with("-meta:"));
        assert_eq!(left, [""; 0]);
        let stats = layer.redis_stats().await.unwrap();
        assert_eq!(stats.iter().map(|stats| stats.shard).collect::<Vec<_>>(), [0, 1, 2]);
        assert!(stats.iter().all(|stats| stats.used_memory > 100_000 && stats.total_commands_processed > 0));
    }
}

#[tokio::test]
async fn a_server_that_returns_empty_is_reported_and_one_with_its_data_is_not() {
    for format in python_formats() {
        for (mut server, is_empty) in [(RedisServer::start(), true), (RedisServer::durable(), false)] {
            let config = Config::new().host(server.url()).format(format);
            let layer = channel_layer::connect(config).await.unwrap();
            // A flush does not count as a loss of data.
            layer.flush().await.unwrap();
            let mut events = layer.events();
            assert_eq!(layer.outage(), None);
            server.stop();
            eventually("the outage", async || layer.outage()).await;
            server.start_again();
            let mut lost = false;
            within(DEADLINE, "the end of the outage", async {
                while !matches!(events.recv().await.unwrap(), Event::ShardUp { .. }) {}
                // The loss is reported right after that.
                layer.send("work", message! { "type": "a.b" }).await.unwrap();
                while let Ok(event) = events.try_recv() {
                    lost |= matches!(event, Event::DataLost { shard: 0 });
                }
            })
            .await;
            assert_eq!(lost, is_empty);
        }
    }
}

#[tokio::test]
async fn a_probe_that_cannot_be_read_makes_the_layer_unhealthy_though_its_server_answers() {
    for format in python_formats() {
        let server = RedisServer::start();
        let mut command = redis::cmd("ACL");
        command.arg(&["SETUSER", "sender", "on", ">p", "allkeys", "+@all", "-zpopmin", "-bzpopmin", "-lpop", "-blpop"]);
        let () = command.query_async(&mut server.connection().await).await.unwrap();
        let url = format!("redis://sender:p@127.0.0.1:{}", server.port());
        let layer = channel_layer::connect(Config::new().host(url).format(format)).await.unwrap();
        let health = within(DEADLINE, "the health", layer.health()).await;
        assert_eq!((health.status, health.shards[0].state), (Status::Unhealthy, ShardState::Up));
        let probe = health.shards[0].probe.as_ref().unwrap();
        assert!(probe.error.is_some() && probe.round_trip.is_none(), "{probe:?}");
    }
}
