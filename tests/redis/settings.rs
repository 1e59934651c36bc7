//! Processes of one deployment publish their settings, and report settings that differ but should not.

use std::time::Duration;

use channel_layer::health::{Health, SettingDifference, Status};
use channel_layer::{ChannelLayer, Config, Format};
use futures_util::future::join_all;
use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;

use super::tools::{Site, all_keys, ask, assert_lives, connect, now_ms, numbered, take_number, ttl};
use crate::support::{DEADLINE, Log, RedisServer, eventually, shared_servers, stored_formats, within};

/// How long a description lives.
const LIVES: Duration = Duration::from_mins(1);
const SHORT: Duration = Duration::from_secs(30);

fn site() -> Site {
    Site::on(&shared_servers()[..1])
}

fn key(site: &Site) -> String {
    format!("channel-layer:settings:{}", site.prefix)
}

/// Returns option, own value and other value of each difference on the first server.
fn differences(health: &Health) -> Vec<(&str, &str, &str)> {
    let differences = health.shards[0].setting_differences.iter();
    differences.map(|SettingDifference { option, ours, theirs, .. }| (&**option, &**ours, &**theirs)).collect()
}

/// Ends all other connections to the server, so that the layers reconnect.
async fn cut(connection: &mut MultiplexedConnection) {
    let () = ask(connection, redis::cmd("CLIENT").arg(&["KILL", "TYPE", "normal", "SKIPME", "yes"])).await;
}

/// Waits until processes with `count` different settings have published them.
async fn published(site: &Site, server: &RedisServer, count: usize) {
    let connection = server.connection().await;
    eventually("the descriptions", async || {
        let described: usize = connection.clone().zcard(key(site)).await.unwrap();
        (described == count).then_some(())
    })
    .await;
}

