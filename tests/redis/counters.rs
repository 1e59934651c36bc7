//! Counters of sent and refused messages: `count.lua`, and how a process writes them.

use std::time::Duration;

use channel_layer::{ChannelLayer, Statistics};
use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;

use super::tools::{Site, ask, assert_lives, connect, numbered, ttl};
use crate::support::{Log, RedisServer, eventually, random_prefix, shared_servers};

const SOURCE: &str = include_str!("../../src/redis/native/scripts/count.lua");
const LIFETIME: Duration = Duration::from_secs(100);

/// Runs `count.lua` for hashes with the messages that were sent and refused, and their lifetimes.
async fn count(connection: &mut MultiplexedConnection, counts: &[(&str, u64, u64, Duration)]) {
    let mut command = redis::cmd("EVAL");
    command.arg(SOURCE).arg(counts.len());
    for (key, ..) in counts {
        command.arg(*key);
    }
    for (_, sent, refused, lifetime) in counts {
        command.arg(*sent).arg(*refused).arg(u64::try_from(lifetime.as_millis()).unwrap());
    }
    let () = ask(connection, &command).await;
}

async fn counters(connection: &mut MultiplexedConnection, key: &str) -> (Option<u64>, Option<u64>) {
    ask(connection, redis::cmd("HMGET").arg(key).arg("messages_count").arg("channel_full_count")).await
}

/// How often the server has run a command.
async fn calls(server: &RedisServer, command: &str) -> u64 {
    let stats: String = ask(&mut server.connection().await, redis::cmd("INFO").arg("commandstats")).await;
    let start = format!("cmdstat_{command}:calls=");
    stats.lines().find_map(|line| line.strip_prefix(&start)?.split(',').next()?.parse().ok()).unwrap_or(0)
}

fn messages_and_refusals(statistics: &Statistics) -> (u64, u64) {
    (statistics.messages_count, statistics.channel_full_count)
}

#[tokio::test]
async fn the_script_adds_counts_and_extends_lifetimes() {
    let prefix = random_prefix();
    let (key, other) = (format!("{prefix}a"), format!("{prefix}b"));
    let connection = &mut shared_servers()[0].connection().await;
    count(connection, &[(&key, 3, 0, LIFETIME), (&other, 0, 2, LIFETIME * 2)]).await;
    assert_eq!(counters(connection, &key).await, (Some(3), None));
    assert_eq!(counters(connection, &other).await, (None, Some(2)));
    assert_lives(ttl(connection, &key).await, LIFETIME);
    assert_lives(ttl(connection, &other).await, LIFETIME * 2);
    count(connection, &[(&key, 1, 4, LIFETIME * 3), (&other, 1, 1, LIFETIME)]).await;
    assert_eq!(counters(connection, &key).await, (Some(4), Some(4)));
    assert_eq!(counters(connection, &other).await, (Some(1), Some(3)));
    assert_lives(ttl(connection, &key).await, LIFETIME * 3);
    assert_lives(ttl(connection, &other).await, LIFETIME * 2);
}

#[tokio::test]
async fn the_script_skips_a_key_that_holds_no_counters() {
    let prefix = random_prefix();
    let (text, number, key) = (format!("{prefix}a"), format!("{prefix}b"), format!("{prefix}c"));
    let connection = &mut shared_servers()[0].connection().await;
    let () = connection.set(&text, "x").await.unwrap();
    let () = connection.hset(&number, "messages_count", "many").await.unwrap();
    count(connection, &[(&text, 1, 1, LIFETIME), (&number, 1, 1, LIFETIME), (&key, 1, 1, LIFETIME)]).await;
    assert_eq!(counters(connection, &key).await, (Some(1), Some(1)));
}

