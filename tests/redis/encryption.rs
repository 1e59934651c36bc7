//! With encryption, messages in Redis cannot be read, moved, modified, or replayed late.

use std::time::Duration;

use channel_layer::{ChannelLayer, Config, Event, message};
use metrics_util::debugging::DebuggingRecorder;
use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;

use super::tools::{
    Layer, Site, all_keys, ask, connect, entries, event, now_ms, number, numbered, quarantined, take_number,
};
use crate::support::{Counts, DEADLINE, RedisServer, eventually, shared_servers, within};

const MARKERS: [&str; 4] = ["marker-in-a-name", "marker-in-a-text", "marker-in-bytes", "marker-in-a-list"];

fn keyed(site: &Site) -> Config {
    site.config().symmetric_encryption_keys(["the key in use", "the key before it"])
}

/// Returns all bytes of all keys and values of a server.
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
            "stream" => redis::cmd("XRANGE").arg(&key).arg("-").arg("+").clone(),
            "set" => redis::cmd("SMEMBERS").arg(&key).clone(),
            other => panic!("{key} is a {other}"),
        };
        dump.extend(key.into_bytes());
        extend(&mut dump, ask(&mut connection, &command).await);
    }
    dump
}

/// Appends every byte of `value` to `dump`.
fn extend(dump: &mut Vec<u8>, value: redis::Value) {
    match value {
        redis::Value::BulkString(bytes) => dump.extend(bytes),
        redis::Value::Array(values) => values.into_iter().for_each(|value| extend(dump, value)),
        _ => {}
    }
}

fn holds(dump: &[u8], marker: &str) -> bool {
    dump.windows(marker.len()).any(|bytes| bytes == marker.as_bytes())
}

/// Leaves a message in every kind of place: sent, sent to groups, put back for all or some members, and in quarantine.
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
async fn no_part_of_a_message_is_readable_in_redis() {
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
    eventually("the quarantine", async || {
        (quarantined(&mut server.connection().await, &site).await.len() == 1).then_some(())
    })
    .await;
    let seen = dump(&server).await;
    for marker in MARKERS.into_iter().chain(["the key in use", "the key before it"]) {
        assert!(!holds(&seen, marker), "{marker} can be read");
    }
}

/// A deployment with encryption, and an attacker who modifies its lists.
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

    /// Sends a message to `channel`. Returns its entry in `list`.
    async fn sent(&mut self, channel: &str, list: &str) -> Vec<u8> {
        self.layer.send(channel, numbered(1)).await.unwrap();
        entries(&mut self.connection, &self.site.list(list)).await.pop().unwrap()
    }

    /// Puts `entry` into `list`. Checks that it does not open there, and that the next message does.
    async fn assert_refused(&mut self, entry: &[u8], list: &str, channel: &str, what: &str) {
        let refused = self.refused(entry, list, channel, what).await;
        assert_eq!(refused, Refused { undecryptable: 1, undecodable: 0 }, "{what}");
    }

    /// Puts `entry` into `list`. Checks that only the next message arrives. Returns the reason under which the entry
    /// was counted.
    async fn refused(&mut self, entry: &[u8], list: &str, channel: &str, what: &str) -> Refused {
        let recorder = DebuggingRecorder::new();
        let mut counts = Counts::of(&recorder);
        let local = metrics::set_default_local_recorder(&recorder);
        let () = self.connection.del(self.site.list(list)).await.unwrap();
        let () = self.connection.rpush(self.site.list(list), entry).await.unwrap();
        self.layer.send(channel, numbered(2)).await.unwrap();
        assert_eq!(take_number(&self.layer, list).await, 2, "{what}");
        drop(local);
        Refused { undecryptable: counts.dropped("undecryptable"), undecodable: counts.dropped("undecodable") }
    }

    /// Returns the entry of a message to the members of `g` on `l!`, and the entry that remains after the first of
    /// `l!a`, `l!b` and `l!c` has received it.
    async fn sent_to_group(&mut self) -> [Vec<u8>; 2] {
        for member in ["l!a", "l!b", "l!c"] {
            self.layer.group_add("g", member).await.unwrap();
        }
        self.layer.group_send("g", numbered(1)).await.unwrap();
        let whole = entries(&mut self.connection, &self.site.list("l!")).await.pop().unwrap();
        let mut receiver = self.layer.receiver(&["l!"]).unwrap();
        assert_eq!(number(&within(DEADLINE, "the first of three", receiver.recv()).await.unwrap()), 1);
        within(DEADLINE, "the end of the receiver", receiver.close()).await.unwrap();
        let rest = entries(&mut self.connection, &self.site.list("l!")).await.pop().unwrap();
        assert_eq!((whole[8], rest[8]), (0x1a, 0x1b));
        [whole, rest]
    }
}

/// Number of refused entries, and the reasons.
#[derive(Debug, PartialEq)]
struct Refused {
    undecryptable: u64,
    undecodable: u64,
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
    let reported = event(&mut events, "the event", |event| matches!(event, Event::Quarantined { .. })).await;
    let Event::Quarantined { reason, .. } = &reported else { panic!("{reported:?}") };
    assert!(reason.contains("sealed for another recipient"), "{reason}");
}