#[tokio::test]
async fn equal_settings_have_one_description_and_no_difference() {
    let server = RedisServer::start();
    let site = Site::on(std::slice::from_ref(&server));
    let mut connection = server.connection().await;
    let before = now_ms(&mut connection).await;
    let layers = [site.layer().await, connect(site.config().capacity(7).pool_size(3)).await];
    eventually("both", async || (calls(&server, "ZADD").await == 2).then_some(())).await;
    let described: Vec<(String, u64)> = connection.zrange_withscores(key(&site), 0, -1).await.unwrap();
    let [(description, ends)] = &described[..] else { panic!("{described:?}") };
    assert!(description.contains(r#""format":"native""#), "{description}");
    assert!(*ends > before + 55_000 && *ends < now_ms(&mut connection).await + 61_000, "{ends} and {before}");
    assert_lives(ttl(&mut connection, &key(&site)).await, LIVES);
    for layer in layers {
        assert_eq!(differences(&layer.health().await), []);
        layer.flush().await.unwrap();
    }
    assert_eq!(all_keys(&mut connection, &key(&site)).await.len(), 1);
}

#[tokio::test]
async fn a_process_that_ends_at_once_compares_its_settings_and_publishes_none() {
    let site = site();
    let _layer = site.layer().await;
    published(&site, &shared_servers()[0], 1).await;
    let short = connect(site.config().expiry(SHORT)).await;
    assert_eq!(differences(&short.health().await), [("expiry", "30 s", "60 s")]);
    short.close().await.unwrap();
    published(&site, &shared_servers()[0], 1).await;
}

#[tokio::test]
async fn another_expiry_is_reported_by_both_processes() {
    let reported = stored_formats().map(|format| async move {
        let server = RedisServer::start();
        let site = Site::on(std::slice::from_ref(&server));
        let connect = async |config| channel_layer::connect(config).await.unwrap();
        let first = connect(site.config().format(format)).await;
        published(&site, &server, 1).await;
        let second = connect(site.config().format(format).expiry(SHORT)).await;
        assert_eq!(differences(&second.health().await), [("expiry", "30 s", "60 s")], "{format:?}");
        published(&site, &server, 2).await;
        cut(&mut server.connection().await).await;
        eventually("the difference", async || {
            (differences(&first.health().await) == [("expiry", "60 s", "30 s")]).then_some(())
        })
        .await;
        let health = second.health().await;
        let json = serde_json::to_value(&health).unwrap();
        let expected = serde_json::json!([{ "option": "expiry", "ours": "30 s", "theirs": "60 s" }]);
        assert_eq!(json["shards"][0]["setting_differences"], expected);
    });
    join_all(reported).await;
}

#[tokio::test]
async fn another_format_is_reported() {
    let site = site();
    let _native = site.layer().await;
    published(&site, &shared_servers()[0], 1).await;
    let python = channel_layer::connect(site.config().format(Format::ChannelsRedis)).await.unwrap();
    assert_eq!(differences(&python.health().await), [("format", "channels_redis", "native")]);
}

#[tokio::test]
async fn encryption_in_one_process_alone_is_reported_once_and_without_the_key() {
    let log = Log::default();
    let _kept = log.keep();
    let server = RedisServer::start();
    let site = Site::on(std::slice::from_ref(&server));
    let _plain = site.layer().await;
    published(&site, &server, 1).await;
    let keyed = connect(site.config().symmetric_encryption_keys(["correct horse battery staple"])).await;
    let expected = [("symmetric_encryption_keys", "ids 1a58757d", "none")];
    assert_eq!(differences(&keyed.health().await), expected);
    let line = r#"option="symmetric_encryption_keys" ours="ids 1a58757d" theirs="none""#;
    let said = |line: &str| log.text().matches(line).count();
    assert_eq!(said(line), 1, "{}", log.text());
    // The next comparison finds the same difference, and does not report it again.
    let compared = "ZRANGE";
    let before = calls(&server, compared).await;
    cut(&mut server.connection().await).await;
    eventually("the next comparison of both", async || (calls(&server, compared).await >= before + 2).then_some(()))
        .await;
    assert_eq!(differences(&keyed.health().await), expected);
    assert_eq!(said(line), 1, "{}", log.text());
    assert!(!log.text().contains("battery"));
}

/// Returns how often the server has run `command`.
async fn calls(server: &RedisServer, command: &str) -> u64 {
    statistic(server, command, "calls=").await
}

/// Returns how often the server has refused `command`.
async fn refusals(server: &RedisServer, command: &str) -> u64 {
    statistic(server, command, "rejected_calls=").await
}

async fn statistic(server: &RedisServer, command: &str, name: &str) -> u64 {
    let stats: String = ask(&mut server.connection().await, redis::cmd("INFO").arg("commandstats")).await;
    let line = stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{}:", command.to_lowercase())));
    let count = line.and_then(|line| line.split(',').find_map(|field| field.strip_prefix(name)));
    count.map_or(0, |count| count.parse().unwrap())
}

#[tokio::test]
async fn a_key_rotation_in_the_right_order_is_not_a_difference() {
    let keyed = |site: &Site, keys: &[&str], accept_only: &[&str]| {
        let all = |keys: &[&str]| keys.iter().map(|&key| key.to_owned()).collect::<Vec<_>>();
        site.config().symmetric_encryption_keys(all(keys)).accept_only_keys(all(accept_only))
    };
    let steps: [(&[&str], &[&str]); 4] =
        [(&["old"], &[]), (&["old"], &["new"]), (&["new", "old"], &[]), (&["new"], &[])];
    let compared = steps.windows(2).map(|pair| async move {
        let site = site();
        let _before = connect(keyed(&site, pair[0].0, pair[0].1)).await;
        published(&site, &shared_servers()[0], 1).await;
        let after = connect(keyed(&site, pair[1].0, pair[1].1)).await;
        assert_eq!(differences(&after.health().await), [], "{pair:?}");
    });
    join_all(compared).await;
    let site = site();
    let _old = connect(keyed(&site, &["old"], &[])).await;
    published(&site, &shared_servers()[0], 1).await;
    let new = connect(keyed(&site, &["new", "old"], &[])).await;
    // The other process does not open what this one seals.
    assert_eq!(new.health().await.shards[0].setting_differences.len(), 1);
}

#[tokio::test]
async fn a_connected_process_renews_its_settings_and_sees_new_ones() {
    let site = site();
    let mut connection = shared_servers()[0].connection().await;
    let layer = site.layer().await;
    published(&site, &shared_servers()[0], 1).await;
    let _: i64 = connection.del(key(&site)).await.unwrap();
    let _short = connect(site.config().expiry(SHORT)).await;
    let renewed = async || {
        let described: usize = connection.clone().zcard(key(&site)).await.unwrap();
        let seen = differences(&layer.health().await) == [("expiry", "60 s", "30 s")];
        (described == 2 && seen).then_some(())
    };
    // Descriptions are renewed every 20 s.
    within(3 * DEADLINE, "the next renewal", async {
        while renewed().await.is_none() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn expired_and_surplus_descriptions_are_removed() {
    let site = site();
    let mut connection = shared_servers()[0].connection().await;
    let now = now_ms(&mut connection).await;
    let ended = r#"{"options":{"expiry":"1 s"},"keys":[]}"#;
    let _: i64 = connection.zadd(key(&site), ended, now - 1).await.unwrap();
    let foreign: Vec<_> = (0..200).map(|n| (now + 30_000, format!("foreign {n}"))).collect();
    let _: i64 = connection.zadd_multiple(key(&site), &foreign).await.unwrap();
    let layer = site.layer().await;
    assert_eq!(differences(&layer.health().await), []);
    assert_eq!(connection.zcard::<_, usize>(key(&site)).await.unwrap(), 200, "the expired description is removed");
    published(&site, &shared_servers()[0], 64).await;
    // The layer's own description expires last, and is kept.
    let last: Vec<String> = connection.zrange(key(&site), -1, -1).await.unwrap();
    assert!(last[0].starts_with(r#"{"options""#), "{last:?}");
}

#[tokio::test]
async fn a_server_that_refuses_the_description_is_still_used() {
    // A user whose access list lacks the key, a server without memory, and a key of another type.
    let server = RedisServer::start();
    let mut connection = server.connection().await;
    let rules = ["SETUSER", "u", "on", ">p", "~asgi*", "+@all"];
    let () = ask(&mut connection, redis::cmd("ACL").arg(&rules)).await;
    let denied = Config::new().host(format!("redis://u:p@127.0.0.1:{}", server.port()));
    let layer = connect(denied).await;
    layer.send("n", numbered(1)).await.unwrap();
    assert_eq!(take_number(&layer, "n").await, 1);
    let health = layer.health().await;
    assert_eq!((health.status, differences(&health)), (Status::Healthy, vec![]));
    eventually("the refusal", async || (refusals(&server, "ZADD").await > 0).then_some(())).await;
    assert_eq!(layer.health().await.status, Status::Healthy);

    let site = site();
    let mut connection = shared_servers()[0].connection().await;
    let () = connection.set(key(&site), "a text").await.unwrap();
    let health = site.layer().await.health().await;
    assert_eq!((health.status, differences(&health)), (Status::Healthy, vec![]));

    let full = RedisServer::start();
    let site = Site::on(std::slice::from_ref(&full));
    let _first = site.layer().await;
    published(&site, &full, 1).await;
    let () = ask(&mut full.connection().await, redis::cmd("CONFIG").arg(&["SET", "maxmemory", "1"])).await;
    // The descriptions on the server can still be read.
    let second = connect(site.config().expiry(SHORT)).await;
    assert_eq!(differences(&second.health().await), [("expiry", "30 s", "60 s")]);
}
