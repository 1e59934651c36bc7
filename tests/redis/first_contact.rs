//! The error for an unusable server contains its address and the cause.

use std::error::Error as _;
use std::net::TcpStream;
use std::time::Duration;

use channel_layer::health::Status;
use channel_layer::{ChannelLayer, Config, Error, Event, Fallback, Format, message};

use super::tools::{Site, ask, connect, event, number, numbered, publishes};
use crate::support::{DEADLINE, FORMATS, FakeServer, RedisServer, TestedFormat, eventually, stored_formats, within};

fn config(url: &str, format: Format) -> Config {
    let config = Site::at([url.to_owned()]).config().format(format).retry_attempts(0);
    // Without a fallback, so that a layer does not start alone.
    let config = if format == Format::PubSub { config.fallback(Fallback::Fail) } else { config };
    config.connect_timeout(Duration::from_secs(1)).command_timeout(Duration::from_secs(1))
}

async fn refusal(config: Config) -> Error {
    within(DEADLINE, "a refusal", channel_layer::connect(config))
        .await
        .map(drop)
        .expect_err("the server should be refused")
}

fn address(url: &str) -> &str {
    url.trim_start_matches("redis://").trim_end_matches("/0")
}

/// Checks that the error of a layer at `url` contains the address and the cause `why` exactly once, in all forms.
async fn is_refused_because(url: &str, format: Format, why: &str) -> Error {
    let error = refusal(config(url, format)).await;
    let said = error.to_string();
    assert!(said.starts_with(&format!("cannot connect to Redis at {}: {why}", address(url))), "{format:?}: {said}");
    assert!(error.source().is_none(), "{said}: its cause would be printed twice");
    assert_eq!(format!("{error:?}").matches(&*why.escape_debug().to_string()).count(), 1, "{error:?}");
    error
}

/// A Redis Cluster of one node, which has all slots.
pub async fn cluster() -> RedisServer {
    let server = RedisServer::with(&["--cluster-enabled", "yes"]);
    let mut connection = server.connection().await;
    let () = ask(&mut connection, redis::cmd("CLUSTER").arg(&["ADDSLOTSRANGE", "0", "16383"])).await;
    eventually("a cluster that works", async || {
        let info: String = ask(&mut connection, redis::cmd("CLUSTER").arg("INFO")).await;
        info.contains("cluster_state:ok").then_some(())
    })
    .await;
    server
}

#[tokio::test]
async fn a_cluster_is_refused_in_every_format_that_stores_messages() {
    let (server, good) = (cluster().await, RedisServer::start());
    for format in stored_formats() {
        let error =
            is_refused_because(&server.url(), format, "this is a node of a Redis Cluster: set `cluster = true`").await;
        assert!(!error.is_transient() && !error.may_have_run(), "{error:?}");
        let in_a_database = server.url().replace("/0", "/1");
        let said = refusal(config(&in_a_database, format)).await.to_string();
        assert!(said.contains("this is a node of a Redis Cluster: set `cluster = true`"), "{said}");
        // A second server that works does not change the result.
        let both = Site::at([good.url(), server.url()]).config().format(format);
        let error = refusal(both).await;
        assert!(matches!(error, Error::Redis { shard: 1, .. }), "{error:?}");
    }
}

#[tokio::test]
async fn messages_are_published_on_a_cluster_without_sharded_topics() {
    let server = cluster().await;
    publishes(config(&server.url(), Format::PubSub)).await;
    let said = refusal(config(&server.url(), Format::PubSub).sharded_pubsub(true)).await.to_string();
    assert!(said.contains("this is a node of a Redis Cluster: set `cluster = true`"), "{said}");
}

#[tokio::test]
async fn a_sentinel_that_is_configured_as_a_host_is_reported() {
    let sentinel = RedisServer::sentinel("");
    for TestedFormat { format, .. } in FORMATS {
        let error = is_refused_because(&sentinel.url(), format, "this is a sentinel, which stores no messages").await;
        assert!(!error.is_transient(), "{error:?}");
    }
}

#[tokio::test]
async fn a_server_of_another_kind_is_reported() {
    let http = FakeServer::saying("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n").await;
    let ssh = FakeServer::greeting("SSH-2.0-OpenSSH_9.2\r\n").await;
    let silent = FakeServer::silent().await;
    for TestedFormat { format, .. } in FORMATS {
        is_refused_because(&http.url(), format, "this is an HTTP server").await;
        is_refused_because(&ssh.url(), format, "this is not a Redis server: it answered \"SSH-2.0-").await;
        is_refused_because(&silent.url(), format, "no answer ").await;
    }
}