#[tokio::test]
async fn a_message_readdressed_in_its_list_does_not_open() {
    let mut stranger = Stranger::start(|config| config).await;
    // Address of kind 1, behind head and lifetime: the length of the local part, and the local part.
    let mut entry = stranger.sent("l!a", "l!").await;
    assert_eq!((entry[8], &entry[17..19]), (0x19, b"\x01a".as_slice()));
    entry[18] = b'b';
    stranger.assert_refused(&entry, "l!", "l!a", "to another local part").await;
    for group in ["h", "g"] {
        stranger.layer.group_add(group, "l!a").await.unwrap();
    }
    stranger.layer.group_send("g", numbered(1)).await.unwrap();
    let mut entry = entries(&mut stranger.connection, &stranger.site.list("l!")).await.pop().unwrap();
    assert_eq!((entry[8], &entry[17..19]), (0x1a, b"\x01g".as_slice()));
    entry[18] = b'h';
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
async fn an_entry_with_a_changed_byte_does_not_open() {
    let mut stranger = Stranger::start(|config| config).await;
    let [group, rest] = stranger.sent_to_group().await;
    let (normal, local) = (stranger.sent("n", "n").await, stranger.sent("l!a", "l!").await);
    for (entry, list, channel) in [(normal, "n", "n"), (local, "l!", "l!a"), (group, "l!", "l!a"), (rest, "l!", "l!a")]
    {
        // Behind the stamp, which Redis may change: head, address and body.
        for place in 8..entry.len() {
            for bit in [1, 0x80] {
                let mut changed = entry.clone();
                changed[place] ^= bit;
                let what = format!("{list}, head {:x}, byte {place} changed", entry[8]);
                let refused = stranger.refused(&changed, list, channel, &what).await;
                // Another group, or this group at another version or time, may have no members. Then no reader opens
                // the entry.
                let may_be_for_nobody = entry[8] == 0x1a && (9..27).contains(&place);
                assert!(may_be_for_nobody || refused.undecryptable + refused.undecodable > 0, "{what}");
            }
        }
        for length in 9..entry.len() {
            let what = format!("{list}, head {:x}, cut to {length} bytes", entry[8]);
            let refused = stranger.refused(&entry[..length], list, channel, &what).await;
            assert!(refused.undecryptable + refused.undecodable > 0, "{what}");
        }
    }
}

#[tokio::test]
async fn a_group_message_does_not_open_for_recipients_added_in_redis() {
    let mut stranger = Stranger::start(|config| config).await;
    stranger.layer.group_add("g", "l!left").await.unwrap();
    stranger.layer.group_send("g", numbered(0)).await.unwrap();
    let earlier = entries(&mut stranger.connection, &stranger.site.list("l!")).await.pop().unwrap();
    assert_eq!(take_number(&stranger.layer, "l!").await, 0);
    stranger.layer.group_discard("g", "l!left").await.unwrap();
    let [whole, rest] = stranger.sent_to_group().await;
    let forged = [&whole[..19], &earlier[19..27], &whole[27..]].concat();
    stranger.assert_refused(&forged, "l!", "l!a", "to a former member").await;
    // Head, lifetime, group, version, count and local parts of kind 3.
    let locals = |names: &[&str]| {
        let count = u32::try_from(names.len()).unwrap().to_be_bytes();
        let names = names.iter().flat_map(|name| [&[u8::try_from(name.len()).unwrap()], name.as_bytes()].concat());
        count.into_iter().chain(names).collect::<Vec<_>>()
    };
    let (address, body) = whole[9..].split_at(8 + 2 + 8);
    let forged = [&whole[..8], &[0x1b], address, &locals(&["stranger"])[..], body].concat();
    stranger.assert_refused(&forged, "l!", "l!a", "to a stranger by name").await;
    let body = rest.split_at(9 + 8 + 2 + 8 + 4 + 2 * 2).1;
    for names in [&["stranger", "c"][..], &["b"], &["c", "b", "a"]] {
        let forged = [&rest[..9], address, &locals(names)[..], body].concat();
        let refused = stranger.refused(&forged, "l!", "l!a", &format!("the rest, for {names:?}")).await;
        let all = u64::try_from(names.len()).unwrap();
        assert_eq!(refused, Refused { undecryptable: all, undecodable: 0 }, "the rest, for {names:?}");
    }
}

#[tokio::test]
async fn the_rest_of_a_group_message_opens_in_another_process_and_is_put_back_again() {
    let mut stranger = Stranger::start(|config| config).await;
    let [_, rest] = stranger.sent_to_group().await;
    assert_eq!(&rest[17..19], b"\x01g");
    let other = connect(keyed(&stranger.site)).await;
    let mut taken = Vec::new();
    for layer in [&other, &stranger.layer] {
        let mut receiver = layer.receiver(&["l!"]).unwrap();
        let delivery = within(DEADLINE, "one more", receiver.recv()).await.unwrap();
        assert_eq!(number(&delivery), 1);
        taken.push(delivery.channel.to_string());
        within(DEADLINE, "the end of the receiver", receiver.close()).await.unwrap();
    }
    taken.sort();
    taken.dedup();
    assert_eq!(taken.len(), 2);
    assert!(stranger.layer.try_receive(&["l!"]).await.unwrap().is_none());
}

#[tokio::test]
async fn a_message_replayed_late_does_not_open() {
    let mut stranger = Stranger::start(|config| config.expiry(Duration::from_secs(1))).await;
    let mut entry = stranger.sent("n", "n").await;
    let sent = now_ms(&mut stranger.connection).await;
    entry[..8].copy_from_slice(&(sent + 3_600_000).to_be_bytes());
    // It opens again within its lifetime, which shows that the rest of this test depends only on time.
    let () = stranger.connection.del(stranger.site.list("n")).await.unwrap();
    let () = stranger.connection.rpush(stranger.site.list("n"), &entry).await.unwrap();
    assert_eq!(take_number(&stranger.layer, "n").await, 1);
    // The expiry, and 10 s for clock skew.
    tokio::time::sleep(Duration::from_millis(11_100)).await;
    stranger.assert_refused(&entry, "n", "n", "replayed after 11 s").await;
}
