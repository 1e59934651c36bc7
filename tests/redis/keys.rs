//! The keys that each operation leaves in Redis: name, type and time to live.

use std::time::Duration;

use channel_layer::{ChannelLayer, Error};
use redis::AsyncCommands;

use super::restarts::wait_for_blocked;
use super::tools::{Layer, Site, ask, assert_lives, connect, entries, numbered, take_number, take_numbers, ttl};
use crate::support::{DEADLINE, RedisServer, eventually, shared_servers, within};

/// A list outlives its last message.
const LIST: Duration = Duration::from_secs(90);
/// How long ended memberships are remembered.
const REMEMBERED: Duration = Duration::from_mins(2);
/// Additional time to live of the keys of a group.
const SLACK: Duration = Duration::from_secs(30);
const DAY: Duration = Duration::from_hours(24);
const HOUR: Duration = Duration::from_hours(1);

async fn start() -> (Site, Layer, &'static RedisServer) {
    let site = Site::on(&shared_servers()[..1]);
    let layer = connect(site.config().capacity(5)).await;
    (site, layer, &shared_servers()[0])
}

/// Checks all keys of the deployment except the epoch, with their types and times to live.
async fn assert_keys(site: &Site, server: &RedisServer, expected: &[(&str, &str, Duration)]) {
    let mut connection = server.connection().await;
    let mut keys = site.keys(server).await;
    assert_eq!(keys.remove(":epoch").as_deref(), Some("string"));
    assert_eq!(ttl(&mut connection, &site.key("epoch")).await, -1);
    let mut named: Vec<_> = expected.iter().map(|(key, kind, _)| ((*key).to_owned(), (*kind).to_owned())).collect();
    named.sort();
    assert_eq!(keys.into_iter().collect::<Vec<_>>(), named);
    for (key, _, lifetime) in expected {
        assert_lives(ttl(&mut connection, &format!("{}{key}", site.prefix)).await, *lifetime);
    }
}

/// Makes the layer write its counts.
async fn write_counters(layer: &Layer) {
    layer.global_statistics().await.unwrap();
}

#[tokio::test]
async fn connecting_creates_only_the_epoch() {
    let (site, layer, server) = start().await;
    layer.new_channel("reply?").await.unwrap();
    layer.group_channels("nobody").await.unwrap();
    layer.group_send("nobody", numbered(0)).await.unwrap();
    layer.global_statistics().await.unwrap();
    layer.channel_statistics("nothing").await.unwrap();
    assert!(layer.try_receive(&["nothing", "no!", "no?x"]).await.unwrap().is_none());
    assert_keys(&site, server, &[]).await;
    let epoch: String = server.connection().await.get(site.key("epoch")).await.unwrap();
    assert_eq!(epoch.len(), 32);
    site.layer().await;
    assert_eq!(epoch, server.connection().await.get::<_, String>(site.key("epoch")).await.unwrap());
}

#[tokio::test]
async fn a_send_creates_a_list_and_two_hashes() {
    let (site, layer, server) = start().await;
    for channel in ["normal", "local!one", "local!two", "single?x"] {
        layer.send(channel, numbered(0)).await.unwrap();
    }
    let all = [
        (":channel:{normal}", "list", LIST),
        (":channel:{local!}", "list", LIST),
        (":channel:{single?x}", "list", LIST),
        ("-meta:{normal}", "hash", HOUR),
        ("-meta:{local!}", "hash", HOUR),
        // There may be a `?` channel for each request, so its counters live only as long as its list.
        ("-meta:{single?x}", "hash", LIST),
        ("-meta:global", "hash", DAY),
    ];
    write_counters(&layer).await;
    assert_keys(&site, server, &all).await;
    let mut connection = server.connection().await;
    let lengths: Vec<i64> = vec![
        connection.llen(site.list("normal")).await.unwrap(),
        connection.llen(site.list("local!")).await.unwrap(),
        connection.llen(site.list("single?x")).await.unwrap(),
    ];
    assert_eq!(lengths, [1, 2, 1]);
}

