//! Restoring from quarantine: readable entries are restored once and in order, unreadable ones stay.

use std::time::Duration;

use channel_layer::redis::quarantine::{QuarantineEntry, QuarantineId, QuarantineState, Restored};
use channel_layer::{Bytes, ChannelLayer, Config, Error, message};
use redis::AsyncCommands;

use super::tools::{
    Layer, Site, ask, assert_lives, connect, entries, now_ms, number, numbered, quarantined, take, take_number,
    take_numbers, ttl,
};
use crate::support::{DEADLINE, eventually, interrupted, shared_servers, within};

/// A deployment with a key, and processes that lack it.
pub struct Scene {
    pub site: Site,
    /// Has the key.
    pub layer: Layer,
    /// Has another key.
    stranger: Layer,
}

pub fn keyed(site: &Site) -> Config {
    site.config().symmetric_encryption_keys(["the key in use"])
}

impl Scene {
    pub async fn start() -> Self {
        Self::with(|config| config).await
    }

    async fn with(change: impl Fn(Config) -> Config) -> Self {
        let site = Site::on(&shared_servers()[..1]);
        let layer = connect(change(keyed(&site))).await;
        let stranger = connect(change(site.config().symmetric_encryption_keys(["another key"]))).await;
        Self { site, layer, stranger }
    }

    /// Lets the stranger read `channel` until it is empty, and waits until the quarantine has `count` entries.
    pub async fn quarantine(&self, channel: &str, count: usize) -> Vec<QuarantineEntry> {
        assert!(self.stranger.try_receive(&[channel]).await.unwrap().is_none());
        eventually("the entries in quarantine", async || {
            let entries = self.layer.quarantine().entries().await.unwrap().complete().unwrap();
            (entries.len() == count).then_some(entries)
        })
        .await
    }

    pub async fn is_empty(&self) -> bool {
        quarantined(&mut shared_servers()[0].connection().await, &self.site).await.is_empty()
    }
}

pub fn ids(entries: &[QuarantineEntry]) -> Vec<QuarantineId> {
    entries.iter().map(|entry| entry.id).collect()
}

#[tokio::test]
async fn restored_messages_arrive_once_and_in_order_before_later_ones() {
    let scene = Scene::start().await;
    for channel in ["n", "s?a", "l!a"] {
        for n in 0..5 {
            scene.layer.send(channel, numbered(n)).await.unwrap();
        }
    }
    for (channel, count) in [("n", 5), ("s?a", 10), ("l!", 15)] {
        scene.quarantine(channel, count).await;
    }
    for channel in ["n", "s?a", "l!a"] {
        scene.layer.send(channel, numbered(5)).await.unwrap();
    }
    let entries = scene.layer.quarantine().entries().await.unwrap().complete().unwrap();
    assert!(entries.iter().all(|entry| entry.state == QuarantineState::Readable), "{entries:?}");
    // The order of the ids does not matter.
    let named: Vec<_> = ids(&entries).into_iter().rev().collect();
    assert_eq!(
        scene.layer.quarantine().restore(&named).await.unwrap().complete().unwrap(),
        vec![Restored::Restored; 15]
    );
    assert!(scene.is_empty().await);
    for channel in ["n", "s?a", "l!"] {
        assert_eq!(take_numbers(&scene.layer, channel).await, [0, 1, 2, 3, 4, 5], "{channel}");
    }
    assert_eq!(scene.layer.quarantine().restore(&named).await.unwrap().complete().unwrap(), vec![Restored::Gone; 15]);
}

#[tokio::test]
async fn a_restored_group_message_reaches_its_members() {
    let scene = Scene::start().await;
    for member in ["l!a", "l!b", "n"] {
        scene.layer.group_add("g", member).await.unwrap();
    }
    scene.layer.group_send("g", numbered(1)).await.unwrap();
    scene.quarantine("n", 1).await;
    let entries = scene.quarantine("l!", 2).await;
    assert!(entries.iter().all(|entry| entry.head.as_ref().unwrap().group.as_deref() == Some("g")), "{entries:?}");
    scene.layer.quarantine().restore(&ids(&entries)).await.unwrap().complete().unwrap();
    let mut members = Vec::new();
    for source in ["n", "l!", "l!"] {
        members.push(take(&scene.layer, source).await.channel.to_string());
    }
    members[1..].sort();
    assert_eq!(members, ["n", "l!a", "l!b"]);
}

