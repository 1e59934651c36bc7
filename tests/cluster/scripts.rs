//! The scripts of the native format on the keys of a slot that is being migrated: a command on a missing key fails
//! there, also within a script.

use redis::Value;

use super::tools::{name_in, slot_of};
use crate::support::{Cluster, eventually};

const ADD: &str = include_str!("../../src/redis/native/scripts/groups/add.lua");
const DISCARD: &str = include_str!("../../src/redis/native/scripts/groups/discard.lua");
const PUSH_LARGE: &str = include_str!("../../src/redis/native/scripts/push_large.lua");
const RESTORE: &str = include_str!("../../src/redis/native/scripts/restore.lua");
const MARK_DELETED: &str = include_str!("../../src/redis/native/scripts/mark_deleted.lua");

/// A lifetime of entries and of lists, in ms.
const MINUTE: &str = "60000";

/// A cluster with a slot that begins to move from the first master to the second.
struct Migration {
    cluster: Cluster,
    tag: String,
}

impl Migration {
    async fn prepared() -> Self {
        Self { cluster: Cluster::without_replicas().await, tag: name_in("t", 0..5000, 'x') }
    }

    /// Keys in the slot.
    fn keys<const N: usize>(&self, beginning: &str) -> [String; N] {
        std::array::from_fn(|number| format!("{beginning}{number}{{{}}}", self.tag))
    }

    async fn begin(&self) {
        self.cluster.begin_move(slot_of(&self.tag), 0, 1).await;
    }

    /// The time of the node in microseconds.
    async fn time(&self) -> u64 {
        let (seconds, microseconds): (u64, u64) = self.cluster.nodes[0].ask(&redis::cmd("TIME")).await;
        seconds * 1_000_000 + microseconds
    }

    async fn members(&self, set: &str) -> Vec<String> {
        self.cluster.nodes[0].ask(redis::cmd("ZRANGE").arg(set).arg(0).arg(-1)).await
    }

    async fn run(&self, script: &str, keys: &[String], arguments: &[&str]) -> Value {
        self.cluster.nodes[0].ask(&eval(script, keys, arguments)).await
    }
}

fn eval(script: &str, keys: &[String], arguments: &[&str]) -> redis::Cmd {
    let mut command = redis::cmd("EVAL");
    command.arg(script).arg(keys.len()).arg(keys).arg(arguments);
    command
}

#[tokio::test]
async fn the_last_member_of_a_route_is_discarded_while_its_slot_is_migrated() {
    let site = Migration::prepared().await;
    let keys: [_; 6] = site.keys("group");
    site.run(ADD, &keys, &["route!", MINUTE, MINUTE, "ada"]).await;
    site.begin().await;
    let version = site.run(DISCARD, &keys, &["route!", MINUTE, "ada"]).await;
    assert_ne!(version, Value::Nil, "the member was there");
    assert_eq!(site.members(&keys[0]).await, [""], "the route is no longer in the group");
}

#[tokio::test]
async fn a_member_is_added_while_its_slot_is_migrated_and_all_others_have_expired() {
    let site = Migration::prepared().await;
    let (local, plain): ([_; 6], [_; 2]) = (site.keys("local"), site.keys("plain"));
    site.run(ADD, &local, &["old!", "1", "1", "ada"]).await;
    site.run(ADD, &plain, &["old", "1", "1"]).await;
    let added = site.time().await;
    eventually("a later time", async || (site.time().await > added + 10_000).then_some(())).await;
    site.begin().await;
    site.run(ADD, &local, &["new!", MINUTE, "1", "bob"]).await;
    site.run(ADD, &plain, &["new", MINUTE, "1"]).await;
    for (key, members) in [(&local[0], vec!["", "new!"]), (&local[4], vec!["bob"]), (&plain[0], vec!["new"])] {
        assert_eq!(site.members(key).await, members, "{key}");
    }
}

#[tokio::test]
async fn large_entries_are_stamped_anew_while_the_slot_of_their_list_is_migrated() {
    let site = Migration::prepared().await;
    let [list]: [_; 1] = site.keys("list");
    let entry = |expires: u64, text: &str| [&expires.to_be_bytes()[..], text.as_bytes()].concat();
    let append = |entries: &[Vec<u8>]| redis::cmd("RPUSH").arg(&list).arg(entries).clone();
    site.cluster.nodes[0].ask::<i64>(&append(&[entry(1, "expired")])).await;
    site.begin().await;
    let mut transaction = redis::pipe();
    transaction.atomic();
    transaction.add_command(append(&[entry(1, "one"), entry(1, "two")])).ignore();
    // The stamp is far from the clock of the node.
    transaction.add_command(eval(PUSH_LARGE, std::slice::from_ref(&list), &[MINUTE, "1", "50", MINUTE, "2", "2"]));
    let mut connection = site.cluster.nodes[0].server.connection().await;
    let (answer,): ((i64, i64),) = transaction.query_async(&mut connection).await.unwrap();
    assert_eq!(answer, (2, 1), "both were accepted, and one had expired");
    let left: Vec<Vec<u8>> = site.cluster.nodes[0].ask(redis::cmd("LRANGE").arg(&list).arg(0).arg(-1)).await;
    assert_eq!(left.iter().map(|entry| &entry[8..]).collect::<Vec<_>>(), [b"one", b"two"]);
}

#[tokio::test]
async fn quarantined_entries_are_restored_and_deleted_while_the_slot_of_their_channel_is_migrated() {
    let site = Migration::prepared().await;
    let [list, restored, marked]: [_; 3] = site.keys("quarantine");
    let entry = [&(1_u64 << 43).to_be_bytes()[..], b"x"].concat();
    let node = &site.cluster.nodes[0];
    node.ask::<i64>(redis::cmd("RPUSH").arg(&list).arg(&entry)).await;
    for set in [&restored, &marked] {
        node.ask::<i64>(redis::cmd("ZADD").arg(set).arg(1).arg("old")).await;
    }
    site.begin().await;
    let mut command = eval(RESTORE, &[list, restored.clone()], &["1", MINUTE, "1-1"]);
    assert_eq!(node.ask::<Vec<i64>>(command.arg(&entry)).await, [1]);
    let answer: Vec<i64> = node.ask(&eval(MARK_DELETED, std::slice::from_ref(&marked), &[MINUTE, "1-1"])).await;
    assert_eq!(answer, [1]);
    assert_eq!(site.members(&restored).await, ["1-1"], "old ids are removed");
    assert_eq!(site.members(&marked).await, ["deleted 1-1"], "old ids are removed");
}