#[tokio::test]
async fn a_receive_removes_the_list() {
    let (site, layer, server) = start().await;
    for (channel, source) in [("normal", "normal"), ("local!one", "local!"), ("single?x", "single?x")] {
        layer.send(channel, numbered(7)).await.unwrap();
        assert_eq!(take_number(&layer, source).await, 7);
    }
    let counters = [("normal", HOUR), ("local!", HOUR), ("single?x", LIST)];
    let counters = counters.map(|(name, lives)| (format!("-meta:{{{name}}}"), lives));
    let mut all: Vec<_> = counters.iter().map(|(key, lives)| (key.as_str(), "hash", *lives)).collect();
    all.push(("-meta:global", "hash", DAY));
    write_counters(&layer).await;
    assert_keys(&site, server, &all).await;
}

#[tokio::test]
async fn a_group_message_reaches_its_members_when_the_group_has_ended_meanwhile() {
    let (site, layer, server) = start().await;
    for member in ["p!x", "p!y"] {
        layer.group_add("g", member).await.unwrap();
    }
    layer.group_send("g", numbered(1)).await.unwrap();
    // The group and its ended memberships expire before the memberships.
    let mut connection = server.connection().await;
    let gone: i64 = connection.del(&[site.key("group:{g}"), site.key("left:{g}:p!")]).await.unwrap();
    assert_eq!(gone, 2);
    let late = site.layer().await;
    assert_eq!(take_numbers(&late, "p!").await, [1, 1]);
}

#[tokio::test]
async fn a_put_back_entry_has_the_same_bytes_and_the_remaining_lifetime() {
    let (site, layer, server) = start().await;
    let mut connection = server.connection().await;
    for n in 0..3 {
        layer.send("back!a", numbered(n)).await.unwrap();
    }
    let before = entries(&mut connection, &site.list("back!")).await;
    let mut receiver = layer.receiver(&["back!"]).unwrap();
    within(DEADLINE, "the first message", receiver.recv()).await.unwrap();
    assert_eq!(entries(&mut connection, &site.list("back!")).await, Vec::<Vec<u8>>::new());
    receiver.close().await.unwrap();
    assert_eq!(entries(&mut connection, &site.list("back!")).await, before[1..]);
    assert_lives(ttl(&mut connection, &site.list("back!")).await, LIST);
}

#[tokio::test]
async fn an_add_creates_a_route_and_its_end_and_four_more_sets_for_local_members() {
    let (site, layer, server) = start().await;
    layer.group_add("g", "normal").await.unwrap();
    layer.group_add("g", "single?x").await.unwrap();
    let lives = DAY + SLACK;
    assert_keys(&site, server, &[(":group:{g}", "zset", lives), (":route-ends:{g}", "zset", lives)]).await;
    layer.group_add("g", "local!one").await.unwrap();
    layer.group_add("g", "local!two").await.unwrap();
    // Messages that were sent before a membership ended may wait for it a little longer.
    let lives = DAY + REMEMBERED + SLACK;
    let all = [
        (":group:{g}", "zset", lives),
        (":route-ends:{g}", "zset", lives),
        (":members:{g}:local!", "zset", lives),
        (":joined:{g}:local!", "zset", lives),
        (":ends:{g}:local!", "zset", lives),
        (":left:{g}:local!", "zset", REMEMBERED + SLACK),
    ];
    assert_keys(&site, server, &all).await;
    let mut connection = server.connection().await;
    let routes: Vec<String> = connection.zrange(site.key("group:{g}"), 0, -1).await.unwrap();
    assert_eq!(routes, ["", "normal", "single?x", "local!"]);
    let members: Vec<String> = connection.zrange(site.key("members:{g}:local!"), 0, -1).await.unwrap();
    assert_eq!(members, ["one", "two"]);
}

#[tokio::test]
async fn a_discard_removes_the_keys_of_the_add() {
    let (site, layer, server) = start().await;
    for channel in ["normal", "single?x", "local!one", "local!two"] {
        layer.group_add("g", channel).await.unwrap();
    }
    for channel in ["normal", "single?x", "local!one", "never", "never?x"] {
        layer.group_discard("g", channel).await.unwrap();
    }
    let mut connection = server.connection().await;
    let routes: Vec<String> = connection.zrange(site.key("group:{g}"), 0, -1).await.unwrap();
    assert_eq!(routes, ["", "local!"]);
    layer.group_discard("g", "local!two").await.unwrap();
    // Ended memberships are remembered for as long as earlier messages can arrive.
    let memory = [(":group:{g}", "zset", REMEMBERED), (":left:{g}:local!", "zset", REMEMBERED + SLACK)];
    assert_keys(&site, server, &memory).await;
    layer.group_discard("other", "local!never").await.unwrap();
    layer.group_discard("other", "never").await.unwrap();
    assert_keys(&site, server, &memory).await;
}