#[tokio::test]
async fn concurrent_calls_restore_each_entry_once() {
    let scene = Scene::start().await;
    let other = connect(keyed(&scene.site)).await;
    for n in 0..50 {
        scene.layer.send("n", numbered(n)).await.unwrap();
    }
    let entries = ids(&scene.quarantine("n", 50).await);
    let (one, two) = (scene.layer.quarantine(), other.quarantine());
    let (one, two) = tokio::join!(one.restore(&entries), two.restore(&entries));
    let restored = [one.unwrap().complete().unwrap(), two.unwrap().complete().unwrap()].concat();
    assert_eq!(restored.iter().filter(|outcome| **outcome == Restored::Restored).count(), 50);
    assert_eq!(restored.iter().filter(|outcome| **outcome == Restored::Gone).count(), 50);
    let mut numbers = take_numbers(&scene.layer, "n").await;
    numbers.sort_unstable();
    assert_eq!(numbers, (0..50).collect::<Vec<_>>());
    assert!(scene.is_empty().await);
}

#[tokio::test]
async fn a_crash_between_the_two_steps_neither_loses_nor_duplicates_a_message() {
    let scene = Scene::start().await;
    scene.layer.send("n", numbered(1)).await.unwrap();
    let entries = ids(&scene.quarantine("n", 1).await);
    let mut connection = shared_servers()[0].connection().await;
    // Restores the record, as if its removal had not been sent.
    let dump: Vec<u8> = ask(&mut connection, redis::cmd("DUMP").arg(scene.site.key("quarantine"))).await;
    assert_eq!(scene.layer.quarantine().restore(&entries).await.unwrap().complete().unwrap(), [Restored::Restored]);
    let restore = redis::cmd("RESTORE").arg(scene.site.key("quarantine")).arg(0).arg(dump).arg("REPLACE").clone();
    let () = ask(&mut connection, &restore).await;
    assert_eq!(scene.layer.quarantine().restore_anew(&entries).await.unwrap().complete().unwrap(), [Restored::Gone]);
    assert!(scene.is_empty().await);
    assert_eq!(take_numbers(&scene.layer, "n").await, [1]);
    assert_lives(ttl(&mut connection, &scene.site.key("restored:{n}")).await, Duration::from_hours(6 * 24));
}

#[tokio::test]
async fn a_record_is_forgotten_when_it_can_no_longer_be_in_quarantine() {
    let scene = Scene::start().await;
    let mut connection = shared_servers()[0].connection().await;
    let key = scene.site.key("restored:{n}");
    let mut expected = vec!["recent".to_owned()];
    for deletes in [false, true] {
        scene.layer.send("n", numbered(1)).await.unwrap();
        let ids = ids(&scene.quarantine("n", 1).await);
        let forgotten = now_ms(&mut connection).await - 6 * 24 * 3_600_000;
        let () = connection.zadd(&key, "old", forgotten).await.unwrap();
        let () = connection.zadd(&key, "recent", forgotten + 60_000).await.unwrap();
        let id = ids[0].to_string().trim_start_matches("0:").to_owned();
        if deletes {
            assert_eq!(scene.layer.quarantine().delete(&ids).await.unwrap().complete().unwrap(), 1);
            expected.push(format!("deleted {id}"));
        } else {
            let restored = scene.layer.quarantine().restore(&ids).await.unwrap().complete().unwrap();
            assert_eq!(restored, [Restored::Restored]);
            assert_eq!(take_number(&scene.layer, "n").await, 1);
            expected.push(id);
        }
        let remembered: Vec<String> = connection.zrange(&key, 0, -1).await.unwrap();
        assert_eq!(remembered, expected);
    }
}

#[tokio::test]
async fn a_dropped_restore_neither_loses_nor_duplicates_a_message() {
    let scene = Scene::start().await;
    let quarantine = scene.layer.quarantine();
    let mut cut = 0;
    for n in 0..20 {
        scene.layer.send("n", numbered(n)).await.unwrap();
        let entries = ids(&scene.quarantine("n", 1).await);
        let polls = usize::try_from(n).unwrap() + 1;
        cut += i64::from(interrupted(polls, DEADLINE, quarantine.restore(&entries)).await.is_none());
        // This call runs after the commands of the dropped call, on the same connection.
        quarantine.restore(&entries).await.unwrap().complete().unwrap();
        assert!(scene.is_empty().await);
        assert_eq!(take_numbers(&scene.layer, "n").await, [n]);
    }
    assert!((1..20).contains(&cut), "{cut} calls were dropped");
}

#[tokio::test]
async fn an_expired_message_is_restored_only_with_a_new_lifetime() {
    const EXPIRY: Duration = Duration::from_secs(2);
    let scene = Scene::with(|config| config.expiry(EXPIRY)).await;
    scene.layer.send("n", numbered(1)).await.unwrap();
    let entry = scene.quarantine("n", 1).await.remove(0);
    assert_eq!(entry.head.as_ref().unwrap().lifetime, EXPIRY);
    let quarantine = scene.layer.quarantine();
    eventually("its expiry", async || {
        let now = quarantine.entry(entry.id).await.unwrap().unwrap();
        (now.state == QuarantineState::Expired).then_some(())
    })
    .await;
    assert_eq!(quarantine.restore(&[entry.id]).await.unwrap().complete().unwrap(), [Restored::Expired]);
    assert_eq!(quarantine.message(entry.id).await.unwrap(), Some(numbered(1)));
    assert_eq!(quarantine.restore_anew(&[entry.id]).await.unwrap().complete().unwrap(), [Restored::Restored]);
    assert_eq!(take_number(&scene.layer, "n").await, 1);
    assert!(scene.is_empty().await);
}