#[tokio::test]
async fn other_processes_see_counts_shortly_after() {
    let site = Site::on(&shared_servers()[..1]);
    let layers = [connect(site.config().capacity(2)).await, site.layer().await];
    for number in 0..5 {
        let sent = layers[0].send("counted", numbered(number)).await;
        assert_eq!(sent.is_ok(), number < 2, "{sent:?}");
    }
    let own = layers[0].channel_statistics("counted").await.unwrap();
    assert_eq!(messages_and_refusals(&own), (2, 3));
    layers[1].send("counted", numbered(5)).await.unwrap();
    eventually("the counts of the other process", async || {
        let statistics = layers[0].global_statistics().await.unwrap();
        (messages_and_refusals(&statistics) == (3, 3)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_layer_that_closes_writes_its_counts() {
    let site = Site::on(&shared_servers()[..1]);
    let layers = [site.layer().await, site.layer().await];
    for number in 0..3 {
        layers[0].send("closing", numbered(number)).await.unwrap();
    }
    layers[0].close().await.unwrap();
    assert_eq!(layers[1].channel_statistics("closing").await.unwrap().messages_count, 3);
}

#[tokio::test]
async fn many_messages_cost_few_writes() {
    let server = RedisServer::start();
    let layer = Site::on(std::slice::from_ref(&server)).layer().await;
    for number in 0..500 {
        layer.send("busy", numbered(number)).await.unwrap();
    }
    assert_eq!(layer.channel_statistics("busy").await.unwrap().messages_count, 500);
    // Each write counts on the channel and on all channels. There is one write a second, and one for the statistics.
    let writes = calls(&server, "hincrby").await / 2;
    assert!((1..100).contains(&writes), "{writes} writes");
}

#[tokio::test]
async fn counts_that_the_server_refuses_are_written_later() {
    let server = RedisServer::start();
    let layer = Site::on(std::slice::from_ref(&server)).layer().await;
    layer.send("kept", numbered(1)).await.unwrap();
    assert_eq!(layer.channel_statistics("kept").await.unwrap().messages_count, 1);
    layer.send("kept", numbered(2)).await.unwrap();
    let connection = &mut server.connection().await;
    let set = |limit: &str| redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg(limit).clone();
    let () = ask(connection, &set("1")).await;
    layer.send("kept", numbered(3)).await.unwrap_err();
    let statistics = layer.channel_statistics("kept").await.unwrap();
    assert!(statistics.messages_count <= 2, "{statistics:?}");
    let () = ask(connection, &set("0")).await;
    eventually("the counts", async || {
        let statistics = layer.channel_statistics("kept").await.unwrap();
        (statistics.messages_count == 2).then_some(())
    })
    .await;
}

#[tokio::test]
async fn counts_that_the_user_may_not_write_are_dropped_and_reported_once_until_they_are_accepted() {
    let log = Log::default();
    let _logging = log.keep();
    let server = RedisServer::start();
    let connection = &mut server.connection().await;
    let site = Site::on(std::slice::from_ref(&server));
    let user = redis::cmd("ACL").arg(&["SETUSER", "writer", "on", ">secret", "+@all"]).clone();
    let () = ask(connection, user.clone().arg(format!("~{}:*", site.prefix))).await;
    let url = format!("redis://writer:secret@127.0.0.1:{}", server.port());
    let layer = connect(site.config().hosts([url])).await;
    for number in 0..3 {
        layer.send("counted", numbered(number)).await.unwrap();
        layer.channel_statistics("counted").await.unwrap_err();
    }
    assert_eq!(log.text().matches("statistics cannot be written").count(), 1);
    let () = ask(connection, user.clone().arg("~*")).await;
    layer.send("counted", numbered(3)).await.unwrap();
    assert_eq!(layer.channel_statistics("counted").await.unwrap().messages_count, 1);
    let () = ask(connection, user.clone().arg("resetkeys").arg(format!("~{}:*", site.prefix))).await;
    layer.send("counted", numbered(4)).await.unwrap();
    layer.channel_statistics("counted").await.unwrap_err();
    assert_eq!(log.text().matches("statistics cannot be written").count(), 2);
}

#[tokio::test]
async fn counters_of_channels_with_one_purpose_live_as_long_as_their_messages() {
    let site = Site::on(&shared_servers()[..1]);
    let layer = connect(site.config().expiry(LIFETIME)).await;
    for channel in ["single?a", "normal", "process!a"] {
        layer.send(channel, numbered(1)).await.unwrap();
    }
    layer.global_statistics().await.unwrap();
    let connection = &mut shared_servers()[0].connection().await;
    let hour = Duration::from_hours(1);
    for (name, lifetime) in [
        ("{single?a}", LIFETIME + Duration::from_secs(30)),
        ("{normal}", hour),
        ("{process!}", hour),
        ("global", hour * 24),
    ] {
        let key = format!("{}-meta:{name}", site.prefix);
        assert_lives(ttl(connection, &key).await, lifetime);
    }
}