#[tokio::test]
async fn a_group_send_creates_one_entry_for_each_route() {
    let (site, layer, server) = start().await;
    for channel in ["normal", "single?x", "local!one", "local!two", "local!three"] {
        layer.group_add("g", channel).await.unwrap();
    }
    layer.group_send("g", numbered(0)).await.unwrap();
    write_counters(&layer).await;
    let mut connection = server.connection().await;
    for list in ["normal", "single?x", "local!"] {
        let found = entries(&mut connection, &site.list(list)).await;
        assert_eq!(found.len(), 1, "{list}");
        // The kind of address that stands for a group, and the group's name.
        assert_eq!((found[0][8], &found[0][17..19]), (0x12, b"\x01g".as_slice()), "{list}");
        assert_lives(ttl(&mut connection, &site.list(list)).await, LIST);
    }
    let counted: i64 = connection.hget(format!("{}-meta:global", site.prefix), "messages_count").await.unwrap();
    assert_eq!(counted, 3);
}

#[tokio::test]
async fn counters_are_hashes_of_two_fields() {
    let (site, layer, server) = start().await;
    for n in 0..7 {
        let sent = layer.send("busy", numbered(n)).await;
        assert_eq!(matches!(sent, Err(Error::ChannelFull { .. })), n >= 5, "{sent:?}");
    }
    layer.send("calm?x", numbered(0)).await.unwrap();
    write_counters(&layer).await;
    let mut connection = server.connection().await;
    for (key, messages, full) in
        [("{busy}", Some(5), Some(2)), ("{calm?x}", Some(1), None), ("global", Some(6), Some(2))]
    {
        let key = format!("{}-meta:{key}", site.prefix);
        let found: (Option<i64>, Option<i64>) =
            ask(&mut connection, redis::cmd("HMGET").arg(&key).arg("messages_count").arg("channel_full_count")).await;
        assert_eq!(found, (messages, full), "{key}");
    }
}

#[tokio::test]
async fn expired_messages_are_not_pending_though_their_list_exists() {
    let (site, _, server) = start().await;
    let brief = connect(site.config().expiry(Duration::from_millis(100))).await;
    brief.send("brief", numbered(0)).await.unwrap();
    eventually("no pending message", async || {
        (brief.channel_statistics("brief").await.unwrap().messages_pending == 0).then_some(())
    })
    .await;
    assert!(ttl(&mut server.connection().await, &site.list("brief")).await > 0);
}

#[tokio::test]
async fn a_list_lives_as_long_as_its_last_message() {
    let (site, layer, server) = start().await;
    let brief = connect(site.config().expiry(Duration::from_secs(20))).await;
    let mut connection = server.connection().await;
    brief.send("mixed", numbered(0)).await.unwrap();
    assert_lives(ttl(&mut connection, &site.list("mixed")).await, Duration::from_secs(50));
    layer.send("mixed", numbered(1)).await.unwrap();
    assert_lives(ttl(&mut connection, &site.list("mixed")).await, LIST);
    brief.send("mixed", numbered(2)).await.unwrap();
    assert_lives(ttl(&mut connection, &site.list("mixed")).await, LIST);
}

#[tokio::test]
async fn an_idle_layer_has_no_waiting_connection() {
    let server = RedisServer::start();
    // A read that is not ended blocks for longer than this test waits.
    let config = Site::on(std::slice::from_ref(&server)).config().blocking_timeout(3 * DEADLINE);
    let layer = connect(config).await;
    let reader = layer.clone();
    let reading = tokio::spawn(async move { reader.receive(&["idle"]).await.map(drop) });
    wait_for_blocked(&server, 1).await;
    reading.abort();
    wait_for_blocked(&server, 0).await;
    layer.close().await.unwrap();
}
