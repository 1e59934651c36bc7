//! With keys, Redis learns and changes nothing: messages cannot be read, moved, altered or replayed late.

use std::time::Duration;

use channel_layer::{ChannelLayer, Config, Event, message};
use metrics_util::debugging::DebuggingRecorder;
use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;

use super::tools::{Layer, Site, all_keys, ask, connect, entries, event, now_ms, numbered, take_number};
use crate::support::{Counts, DEADLINE, RedisServer, eventually, shared_servers, within};

const MARKERS: [&str; 4] = ["marker-in-a-name", "marker-in-a-text", "marker-in-bytes", "marker-in-a-list"];

fn keyed(site: &Site) -> Config {
    site.config().symmetric_encryption_keys(["the key in use", "the key before it"])
}

/// Every byte of every key and value in a server.
async fn dump(server: &RedisServer) -> Vec<u8> {
    let mut connection = server.connection().await;
    let mut dump = Vec::new();
    for key in all_keys(&mut connection, "*").await {
        let kind: String = ask(&mut connection, redis::cmd("TYPE").arg(&key)).await;
        let command = match kind.as_str() {
            "string" => redis::cmd("MGET").arg(&key).clone(),
            "list" => redis::cmd("LRANGE").arg(&key).arg(0).arg(-1).clone(),
            "hash" => redis::cmd("HGETALL").arg(&key).clone(),
            "zset" => redis::cmd("ZRANGE").arg(&key).arg(0).arg(-1).arg("WITHSCORES").clone(),
            other => panic!("{key} is a {other}"),
        };
        let values: Vec<Vec<u8>> = ask(&mut connection, &command).await;
        dump.extend(key.into_bytes());
        dump.extend(values.concat());
    }
    dump
}

fn holds(dump: &[u8], marker: &str) -> bool {
    dump.windows(marker.len()).any(|bytes| bytes == marker.as_bytes())
}

/// Leaves a message in every kind of place: sent, sent to groups, put back in whole and in part, and in quarantine.
async fn leave_messages(site: &Site, layer: &Layer, server: &RedisServer) {
    let message = message! {
        "marker-in-a-name": 1,
        "text": "marker-in-a-text",
        "bytes": channel_layer::Bytes::from_static(b"marker-in-bytes"),
        "list": channel_layer::Value::list(["marker-in-a-list"]),
    };
    for channel in ["n", "l!a", "s?a"] {
        layer.send(channel, message.clone()).await.unwrap();
        layer.send(channel, message.clone()).await.unwrap();
        layer.group_add("g", channel).await.unwrap();
    }
    layer.group_add("g", "l!b").await.unwrap();
    layer.group_send("g", message.clone()).await.unwrap();
    for source in ["n", "l!", "s?a"] {
        let mut receiver = layer.receiver(&[source]).unwrap();
        assert_eq!(within(DEADLINE, "a message", receiver.recv()).await.unwrap().message, message);
        receiver.close().await.unwrap();
    }
    let mut receiver = layer.receiver(&["l!"]).unwrap();
    for _ in 0..2 {
        within(DEADLINE, "a message of the group", receiver.recv()).await.unwrap();
    }
    receiver.close().await.unwrap();
    let mut connection = server.connection().await;
    let entry = entries(&mut connection, &site.list("n")).await.remove(0);
    let () = connection.rpush(site.list("moved"), entry).await.unwrap();
    // With keys it goes to quarantine.
    layer.try_receive(&["moved"]).await.unwrap();
}

#[tokio::test]
async fn nothing_of_a_message_can_be_read_in_redis() {
    let server = RedisServer::start();
    let site = Site::on(std::slice::from_ref(&server));
    let plain = site.layer().await;
    leave_messages(&site, &plain, &server).await;
    let seen = dump(&server).await;
    for marker in MARKERS {
        assert!(holds(&seen, marker), "the search does not find {marker}, which is there");
    }
    plain.flush().await.unwrap();
    let layer = connect(keyed(&site)).await;
    leave_messages(&site, &layer, &server).await;
    let key = site.key("quarantine");
    eventually("the quarantine", async || {
        (entries(&mut server.connection().await, &key).await.len() == 1).then_some(())
    })
    .await;
    let seen = dump(&server).await;
    for marker in MARKERS.into_iter().chain(["the key in use", "the key before it"]) {
        assert!(!holds(&seen, marker), "{marker} can be read");
    }
}

/// A deployment with keys, and what strangers do to its lists.
struct Stranger {
    site: Site,
    layer: Layer,
    connection: MultiplexedConnection,
}

impl Stranger {
    async fn start(config: impl FnOnce(Config) -> Config) -> Self {
        let site = Site::on(&shared_servers()[..1]);
        let layer = connect(config(keyed(&site))).await;
        Self { site, layer, connection: shared_servers()[0].connection().await }
    }

