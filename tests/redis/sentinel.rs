//! Masters that are found through sentinels.

use std::time::Duration;

use channel_layer::{ChannelLayer, Config, Error, Host, RedisLayer};

use super::tools::{ask, connect, numbered, take_number};
use crate::support::{RedisServer, Replicated, ReservedPort, eventually, random_prefix, shared_servers};

fn config(sentinels: impl IntoIterator<Item = Host>) -> Config {
    Config::new()
        .sentinels(sentinels)
        .prefix(random_prefix())
        .stats_prefix(format!("{}-meta:", random_prefix()))
        .capacity(100_000)
        .blocking_timeout(Duration::from_secs(1))
}

/// Starts a sentinel that monitors the shared servers as `one`, `two` and `three`.
fn sentinel_of_the_shared(more: &str) -> RedisServer {
    let watch =
        |(name, server): (&str, &RedisServer)| format!("sentinel monitor {name} 127.0.0.1 {} 1\n", server.port());
    let lines: String = ["two", "one", "three"].into_iter().zip(shared_servers()).map(watch).collect();
    RedisServer::sentinel(&(lines + more))
}

fn said(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[tokio::test]
async fn a_demoted_master_with_open_connections_is_left_within_the_refresh_interval() {
    let service = Replicated::start().await;
    let config = config(service.sentinel_hosts()).sentinel_refresh_interval(Duration::from_millis(200));
    let layer = connect(config).await;
    layer.send("s?a", numbered(0)).await.unwrap();
    let mut sentinel = service.sentinels[0].connection().await;
    // The sentinel needs an up-to-date replica.
    eventually("a failover by hand", async || {
        let asked = redis::cmd("SENTINEL").arg(&["FAILOVER", "messages"]).query_async::<()>(&mut sentinel).await;
        asked.is_ok().then_some(())
    })
    .await;
    let old = service.servers[0].port().to_string();
    eventually("another master", async || {
        let address: (String, String) =
            ask(&mut sentinel, redis::cmd("SENTINEL").arg(&["GET-MASTER-ADDR-BY-NAME", "messages"])).await;
        (address.1 != old).then_some(())
    })
    .await;
    eventually("a send through the new master", async || layer.send("s?a", numbered(1)).await.ok()).await;
    assert_eq!([take_number(&layer, "s?a").await, take_number(&layer, "s?a").await], [0, 1]);
}

#[tokio::test]
async fn without_names_all_services_are_used_and_sharding_goes_by_name() {
    let sentinel = sentinel_of_the_shared("");
    let prefix = random_prefix();
    let all = config([Host::from(sentinel.url())]).prefix(&prefix);
    let named = all.clone().services(["three", "one", "two"]);
    let (all, named) = (connect(all).await, connect(named).await);
    for n in 0..30 {
        let channel = format!("s?{n}");
        all.send(&channel, numbered(n)).await.unwrap();
        assert_eq!(take_number(&named, &channel).await, n);
    }
    // The channels are distributed over all masters.
    let mut keys = 0;
    for n in 0..30 {
        all.send(&format!("kept?{n}"), numbered(n)).await.unwrap();
    }
    for server in shared_servers() {
        let pattern = format!("{prefix}:channel:{{kept?*");
        let found: Vec<String> = ask(&mut server.connection().await, redis::cmd("KEYS").arg(pattern)).await;
        assert!(!found.is_empty(), "a master has no channel");
        keys += found.len();
    }
    assert_eq!(keys, 30);
}

#[tokio::test]
async fn unreachable_sentinels_are_ignored_while_one_is_reachable() {
    let sentinel = sentinel_of_the_shared("");
    let unreachable = ReservedPort::new();
    let away = || Host::from(("127.0.0.1", unreachable.number()));
    let layer = connect(config([away(), Host::from(sentinel.url()), away()]).services(["one"])).await;
    layer.send("s?a", numbered(1)).await.unwrap();
    assert_eq!(take_number(&layer, "s?a").await, 1);
}

#[tokio::test]
async fn a_sentinel_has_its_own_password() {
    let sentinel = sentinel_of_the_shared("");
    let mut connection = sentinel.connection().await;
    let () =
        ask(&mut connection, redis::cmd("ACL").arg(&["SETUSER", "default", "on", "resetpass", ">the-right-one"])).await;
    let with = |login: &str| config([Host::from(format!("redis://{login}127.0.0.1:{}", sentinel.port()))]);
    let layer = connect(with(":the-right-one@").services(["one"])).await;
    layer.send("s?a", numbered(1)).await.unwrap();
    for (login, reason) in [("", "NOAUTH"), (":my-secret@", "WRONGPASS"), ("somebody:my-secret@", "WRONGPASS")] {
        for config in [with(login), with(login).services(["one"])] {
            let error = RedisLayer::connect(config).await.expect_err("it is refused");
            let said = said(&error);
            assert!(matches!(error, Error::Redis { shard: 0, .. }), "{said}");
            assert!(said.contains("no sentinel answered: redis://127.0.0.1:"), "{said}");
            assert!(said.contains(reason) || said.to_lowercase().contains("auth"), "{said}");
            assert!(!said.contains("my-secret") && !said.contains("the-right-one"), "{said}");
        }
    }
}

#[tokio::test]
async fn a_service_that_the_sentinels_do_not_know_is_reported_by_name() {
    let sentinel = sentinel_of_the_shared("");
    let error = RedisLayer::connect(config([Host::from(sentinel.url())]).services(["four"])).await;
    assert!(said(&error.expect_err("there is none")).contains("no sentinel knows service four"));
    let empty = RedisServer::sentinel("");
    let error = RedisLayer::connect(config([Host::from(empty.url())])).await;
    assert!(said(&error.expect_err("there is none")).contains("the sentinels monitor no service"));
}

#[tokio::test]
async fn a_replica_that_a_sentinel_reports_as_the_master_is_refused() {
    let master = &shared_servers()[0];
    let replica = RedisServer::with(&["--replicaof", "127.0.0.1", &master.port().to_string()]);
    // This sentinel asks no other sentinels, and has not detected the state of the replica yet.
    let line =
        format!("sentinel monitor one 127.0.0.1 {} 2\nsentinel down-after-milliseconds one 600000\n", replica.port());
    let sentinel = RedisServer::sentinel(&line);
    let error = RedisLayer::connect(config([Host::from(sentinel.url())]).services(["one"])).await;
    let said = said(&error.expect_err("it is refused"));
    assert!(said.contains("the server is a replica"), "{said}");
}
