//! `push_one.lua` on a real server: it appends an entry where `push.lua` would, and nothing where it has to decide.

use redis::aio::MultiplexedConnection;
use redis::{AsyncCommands, Value};

use super::tools::{ask, entries, now_ms, ttl};
use crate::support::{random_prefix, shared_servers};

const SOURCE: &str = include_str!("../../src/redis/native/scripts/push_one.lua");
const TOLERANCE: &str = "tolerance = 50\n";
/// A tolerance above the time that a slow machine needs for a call.
const TEST_TOLERANCE: &str = "tolerance = 20000\n";
const LIFETIME_MS: u64 = 100_000;
const LIST_LIFETIME_MS: i64 = 130_000;

const APPENDED: Value = Value::Int(1);
const FULL: Value = Value::Int(0);
/// `push.lua` has to decide.
const UNDECIDED: Value = Value::Nil;

struct PushOne {
    list: String,
    connection: MultiplexedConnection,
}

impl PushOne {
    async fn start() -> Self {
        Self { list: random_prefix(), connection: shared_servers()[0].connection().await }
    }

    /// Appends an entry to the list of a channel with a capacity of 3. The estimate of the clock is off by so many ms.
    async fn run(&mut self, off_by: i64) -> Value {
        let estimate = now_ms(&mut self.connection).await.saturating_add_signed(off_by);
        let expires = estimate + LIFETIME_MS;
        assert!(SOURCE.contains(TOLERANCE));
        let mut command = redis::cmd("EVAL");
        command.arg(SOURCE.replace(TOLERANCE, TEST_TOLERANCE)).arg(1).arg(&self.list);
        command.arg(estimate).arg(LIST_LIFETIME_MS).arg(3);
        ask(&mut self.connection, command.arg(entry(expires, b'x'))).await
    }

    async fn fill(&mut self, expiries: &[u64]) {
        let entries: Vec<_> = expiries.iter().map(|expires| entry(*expires, b'f')).collect();
        let () = self.connection.rpush(&self.list, entries).await.unwrap();
    }

    /// When the last entry expires, in ms from now.
    async fn last_expires_in(&mut self) -> i64 {
        let now = now_ms(&mut self.connection).await;
        let entries = entries(&mut self.connection, &self.list).await;
        let stamp = u64::from_be_bytes(entries.last().unwrap()[..8].try_into().unwrap());
        stamp.checked_signed_diff(now).unwrap()
    }

    /// The last bytes of all entries.
    async fn ends(&mut self) -> Vec<u8> {
        let entries = entries(&mut self.connection, &self.list).await;
        entries.iter().map(|entry| *entry.last().unwrap()).collect()
    }
}

fn entry(expires: u64, last: u8) -> Vec<u8> {
    [&expires.to_be_bytes()[..], &[last]].concat()
}

#[tokio::test]
async fn appends_up_to_the_capacity() {
    let mut push = PushOne::start().await;
    for _ in 0..3 {
        assert_eq!(push.run(0).await, APPENDED);
    }
    assert_eq!(push.run(0).await, FULL);
    assert_eq!(push.ends().await, *b"xxx");
}

#[tokio::test]
async fn extends_the_time_to_live_of_a_list_and_never_shortens_it() {
    let mut push = PushOne::start().await;
    push.run(0).await;
    let lives = ttl(&mut push.connection, &push.list).await;
    assert!((LIST_LIFETIME_MS - 60_000..=LIST_LIFETIME_MS).contains(&lives), "{lives}");
    for (before, expected) in [(1_000_000, 900_000..=1_000_000), (50_000, 70_000..=LIST_LIFETIME_MS)] {
        let () = push.connection.pexpire(&push.list, before).await.unwrap();
        assert_eq!(push.run(0).await, APPENDED);
        let lives = ttl(&mut push.connection, &push.list).await;
        assert!(expected.contains(&lives), "{before}: {lives}");
    }
}

#[tokio::test]
async fn keeps_the_stamp_of_a_good_estimate_and_replaces_that_of_one_too_far_off() {
    for (off_by, expected) in [
        (-60_000, 90_000..=100_000),
        (60_000, 90_000..=100_000),
        (-10_000, 80_000..=90_000),
        (10_000, 100_001..=110_000),
    ] {
        let mut push = PushOne::start().await;
        assert_eq!(push.run(off_by).await, APPENDED);
        let expires_in = push.last_expires_in().await;
        assert!(expected.contains(&expires_in), "{off_by}: {expires_in}");
    }
}

#[tokio::test]
async fn leaves_expired_entries_at_the_head_of_a_full_list_to_push() {
    let mut push = PushOne::start().await;
    push.fill(&[1, u64::MAX, u64::MAX]).await;
    assert_eq!(push.run(0).await, UNDECIDED);
    assert_eq!(push.ends().await, *b"fff");
}

#[tokio::test]
async fn counts_expired_entries_behind_a_live_one_against_the_capacity() {
    let mut push = PushOne::start().await;
    push.fill(&[u64::MAX, 1, 1]).await;
    assert_eq!(push.run(0).await, FULL);
}

#[tokio::test]
async fn takes_short_heads_for_entries_that_do_not_expire() {
    let mut push = PushOne::start().await;
    let () = push.connection.rpush(&push.list, &["", "1234567", ""]).await.unwrap();
    assert_eq!(push.run(0).await, FULL);
}

#[tokio::test]
async fn leaves_a_key_that_holds_no_list_to_push() {
    let mut push = PushOne::start().await;
    let () = push.connection.set_ex(&push.list, "text", 60).await.unwrap();
    assert_eq!(push.run(0).await, UNDECIDED);
}