#[tokio::test]
async fn a_server_in_protected_mode_is_reported() {
    let denied = "-DENIED Redis is running in protected mode because protected mode is enabled and no password is set \
                  for the default user. In this mode connections are only accepted from the loopback interface.\r\n";
    let server = FakeServer::greeting(denied).await;
    for TestedFormat { format, .. } in FORMATS {
        is_refused_because(&server.url(), format, "the server is in protected mode").await;
    }
}

#[tokio::test]
async fn a_server_that_is_too_old_is_reported_with_its_version_and_address() {
    let server = FakeServer::of_version("4.0.14").await;
    for TestedFormat { format, oldest_server: needed, .. } in FORMATS {
        let error = refusal(config(&server.url(), format)).await;
        let address = address(&server.url()).to_owned();
        let expected = format!("Redis at {address} has version 4.0.14, but {needed} or later is required");
        assert_eq!(error.to_string(), expected);
    }
}

/// Opens connections until the server accepts no more clients.
fn fill(server: &RedisServer, clients: usize) -> Vec<TcpStream> {
    (0..clients).map(|_| TcpStream::connect(("127.0.0.1", server.port())).unwrap()).collect()
}

#[tokio::test]
async fn a_server_without_room_for_clients_is_reported() {
    let server = RedisServer::with(&["--maxclients", "4"]);
    let _all = fill(&server, 4);
    for TestedFormat { format, .. } in FORMATS {
        let error = is_refused_because(&server.url(), format, "ERR max number of clients reached").await;
        assert!(error.is_transient(), "{error:?}");
    }
}

#[tokio::test]
async fn a_reader_gets_the_error_of_a_server_without_room_for_clients() {
    for format in stored_formats() {
        let server = RedisServer::with(&["--maxclients", "4"]);
        let layer = channel_layer::connect(config(&server.url(), format)).await.unwrap();
        let _others = fill(&server, 3);
        let mut receiver = layer.receiver(&["work"]).unwrap();
        let error = within(DEADLINE, "an error", receiver.recv()).await.expect_err("there is no connection for it");
        let expected = format!("cannot connect to Redis at {}: ERR max number of clients", address(&server.url()));
        assert!(error.to_string().starts_with(&expected), "{format:?}: {error}");
    }
}

#[tokio::test]
async fn a_wrong_password_is_reported_with_the_address() {
    let server = RedisServer::start();
    let () = ask(&mut server.connection().await, redis::cmd("CONFIG").arg(&["SET", "requirepass", "right"])).await;
    for TestedFormat { format, .. } in FORMATS {
        let url = server.url().replace("redis://", "redis://:wrong@");
        let said = refusal(config(&url, format)).await.to_string();
        let expected = format!("cannot connect to Redis at {}: authentication failed", address(&server.url()));
        assert!(said.starts_with(&expected), "{said}");
        let said = refusal(config(&server.url(), format)).await.to_string();
        assert!(said.contains(&format!("Redis at {}: NOAUTH", address(&server.url()))), "{said}");
    }
}

#[tokio::test]
async fn events_and_health_contain_the_address_and_the_cause() {
    let mut server = RedisServer::start();
    let layer = connect(config(&server.url(), Format::Native)).await;
    let at = format!("Redis at {}: ", address(&server.url()));
    let mut events = layer.events();
    server.stop();
    let down = event(&mut events, "the outage", |event| matches!(event, Event::ShardDown { .. })).await;
    assert!(matches!(&down, Event::ShardDown { reason, .. } if reason.contains(&at)), "{down:?}");
    let expected = format!("cannot connect to {at}connection refused");
    eventually("the reason", async || {
        let health = layer.health().await;
        assert_eq!(health.status, Status::Unhealthy);
        (health.shards[0].reason.as_ref() == Some(&expected)).then_some(())
    })
    .await;
    let error = layer.send("l!a", numbered(1)).await.unwrap_err();
    assert_eq!(error.to_string(), expected);
    server.start_again();
    eventually("a send", async || layer.send("l!a", numbered(1)).await.ok()).await;
    assert_eq!(number(&within(DEADLINE, "a message", layer.receive(&["l!"])).await.unwrap()), 1);
}

#[tokio::test]
async fn an_invalid_answer_is_reported_with_the_address() {
    let server = RedisServer::start();
    let () = ask(&mut server.connection().await, redis::cmd("SET").arg(&["asgiwork", "somebody else's"])).await;
    let layer = channel_layer::connect(Config::new().host(server.url()).format(Format::ChannelsRedis)).await.unwrap();
    let error = layer.send("work", message! { "type": "a.b" }).await.unwrap_err();
    let expected = format!("Redis at {}: unexpected answer: ", address(&server.url()));
    assert!(error.to_string().starts_with(&expected), "{error}");
}
