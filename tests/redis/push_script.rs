//! `push.lua` and `push_large.lua` on a real server.

use std::time::Duration;

use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;

use super::tools::{ask, assert_lives, entries, now_ms, ttl};
use crate::support::{random_prefix, shared_servers};

const SOURCE: &str = include_str!("../../src/redis/native/scripts/push.lua");
const LARGE: &str = include_str!("../../src/redis/native/scripts/push_large.lua");
const LIFETIME: Duration = Duration::from_secs(100);
/// Later than any time, in microseconds.
const NEVER: u64 = 1 << 52;
const STAMP_TOLERANCE: Duration = Duration::from_secs(20);
/// How much longer than its entries a list lives.
const SLACK: Duration = Duration::from_secs(30);

/// One of the scripts, with its own keys.
struct Push {
    /// Whether the script is `push_large.lua`, which runs after a transaction has appended the entries.
    large: bool,
    prefix: String,
    connection: MultiplexedConnection,
}

impl Push {
    async fn start(large: bool) -> Self {
        Self { large, prefix: random_prefix(), connection: shared_servers()[0].connection().await }
    }

    async fn each_way() -> [Self; 2] {
        [Self::start(false).await, Self::start(true).await]
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Runs the script for channels with their capacities and frames.
    async fn run(&mut self, channels: &[(&str, usize, &[&str])]) -> Vec<i64> {
        self.run_for(LIFETIME, channels).await
    }

    /// As [`run`](Self::run), with another lifetime. The sender has no estimate of the clock, so the script writes all
    /// stamps.
    async fn run_for(&mut self, lifetime: Duration, channels: &[(&str, usize, &[&str])]) -> Vec<i64> {
        self.run_stamped(lifetime, 0, channels).await
    }

    /// As [`run`](Self::run), with entries that the sender has stamped.
    async fn run_stamped(&mut self, lifetime: Duration, stamp: u64, channels: &[(&str, usize, &[&str])]) -> Vec<i64> {
        let mut command = redis::cmd("EVAL");
        command.arg(if self.large { LARGE } else { SOURCE }).arg(channels.len());
        for (name, _, _) in channels {
            command.arg(self.key(name));
        }
        command.arg(milliseconds(lifetime)).arg(stamp);
        for time in [STAMP_TOLERANCE, lifetime + SLACK] {
            command.arg(milliseconds(time));
        }
        if !self.large {
            command.arg(0);
        }
        let mut transaction = redis::pipe();
        transaction.atomic();
        for (name, capacity, frames) in channels {
            let entries: Vec<_> = frames.iter().map(|frame| entry(stamp, frame)).collect();
            command.arg(*capacity).arg(frames.len());
            if self.large {
                transaction.rpush(self.key(name), entries);
            } else {
                command.arg(entries);
            }
        }
        if !self.large {
            return ask(&mut self.connection, &command).await;
        }
        transaction.add_command(command);
        let answers = self.connection.send_packed_commands(&transaction, transaction.len() + 1, 1).await.unwrap();
        let Ok([redis::Value::Array(mut answers)]) = <[_; 1]>::try_from(answers) else { panic!("no list") };
        redis::from_redis_value(answers.pop().unwrap()).unwrap()
    }

    /// Appends a frame to a channel if the group has these routes and versions, and the time is before `until`.
    async fn run_if(&mut self, until: u64, routes: &str, frame: &str) -> redis::Value {
        let mut command = redis::cmd("EVAL");
        command.arg(SOURCE).arg(3).arg(self.key("a"));
        command.arg(self.key("group")).arg(self.key("ends")).arg(milliseconds(LIFETIME)).arg(0);
        for time in [STAMP_TOLERANCE, LIFETIME + SLACK] {
            command.arg(milliseconds(time));
        }
        command.arg(until).arg(routes).arg(10).arg(1);
        ask(&mut self.connection, command.arg(entry(0, frame))).await
    }

    /// Adds a route to the group. It ends in `ends_in` seconds, or has ended if that is negative. Returns its version
    /// and its end.
    async fn add_route(&mut self, route: &str, ends_in: i64) -> (u64, u64) {
        let now = now_ms(&mut self.connection).await;
        let (version, ends) = (now * 1000, now.saturating_add_signed(ends_in * 1000) * 1000);
        let () = self.connection.zadd(self.key("group"), route, version).await.unwrap();
        let () = self.connection.zadd(self.key("ends"), route, ends).await.unwrap();
        (version, ends)
    }

    /// The frames in a list, without their stamps.
    async fn frames(&mut self, name: &str) -> Vec<String> {
        let key = self.key(name);
        let entries = entries(&mut self.connection, &key).await;
        entries.into_iter().map(|entry| String::from_utf8(entry[8..].to_vec()).unwrap()).collect()
    }

    async fn fill(&mut self, name: &str, entries: &[Vec<u8>]) {
        let key = self.key(name);
        let () = self.connection.rpush(key, entries).await.unwrap();
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap()
}

fn entry(expires: u64, frame: &str) -> Vec<u8> {
    [&expires.to_be_bytes(), frame.as_bytes()].concat()
}

#[tokio::test]
async fn keeps_the_stamps_of_a_sender_with_the_right_time() {
    for mut push in Push::each_way().await {
        for off in [-10_000, 0, 10_000] {
            let stamp = (now_ms(&mut push.connection).await + milliseconds(LIFETIME)).saturating_add_signed(off);
            push.run_stamped(LIFETIME, stamp, &[("a", 10, &["1", "2"])]).await;
            let key = push.key("a");
            let kept = entries(&mut push.connection, &key).await;
            assert_eq!(kept[kept.len() - 2..], [entry(stamp, "1"), entry(stamp, "2")]);
        }
    }
}

#[tokio::test]
async fn replaces_the_stamps_of_a_sender_with_a_wrong_time() {
    for mut push in Push::each_way().await {
        for off in [-3_600_000, 3_600_000] {
            let before = now_ms(&mut push.connection).await + milliseconds(LIFETIME);
            push.run_stamped(LIFETIME, before.saturating_add_signed(off), &[("a", 10, &["1"])]).await;
            let after = now_ms(&mut push.connection).await + milliseconds(LIFETIME);
            let key = push.key("a");
            let written = entries(&mut push.connection, &key).await.pop().unwrap();
            let stamp = u64::from_be_bytes(written[..8].try_into().unwrap());
            assert!((before..=after).contains(&stamp), "{stamp} is not between {before} and {after}");
        }
    }
}

#[tokio::test]
async fn appends_only_if_the_group_has_the_given_routes() {
    let mut push = Push::start(false).await;
    assert_eq!(push.run_if(NEVER, "", "to nobody").await, appended());
    let (p, p_ends) = push.add_route("p!", 50).await;
    assert_eq!(push.run_if(NEVER, "", "0").await, condition_failed(&[("p!", p)], &[], ("p!", p_ends)));
    assert_eq!(push.run_if(p_ends, &format!("p! {p}"), "1").await, appended());
    let (q, q_ends) = push.add_route("q!", 40).await;
    let both = condition_failed(&[("p!", p), ("q!", q)], &[], ("q!", q_ends));
    assert_eq!(push.run_if(p_ends, &format!("p! {p}"), "2").await, both);
    assert_eq!(push.run_if(p_ends, &format!("p! {p} q! {}", q - 1), "3").await, both);
    assert_eq!(push.run_if(q_ends, &format!("p! {p} q! {q}"), "4").await, appended());
    assert_eq!(push.frames("a").await, ["to nobody", "1", "4"]);
}

#[tokio::test]
async fn the_condition_ends_with_the_first_of_the_routes() {
    let mut push = Push::start(false).await;
    let (gone, gone_ended) = push.add_route("gone!", -1).await;
    let (p, p_ends) = push.add_route("p!", 50).await;
    let routes = format!("gone! {gone} p! {p}");
    let answer = condition_failed(&[("gone!", gone), ("p!", p)], &["gone!"], ("p!", p_ends));
    assert_eq!(push.run_if(gone_ended, &routes, "0").await, answer);
    assert_eq!(push.run_if(p_ends, &routes, "1").await, appended());
}

/// The answer of a call that appended its only frame.
fn appended() -> redis::Value {
    redis::Value::Array(vec![redis::Value::Int(1), redis::Value::Int(0)])
}

/// The answer of a call whose condition does not hold.
fn condition_failed(routes: &[(&str, u64)], ended: &[&str], next_to_end: (&str, u64)) -> redis::Value {
    let list = |texts: Vec<String>| {
        redis::Value::Array(texts.into_iter().map(|text| redis::Value::BulkString(text.into_bytes())).collect())
    };
    let pairs = |pairs: &[(&str, u64)]| {
        list(pairs.iter().flat_map(|(route, number)| [(*route).to_owned(), number.to_string()]).collect())
    };
    let ended = list(ended.iter().map(ToString::to_string).collect());
    redis::Value::Array(vec![redis::Value::Array(vec![pairs(routes), ended, pairs(&[next_to_end])])])
}

#[tokio::test]
async fn appends_in_order_with_a_stamp_by_the_servers_clock() {
    for mut push in Push::each_way().await {
        let before = now_ms(&mut push.connection).await;
        assert_eq!(push.run(&[("a", 10, &["1", "2"]), ("b", 10, &["3"])]).await, [2, 1, 0]);
        assert_eq!(push.run(&[("a", 10, &["4"])]).await, [1, 0]);
        let after = now_ms(&mut push.connection).await;
        assert_eq!(push.frames("a").await, ["1", "2", "4"]);
        assert_eq!(push.frames("b").await, ["3"]);
        let key = push.key("a");
        for entry in entries(&mut push.connection, &key).await {
            let stamp = u64::from_be_bytes(entry[..8].try_into().unwrap());
            assert!((before + 100_000..=after + 100_000).contains(&stamp), "{stamp}");
        }
    }
}

#[tokio::test]
async fn every_byte_of_a_frame_is_kept() {
    for mut push in Push::each_way().await {
        let frame: String = (0..=127_u8).map(char::from).collect();
        push.run(&[("a", 1, &[&frame, ""])]).await;
        assert_eq!(push.frames("a").await, [frame]);
        push.run(&[("b", 1, &[""])]).await;
        assert_eq!(push.frames("b").await, [""]);
    }
}

#[tokio::test]
async fn takes_the_first_frames_up_to_the_capacity() {
    for mut push in Push::each_way().await {
        assert_eq!(push.run(&[("a", 3, &["1", "2"])]).await, [2, 0]);
        assert_eq!(push.run(&[("a", 3, &["3", "4", "5"]), ("b", 1, &["6"])]).await, [1, 1, 0]);
        assert_eq!(push.run(&[("a", 3, &["7"])]).await, [0, 0]);
        // The list may hold more entries than the capacity of another sender.
        assert_eq!(push.run(&[("a", 1, &["8"])]).await, [0, 0]);
        assert_eq!(push.frames("a").await, ["1", "2", "3"]);
    }
}

#[tokio::test]
async fn a_channel_listed_twice_has_a_separate_capacity_each_time() {
    let mut push = Push::start(false).await;
    let runs: [(&str, usize, &[&str]); 4] =
        [("a", 2, &["1", "2", "3"]), ("a", 9, &["4", "5"]), ("b", 1, &["6"]), ("a", 2, &["7"])];
    assert_eq!(push.run(&runs).await, [2, 2, 1, 0, 0]);
    assert_eq!(push.frames("a").await, ["1", "2", "4", "5"]);
}

#[tokio::test]
async fn only_as_many_expired_heads_as_needed_are_removed() {
    for mut push in Push::each_way().await {
        let now = now_ms(&mut push.connection).await;
        let old = |n: u64| entry(now - 10 + n, &n.to_string());
        push.fill("a", &[old(1), old(2), old(3), entry(now + 60_000, "live")]).await;
        assert_eq!(push.run(&[("a", 10, &["x"])]).await, [1, 0]);
        assert_eq!(push.frames("a").await, ["1", "2", "3", "live", "x"]);
        assert_eq!(push.run(&[("a", 5, &["y"])]).await, [1, 1]);
        assert_eq!(push.frames("a").await, ["2", "3", "live", "x", "y"]);
        assert_eq!(push.run(&[("a", 4, &["z", "refused"])]).await, [1, 2]);
        assert_eq!(push.frames("a").await, ["live", "x", "y", "z"]);
    }
}

#[tokio::test]
async fn expired_entries_behind_a_live_one_count_against_the_capacity() {
    for mut push in Push::each_way().await {
        let now = now_ms(&mut push.connection).await;
        push.fill("a", &[entry(now + 60_000, "live"), entry(now - 1, "old")]).await;
        assert_eq!(push.run(&[("a", 2, &["x"])]).await, [0, 0]);
        assert_eq!(push.frames("a").await, ["live", "old"]);
    }
}

#[tokio::test]
async fn a_list_of_only_expired_entries_is_emptied_and_used_again() {
    for mut push in Push::each_way().await {
        push.fill("a", &[entry(1, "1"), entry(2, "2")]).await;
        assert_eq!(push.run(&[("a", 1, &["x"])]).await, [1, 2]);
        assert_eq!(push.frames("a").await, ["x"]);
        let key = push.key("a");
        assert_lives(ttl(&mut push.connection, &key).await, LIFETIME + SLACK);
    }
}

#[tokio::test]
async fn short_heads_are_accepted() {
    for mut push in Push::each_way().await {
        for length in 0..8 {
            let name = format!("a{length}");
            push.fill(&name, &[vec![0; length], entry(1, "old")]).await;
            assert_eq!(push.run(&[(&name, 2, &["x"]), ("b", 100, &["y"])]).await, [0, 1, 0]);
            assert_eq!(push.run(&[(&name, 3, &["x"])]).await, [1, 0]);
        }
    }
}

#[tokio::test]
async fn a_key_that_is_not_a_list_fails_only_its_own_frames() {
    for mut push in Push::each_way().await {
        let (text, hash) = (push.key("text"), push.key("hash"));
        let () = push.connection.set(text, "x").await.unwrap();
        let () = push.connection.hset(hash, "x", "y").await.unwrap();
        let answer =
            push.run(&[("a", 9, &["1"]), ("text", 9, &["2", "3"]), ("hash", 9, &["4"]), ("b", 9, &["5"])]).await;
        assert_eq!(answer, [1, -1, -1, 1, 0]);
        assert_eq!(push.frames("a").await, ["1"]);
        assert_eq!(push.frames("b").await, ["5"]);
    }
}

#[tokio::test]
async fn the_time_to_live_of_a_list_is_never_shortened() {
    for mut push in Push::each_way().await {
        let key = push.key("a");
        push.run(&[("a", 9, &["1"])]).await;
        push.run_for(Duration::from_secs(20), &[("a", 9, &["2"])]).await;
        assert_lives(ttl(&mut push.connection, &key).await, LIFETIME + SLACK);
        push.run_for(LIFETIME * 2, &[("a", 9, &["3"])]).await;
        assert_lives(ttl(&mut push.connection, &key).await, LIFETIME * 2 + SLACK);
    }
}

#[tokio::test]
async fn a_list_recreated_by_another_sender_lives_as_long_as_its_entries() {
    let mut push = Push::start(false).await;
    let key = push.key("a");
    push.run(&[("a", 9, &["1"])]).await;
    let () = push.connection.del(&key).await.unwrap();
    push.run_for(Duration::from_secs(1), &[("a", 9, &["2"])]).await;
    let stamp = now_ms(&mut push.connection).await + milliseconds(LIFETIME);
    push.run_stamped(LIFETIME, stamp, &[("a", 9, &["3"])]).await;
    assert_lives(ttl(&mut push.connection, &key).await, LIFETIME + SLACK);
}

#[tokio::test]
async fn a_thousand_frames_fit_one_call() {
    for mut push in Push::each_way().await {
        let frames: Vec<_> = (0..1000).map(|n| n.to_string()).collect();
        let frames: Vec<_> = frames.iter().map(String::as_str).collect();
        assert_eq!(push.run(&[("a", 1000, &frames)]).await, [1000, 0]);
        assert_eq!(push.frames("a").await, frames);
    }
}

/// Runs `push.lua` without keys, as for the lists of a node of a cluster, each with its capacity and frames.
async fn run_without_keys(push: &mut Push, lists: &[(&str, usize, &[&str])]) -> Vec<i64> {
    let mut command = redis::cmd("EVAL");
    command.arg(SOURCE).arg(0).arg(milliseconds(LIFETIME)).arg(0);
    command.arg(milliseconds(STAMP_TOLERANCE)).arg(milliseconds(LIFETIME + SLACK)).arg(0);
    for (name, capacity, frames) in lists {
        let entries: Vec<_> = frames.iter().map(|frame| entry(0, frame)).collect();
        command.arg(push.key(name)).arg(*capacity).arg(frames.len()).arg(entries);
    }
    ask(&mut push.connection, &command).await
}

#[tokio::test]
async fn lists_as_arguments_have_capacities_expiries_and_errors_of_their_own() {
    let mut push = Push::start(false).await;
    let text = push.key("text");
    let () = push.connection.set_ex(&text, "text", 60).await.unwrap();
    push.fill("old", &[entry(1, "expired")]).await;
    let lists: [(&str, usize, &[&str]); 5] =
        [("a", 2, &["1", "2", "3"]), ("text", 9, &["4"]), ("a", 3, &["5"]), ("old", 1, &["6"]), ("b", 1, &["7"])];
    assert_eq!(run_without_keys(&mut push, &lists).await, [2, -1, 1, 1, 1, 1]);
    for (name, frames) in [("a", vec!["1", "2", "5"]), ("old", vec!["6"]), ("b", vec!["7"])] {
        assert_eq!(push.frames(name).await, frames, "{name}");
        let key = push.key(name);
        assert_lives(ttl(&mut push.connection, &key).await, LIFETIME + SLACK);
    }
}