#[tokio::test]
async fn unreadable_entries_stay_in_quarantine() {
    let scene = Scene::start().await;
    let mut connection = shared_servers()[0].connection().await;
    scene.layer.send("n", numbered(1)).await.unwrap();
    let moved = entries(&mut connection, &scene.site.list("n")).await.remove(0);
    let () = connection.rpush(scene.site.list("m"), moved).await.unwrap();
    let () = connection.rpush(scene.site.list("m"), "short").await.unwrap();
    scene.quarantine("m", 2).await;
    let key = scene.site.key("quarantine");
    for fields in [&["entry", "raw"][..], &["channel", "n!n!n", "entry", "raw"]] {
        let _: String = ask(&mut connection, redis::cmd("XADD").arg(&key).arg("*").arg(fields)).await;
    }
    let entries = scene.layer.quarantine().entries().await.unwrap().complete().unwrap();
    let reasons = [
        "modified, or sealed for another recipient",
        "it ends too early",
        "its channel is unknown",
        "its channel is unknown",
    ];
    for (entry, expected) in entries.iter().zip(reasons) {
        let QuarantineState::Unreadable(reason) = &entry.state else { panic!("{entry:?}") };
        assert!(reason.contains(expected), "{reason}");
    }
    assert_eq!(entries[0].channel.as_ref().unwrap().as_str(), "m");
    assert!(entries[1].head.is_none() && entries[2].channel.is_none() && entries[3].channel.is_none());
    for outcome in scene.layer.quarantine().restore_anew(&ids(&entries)).await.unwrap().complete().unwrap() {
        assert!(matches!(outcome, Restored::Unreadable(_)), "{outcome:?}");
    }
    assert_eq!(scene.layer.quarantine().message(entries[0].id).await.unwrap(), None);
    assert_eq!(scene.layer.quarantine().entries().await.unwrap().complete().unwrap().len(), 4);
    assert_eq!(scene.layer.channel_statistics("m").await.unwrap().messages_pending, 0);
}

#[tokio::test]
async fn deleted_entries_are_gone() {
    let scene = Scene::start().await;
    for n in 0..3 {
        scene.layer.send("n", numbered(n)).await.unwrap();
    }
    let all = ids(&scene.quarantine("n", 3).await);
    let nowhere = "7:1-1".parse().unwrap();
    let quarantine = scene.layer.quarantine();
    assert_eq!(quarantine.delete(&[all[1], all[1], nowhere]).await.unwrap().complete().unwrap(), 1);
    assert_eq!(quarantine.entry(all[1]).await.unwrap(), None);
    assert_eq!(quarantine.entry(nowhere).await.unwrap(), None);
    assert_eq!(
        quarantine.restore(&[all[2], all[1], nowhere, all[0]]).await.unwrap().complete().unwrap(),
        [Restored::Restored, Restored::Gone, Restored::Gone, Restored::Restored]
    );
    assert_eq!(take_numbers(&scene.layer, "n").await, [0, 2]);
}

#[tokio::test]
async fn a_full_channel_accepts_restored_entries() {
    let scene = Scene::with(|config| config.capacity(1)).await;
    scene.layer.send("n", numbered(0)).await.unwrap();
    let entries = ids(&scene.quarantine("n", 1).await);
    scene.layer.send("n", numbered(1)).await.unwrap();
    assert!(matches!(scene.layer.send("n", numbered(2)).await, Err(Error::ChannelFull { .. })));
    scene.layer.quarantine().restore(&entries).await.unwrap().complete().unwrap();
    assert_eq!(take_numbers(&scene.layer, "n").await, [0, 1]);
}