    /// The entry of a message that was sent to `channel` and still lies in `list`.
    async fn sent(&mut self, channel: &str, list: &str) -> Vec<u8> {
        self.layer.send(channel, numbered(1)).await.unwrap();
        entries(&mut self.connection, &self.site.list(list)).await.pop().unwrap()
    }

    /// Puts `entry` into `list` and checks that it does not open there, and that the message behind it does.
    async fn assert_refused(&mut self, entry: &[u8], list: &str, channel: &str, what: &str) {
        let recorder = DebuggingRecorder::new();
        let mut counts = Counts::of(&recorder);
        let local = metrics::set_default_local_recorder(&recorder);
        let () = self.connection.del(self.site.list(list)).await.unwrap();
        let () = self.connection.rpush(self.site.list(list), entry).await.unwrap();
        self.layer.send(channel, numbered(2)).await.unwrap();
        assert_eq!(take_number(&self.layer, list).await, 2, "{what}");
        drop(local);
        assert_eq!(counts.dropped("undecryptable"), 1, "{what}");
    }
}

#[tokio::test]
async fn a_message_moved_to_another_channel_does_not_open() {
    let mut stranger = Stranger::start(|config| config).await;
    let mut events = stranger.layer.events();
    for (channel, list, other, other_list) in [
        ("n", "n", "m", "m"),
        ("n", "n", "s?a", "s?a"),
        ("s?a", "s?a", "s?b", "s?b"),
        ("s?a", "s?a", "n", "n"),
        ("l!a", "l!", "k!a", "k!"),
    ] {
        let entry = stranger.sent(channel, list).await;
        stranger.assert_refused(&entry, other_list, other, &format!("{channel} to {other}")).await;
    }
    let told = event(&mut events, "the news", |event| matches!(event, Event::Quarantined { .. })).await;
    let Event::Quarantined { reason, .. } = &told else { panic!("{told:?}") };
    assert!(reason.contains("another place"), "{reason}");
}

#[tokio::test]
async fn a_message_readdressed_in_its_list_does_not_open() {
    let mut stranger = Stranger::start(|config| config).await;
    // Address of kind 1: the length of the local part, and the local part.
    let mut entry = stranger.sent("l!a", "l!").await;
    assert_eq!(entry[8..11], [0x19, 1, b'a']);
    entry[10] = b'b';
    stranger.assert_refused(&entry, "l!", "l!a", "to another local part").await;
    for group in ["h", "g"] {
        stranger.layer.group_add(group, "l!a").await.unwrap();
    }
    stranger.layer.group_send("g", numbered(1)).await.unwrap();
    let mut entry = entries(&mut stranger.connection, &stranger.site.list("l!")).await.pop().unwrap();
    assert_eq!(entry[8..11], [0x1a, 1, b'g']);
    entry[10] = b'h';
    stranger.assert_refused(&entry, "l!", "l!a", "to another group").await;
}

#[tokio::test]
async fn a_group_message_moved_to_another_channel_does_not_open() {
    let mut stranger = Stranger::start(|config| config).await;
    for member in ["k!a", "n", "l!a"] {
        stranger.layer.group_add("g", member).await.unwrap();
    }
    stranger.layer.group_send("g", numbered(1)).await.unwrap();
    let entry = entries(&mut stranger.connection, &stranger.site.list("l!")).await.pop().unwrap();
    stranger.assert_refused(&entry, "k!", "k!a", "to another process").await;
    stranger.assert_refused(&entry, "n", "n", "to a normal channel").await;
}

#[tokio::test]
async fn no_changed_byte_opens() {
    let mut stranger = Stranger::start(|config| config).await;
    let entry = stranger.sent("n", "n").await;
    // Behind the stamp and the head, which Redis may change.
    for place in 9..entry.len() {
        let mut changed = entry.clone();
        changed[place] ^= 1;
        stranger.assert_refused(&changed, "n", "n", &format!("byte {place} changed")).await;
    }
    for length in 9..entry.len() {
        stranger.assert_refused(&entry[..length], "n", "n", &format!("cut to {length} bytes")).await;
    }
}

#[tokio::test]
async fn a_message_replayed_late_does_not_open() {
    let mut stranger = Stranger::start(|config| config.expiry(Duration::from_secs(1))).await;
    let mut entry = stranger.sent("n", "n").await;
    let sent = now_ms(&mut stranger.connection).await;
    entry[..8].copy_from_slice(&(sent + 3_600_000).to_be_bytes());
    // It opens once more in its time, which shows that the rest of this test is about time alone.
    let () = stranger.connection.del(stranger.site.list("n")).await.unwrap();
    let () = stranger.connection.rpush(stranger.site.list("n"), &entry).await.unwrap();
    assert_eq!(take_number(&stranger.layer, "n").await, 1);
    // The expiry, and 10 s for clocks that differ.
    tokio::time::sleep(Duration::from_millis(11_100)).await;
    stranger.assert_refused(&entry, "n", "n", "replayed after 11 s").await;
}