#[tokio::test]
async fn each_server_keeps_its_own_entries() {
    let servers = &shared_servers()[..2];
    let site = Site::on(servers);
    let layer = connect(keyed(&site)).await;
    let stranger = connect(site.config().symmetric_encryption_keys(["another key"])).await;
    let channels = site.pinned_channels(&layer, servers).await;
    for (n, channel) in (0..).zip(&channels) {
        layer.send(channel, numbered(n)).await.unwrap();
        assert!(stranger.try_receive(&[channel]).await.unwrap().is_none());
    }
    let entries = eventually("both in quarantine", async || {
        let entries = layer.quarantine().entries().await.unwrap().complete().unwrap();
        (entries.len() == 2).then_some(entries)
    })
    .await;
    assert_eq!(entries.iter().map(|entry| entry.id.shard()).collect::<Vec<_>>(), [0, 1]);
    // As after a change of the configured servers: no reader would read the channel on this server.
    let mut connection = servers[0].connection().await;
    let moved = redis::cmd("XADD").arg(site.key("quarantine")).arg(&["*", "channel", &channels[1]]).clone();
    let _: String = ask(&mut connection, &moved).await;
    let moved = layer.quarantine().entries().await.unwrap().complete().unwrap().remove(1);
    assert_eq!(moved.state, QuarantineState::Unreadable("its channel is on another server now".into()));
    layer.quarantine().restore(&ids(&entries)).await.unwrap().complete().unwrap();
    for (n, channel) in (0..).zip(&channels) {
        assert_eq!(take_number(&layer, channel).await, n);
    }
}

#[tokio::test]
async fn the_largest_messages_are_quarantined_within_the_bound_in_bytes() {
    let scene = Scene::with(|config| config.max_message_size(8 << 20)).await;
    let mut entries = Vec::new();
    // The first message takes more than half of the 16 MiB.
    for (n, size, kept) in [(0, (8 << 20) - 64, 1), (1, 5 << 20, 1), (2, 5 << 20, 2), (3, 5 << 20, 2)] {
        let large = message! { "number": n, "bytes": Bytes::from(vec![0; size]) };
        scene.layer.send("n", large).await.unwrap();
        assert!(scene.stranger.try_receive(&["n"]).await.unwrap().is_none());
        let before = entries.last().map(|entry: &QuarantineEntry| entry.id);
        entries = eventually("the entry in quarantine", async || {
            let entries = scene.layer.quarantine().entries().await.unwrap().complete().unwrap();
            (entries.last().map(|entry| entry.id) > before).then_some(entries)
        })
        .await;
        assert_eq!(entries.len(), kept, "after message {n}");
    }
    assert_eq!(
        scene.layer.quarantine().restore(&ids(&entries)).await.unwrap().complete().unwrap(),
        vec![Restored::Restored; 2]
    );
    for n in 2..4 {
        let delivery = within(DEADLINE, "a large message", scene.layer.receive(&["n"])).await.unwrap();
        assert_eq!(number(&delivery), n);
    }
}

#[tokio::test]
async fn a_closed_layer_restores_nothing() {
    let scene = Scene::start().await;
    scene.layer.close().await.unwrap();
    assert!(matches!(scene.layer.quarantine().entries().await, Err(Error::Closed)));
    assert!(matches!(scene.layer.quarantine().restore(&[]).await, Err(Error::Closed)));
}

#[tokio::test]
async fn a_key_of_another_type_leaves_the_entry_in_quarantine() {
    let scene = Scene::start().await;
    scene.layer.send("s?a", numbered(1)).await.unwrap();
    let ids = ids(&scene.quarantine("s?a", 1).await);
    let mut connection = shared_servers()[0].connection().await;
    for key in [scene.site.list("s?a"), scene.site.key("restored:{s?a}")] {
        let () = connection.set(&key, "of another program").await.unwrap();
        let refused = scene.layer.quarantine().restore(&ids).await.unwrap();
        assert!(matches!(&refused.errors[..], [Error::Redis { .. }]), "{key}: {refused:?}");
        assert_eq!(refused.results, [Restored::Failed]);
        let () = connection.del(&key).await.unwrap();
    }
    assert_eq!(scene.layer.quarantine().restore(&ids).await.unwrap().complete().unwrap(), [Restored::Restored]);
    assert_eq!(take_numbers(&scene.layer, "s?a").await, [1]);
}

#[tokio::test]
async fn large_entries_come_in_order_to_a_reader_that_waits() {
    let scene = Scene::start().await;
    for n in 0..4_i64 {
        let large = message! { "number": n, "bytes": Bytes::from(vec![0; 500_000]) };
        scene.layer.send("s?a", large).await.unwrap();
    }
    let ids = ids(&scene.quarantine("s?a", 4).await);
    let mut receiver = scene.layer.receiver(&["s?a"]).unwrap();
    let waiting = tokio::spawn(async move {
        let mut numbers = Vec::new();
        while numbers.len() < 4 {
            numbers.push(number(&receiver.recv().await.unwrap()));
        }
        numbers
    });
    tokio::task::yield_now().await;
    assert_eq!(scene.layer.quarantine().restore(&ids).await.unwrap().complete().unwrap(), vec![Restored::Restored; 4]);
    assert_eq!(within(DEADLINE, "all messages", waiting).await.unwrap(), [0, 1, 2, 3]);
}
