//! The scripts of groups on a real server: versions, ends of memberships, and answers with only the changes.

use std::time::Duration;

use channel_layer::ChannelLayer;
use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;

use super::tools::{Site, ask, assert_lives, now_ms, ttl};
use crate::support::{RedisServer, random_prefix, shared_servers};

const ADD: &str = include_str!("../../src/redis/native/scripts/groups/add.lua");
const DISCARD: &str = include_str!("../../src/redis/native/scripts/groups/discard.lua");
const MEMBERS: &str = include_str!("../../src/redis/native/scripts/groups/members.lua");
const ROUTES: &str = include_str!("../../src/redis/native/scripts/groups/routes.lua");
const REMEMBER: &str = include_str!("../../src/redis/native/scripts/groups/remember.lua");

const LASTS: Duration = Duration::from_secs(100);
const REMEMBERED: Duration = Duration::from_secs(50);
const SECOND: u64 = 1_000_000;
/// How much longer than necessary the keys of a group live.
const SLACK: Duration = Duration::from_secs(30);

const GROUP: usize = 0;
const ROUTE_ENDS: usize = 1;
const MEMBERS_KEY: usize = 2;
const ENDS: usize = 4;
const LEFT: usize = 5;

/// A group with one process-local route, `p!`.
struct Group {
    key: String,
    connection: MultiplexedConnection,
    lasts: Duration,
    remembered: Duration,
}

/// The answer of `groups/members.lua`.
#[derive(Debug, Default, PartialEq)]
struct MembersAnswer {
    version: u64,
    only_changes: bool,
    remembered: u64,
    /// With the ends of their memberships.
    members: Vec<(String, u64)>,
    joined: Vec<(String, u64)>,
    left: Vec<(String, u64)>,
}

impl Group {
    async fn start() -> Self {
        let connection = shared_servers()[0].connection().await;
        Self { key: random_prefix(), connection, lasts: LASTS, remembered: REMEMBERED }
    }

    fn keys(&self) -> [String; 6] {
        ["", ":route-ends", ":members", ":joined", ":ends", ":left"].map(|kind| format!("{}{kind}", self.key))
    }

    /// The same group, for a process whose memberships have the lifetime `lasts` and which needs ended memberships to
    /// be remembered for `remembered`.
    fn with_settings(&self, lasts: Duration, remembered: Duration) -> Self {
        Self { key: self.key.clone(), connection: self.connection.clone(), lasts, remembered }
    }

    async fn add(&mut self, member: &str) -> u64 {
        let mut command = call(ADD, &self.keys());
        command.arg("p!").arg(ms(self.lasts)).arg(ms(self.remembered)).arg(member);
        ask(&mut self.connection, &command).await
    }

    async fn add_route(&mut self, route: &str) -> u64 {
        let mut command = call(ADD, &self.keys()[..2]);
        command.arg(route).arg(ms(self.lasts)).arg(ms(self.remembered));
        ask(&mut self.connection, &command).await
    }

    async fn discard(&mut self, member: &str) -> Option<u64> {
        let mut command = call(DISCARD, &self.keys());
        command.arg("p!").arg(ms(self.remembered)).arg(member);
        ask(&mut self.connection, &command).await
    }

    async fn discard_route(&mut self, route: &str) -> Option<u64> {
        let mut command = call(DISCARD, &self.keys()[..2]);
        command.arg(route).arg(ms(self.remembered));
        ask(&mut self.connection, &command).await
    }

    async fn members(&mut self, known: u64) -> MembersAnswer {
        let [group, _, rest @ ..] = self.keys();
        let mut command = call(MEMBERS, &[&[group], &rest[..]].concat());
        command.arg("p!").arg(known);
        let (version, only_changes, remembered, members, joined, left) =
            ask::<Answer>(&mut self.connection, &command).await;
        MembersAnswer {
            version,
            only_changes: only_changes == 1,
            remembered,
            members: pairs(members),
            joined: pairs(joined),
            left: pairs(left).into_iter().filter(|(text, _)| !text.is_empty()).collect(),
        }
    }

    /// The routes that have not ended, and when the first of them ends.
    async fn routes(&mut self) -> (Vec<(String, u64)>, Option<u64>) {
        let command = call(ROUTES, &self.keys()[..2]);
        let (routes, ended, next_to_end): (Vec<String>, Vec<String>, Vec<String>) =
            ask(&mut self.connection, &command).await;
        let is_live = |(route, _): &(String, u64)| !route.is_empty() && !ended.contains(route);
        (pairs(routes).into_iter().filter(is_live).collect(), pairs(next_to_end).first().map(|(_, ends)| *ends))
    }

    async fn route_names(&mut self) -> Vec<String> {
        self.routes().await.0.into_iter().map(|(route, _)| route).collect()
    }

    async fn remember(&mut self, routes: usize) -> bool {
        let mut command = call(REMEMBER, &self.keys());
        command.arg(ms(self.remembered)).arg(routes);
        ask(&mut self.connection, &command).await
    }

    /// Moves the end of a membership, and that of its route, into the past.
    async fn end(&mut self, member: &str, by: u64) {
        self.age(ENDS, member, by).await;
        self.age(ROUTE_ENDS, "p!", by).await;
    }

    /// Moves a score of one of the keys into the past.
    async fn age(&mut self, place: usize, member: &str, by: u64) {
        let key = &self.keys()[place];
        let score: f64 = self.connection.zscore(key, member).await.unwrap();
        #[expect(clippy::cast_precision_loss, reason = "times in microseconds are exact in a float")]
        let () = self.connection.zadd(key, member, score - by as f64).await.unwrap();
    }
}

type Answer = (u64, i64, u64, Vec<String>, Vec<String>, Vec<String>);

fn call(source: &str, keys: &[String]) -> redis::Cmd {
    let mut command = redis::cmd("EVAL");
    command.arg(source).arg(keys.len()).arg(keys);
    command
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap()
}

fn pairs(flat: Vec<String>) -> Vec<(String, u64)> {
    flat.chunks(2).map(|pair| (pair[0].clone(), pair[1].parse().unwrap())).collect()
}

fn names(pairs: &[(String, u64)]) -> Vec<&str> {
    pairs.iter().map(|(name, _)| name.as_str()).collect()
}

#[tokio::test]
async fn versions_are_times_that_grow_with_every_change() {
    let mut group = Group::start().await;
    let before = now_ms(&mut group.connection).await * 1000;
    let mut last = 0;
    for round in 0..100 {
        let version =
            if round % 3 == 2 { group.discard("a").await.expect("it was a member") } else { group.add("a").await };
        assert!(version > last, "{version} after {last}");
        last = version;
    }
    let after = (now_ms(&mut group.connection).await + 1) * 1000;
    assert!((before..after).contains(&last), "{last}");
}

#[tokio::test]
async fn versions_grow_after_the_clock_of_the_server_stepped_back() {
    let mut group = Group::start().await;
    let first = group.add("a").await;
    let ahead = first + 1000 * SECOND;
    #[expect(clippy::cast_precision_loss, reason = "times in microseconds are exact in a float")]
    let () = group.connection.zadd(&group.key, "p!", ahead as f64).await.unwrap();
    assert_eq!(group.add("b").await, ahead + 1);
    assert_eq!(group.discard("b").await, Some(ahead + 2));
    // The last member leaves, and the route ends. The remembered end keeps the versions growing.
    assert_eq!(group.discard("a").await, Some(ahead + 3));
    assert_eq!(group.add("c").await, ahead + 4);
}

#[tokio::test]
async fn the_version_of_a_route_outlives_the_route() {
    let mut group = Group::start().await;
    group.add("a").await;
    let last = group.add("b").await;
    for member in ["a", "b"] {
        group.end(member, 101 * SECOND).await;
    }
    // This removes the route from the group.
    group.add_route("normal").await;
    assert_eq!(group.route_names().await, ["normal"]);
    assert_eq!(group.members(0).await.version, last);

    let ahead = last + 1000 * SECOND;
    #[expect(clippy::cast_precision_loss, reason = "times in microseconds are exact in a float")]
    let () = group.connection.zadd(&group.keys()[MEMBERS_KEY], "b", ahead as f64).await.unwrap();
    assert_eq!(group.add("c").await, ahead + 1);
}

#[tokio::test]
async fn adding_a_member_again_renews_the_membership_and_keeps_its_start() {
    let mut group = Group::start().await;
    let first = group.add("a").await;
    let second = group.add("a").await;
    let answer = group.members(0).await;
    assert_eq!(answer.members, [("a".to_owned(), second + 100 * SECOND)]);
    assert_eq!(answer.joined, [("a".to_owned(), first)]);
    assert_eq!(answer.remembered, ms(REMEMBERED));
    assert_eq!(group.routes().await, (vec![("p!".to_owned(), second)], Some(second + 100 * SECOND)));
    for (place, key) in group.keys().iter().enumerate() {
        let needed = if place == LEFT { REMEMBERED } else { LASTS + REMEMBERED };
        assert_lives(ttl(&mut group.connection, key).await, needed + SLACK);
    }
}

#[tokio::test]
async fn adding_an_expired_member_starts_a_new_membership() {
    let mut group = Group::start().await;
    let first = group.add("a").await;
    group.end("a", 101 * SECOND).await;
    let ended = first - SECOND;
    assert_eq!(group.members(0).await.members, [("a".to_owned(), ended)], "earlier messages may wait for it");
    let again = group.add("a").await;
    let answer = group.members(0).await;
    assert_eq!(answer.joined, [("a".to_owned(), again)]);
    assert_eq!(answer.left, [(format!("{first} {ended} a"), again)]);
}

#[tokio::test]
async fn no_process_shortens_the_memberships_of_another() {
    let mut long = Group::start().await;
    let mut short = long.with_settings(Duration::from_secs(2), Duration::from_secs(1));
    let first = long.add("a").await;
    let ends = first + 100 * SECOND;
    // An add of the other process neither ends the membership earlier nor removes it.
    short.add("b").await;
    short.add("a").await;
    assert_eq!(long.members(0).await.members.last(), Some(&("a".to_owned(), ends)));
    let version = short.discard("b").await.expect("it was a member");
    assert_eq!(long.routes().await, (vec![("p!".to_owned(), version)], Some(ends)));
    short.add_route("other").await;
    for (place, key) in long.keys().iter().enumerate() {
        let needed = if place == LEFT { REMEMBERED } else { LASTS + REMEMBERED };
        assert_lives(ttl(&mut long.connection, key).await, needed + SLACK);
    }
}

#[tokio::test]
async fn no_process_forgets_ended_memberships_that_another_one_needs() {
    let mut long = Group::start().await;
    let mut short = long.with_settings(Duration::from_secs(2), Duration::from_secs(1));
    long.add("expired").await;
    let joined = long.add("gone").await;
    long.end("expired", 110 * SECOND).await;
    let left = short.discard("gone").await.expect("it was a member");
    let ended = format!("{joined} {left} gone");
    long.age(LEFT, &ended, 20 * SECOND).await;
    short.add("a").await;
    let answer = short.members(0).await;
    assert_eq!(names(&answer.members), ["expired", "a"]);
    assert_eq!(names(&answer.left), [ended]);
    let left = &long.keys()[LEFT];
    assert_lives(ttl(&mut long.connection, left).await, REMEMBERED + SLACK);
}

#[tokio::test]
async fn a_group_remembers_for_longer_when_a_sender_needs_it() {
    let mut short = Group::start().await;
    let mut long = short.with_settings(LASTS, REMEMBERED * 10);
    assert!(!long.remember(1).await, "there is no such group");
    assert!(!long.connection.exists::<_, bool>(&long.key).await.unwrap());
    short.add("a").await;
    assert!(!long.remember(2).await, "it has other routes than the sender knows");
    assert!(long.remember(1).await);
    assert!(short.remember(1).await, "it remembers for longer than that");
    assert_eq!(short.members(0).await.remembered, ms(REMEMBERED * 10));
    for (place, key) in long.keys().iter().enumerate() {
        let needed = if place == LEFT { REMEMBERED * 10 } else { LASTS + REMEMBERED * 10 };
        assert_lives(ttl(&mut long.connection, key).await, needed + SLACK);
    }
    short.end("a", 400 * SECOND).await;
    short.add("b").await;
    assert_eq!(names(&short.members(0).await.members), ["a", "b"]);
}

#[tokio::test]
async fn expired_members_are_removed_by_adds_of_other_members() {
    let mut group = Group::start().await;
    for n in 0..150 {
        group.add(&format!("old{n}")).await;
    }
    for n in 0..150 {
        group.age(ENDS, &format!("old{n}"), 151 * SECOND).await;
    }
    for left in [50 + 1, 2, 3] {
        group.add(&format!("new{left}")).await;
        for key in &group.keys()[2..5] {
            assert_eq!(group.connection.zcard::<_, i64>(key).await.unwrap(), left, "{key}");
        }
    }
}

#[tokio::test]
async fn an_ended_membership_is_remembered_with_its_start_and_end() {
    let mut group = Group::start().await;
    let joined = group.add("a").await;
    group.add("b").await;
    let left = group.discard("a").await.expect("it was a member");
    let answer = group.members(0).await;
    assert_eq!((answer.version, answer.only_changes), (left, false));
    assert_eq!(names(&answer.members), ["b"]);
    assert_eq!(answer.left, [(format!("{joined} {left} a"), left)]);
    assert_eq!(group.routes().await.0, [("p!".to_owned(), left)]);
}

#[tokio::test]
async fn discarding_a_channel_that_is_not_a_member_changes_nothing() {
    let mut group = Group::start().await;
    assert_eq!(group.discard("a").await, None);
    let version = group.add("a").await;
    assert_eq!(group.discard("b").await, None);
    assert_eq!(group.members(0).await.version, version);
}

#[tokio::test]
async fn discarding_an_expired_member_is_a_change_that_keeps_its_end() {
    let mut group = Group::start().await;
    let joined = group.add("a").await;
    group.add("b").await;
    group.end("a", 101 * SECOND).await;
    let version = group.discard("a").await.expect("it is remembered");
    let answer = group.members(0).await;
    assert_eq!((answer.version, names(&answer.members)), (version, vec!["b"]));
    let (ended, changed) = &answer.left[0];
    assert!(ended.starts_with(&format!("{joined} ")) && !ended.contains(&version.to_string()), "{ended}");
    assert_eq!(*changed, version);
    assert_eq!(group.discard("a").await, None, "it is discarded already");
}

#[tokio::test]
async fn old_ends_are_trimmed() {
    let mut group = Group::start().await;
    let joined = group.add("a").await;
    let left = group.discard("a").await.expect("it was a member");
    group.age(LEFT, &format!("{joined} {left} a"), 51 * SECOND).await;
    group.age(LEFT, "", 60 * SECOND).await;
    group.add("b").await;
    assert_eq!(group.members(0).await.left, []);
    // A reader whose version is older than the remembered ends gets all members.
    assert!(!group.members(left - 51 * SECOND).await.only_changes);
    assert!(group.members(left - 40 * SECOND).await.only_changes);
}

#[tokio::test]
async fn a_reader_with_a_version_gets_only_the_changes_since_then() {
    let mut group = Group::start().await;
    let a = group.add("a").await;
    let b = group.add("b").await;
    let nothing = group.members(b).await;
    assert_eq!((nothing.version, nothing.only_changes), (b, true));
    assert_eq!((nothing.members.len(), nothing.joined.len(), nothing.left.len()), (0, 0, 0));
    let renewed = group.add("a").await;
    let gone = group.discard("b").await.expect("it was a member");
    let c = group.add("c").await;
    let answer = group.members(b).await;
    assert!(answer.only_changes);
    assert_eq!(answer.members, [("a".to_owned(), renewed + 100 * SECOND), ("c".to_owned(), c + 100 * SECOND)]);
    assert_eq!(answer.joined, [("c".to_owned(), c)]);
    assert_eq!(answer.left, [(format!("{b} {gone} b"), gone)]);
    let all = group.members(0).await;
    assert!(!all.only_changes);
    assert_eq!(all.joined, [("a".to_owned(), a), ("c".to_owned(), c)]);
}

#[tokio::test]
async fn a_reader_whose_version_is_too_old_gets_all_members() {
    let mut group = Group::start().await;
    let first = group.add("a").await;
    // A version before the first remembered end.
    assert!(!group.members(first - 2).await.only_changes);
    // More changes than one answer may have.
    for n in 0..1001 {
        group.add(&n.to_string()).await;
    }
    let answer = group.members(first).await;
    assert_eq!((answer.only_changes, answer.members.len()), (false, 1002));
    assert_eq!(group.members(answer.version - 1).await.members.len(), 1);
    // No end is remembered any more.
    let () = group.connection.del(&group.keys()[LEFT]).await.unwrap();
    assert!(!group.members(answer.version - 1).await.only_changes);
}

#[tokio::test]
async fn an_ended_group_has_no_members() {
    let mut group = Group::start().await;
    let answer = group.members(5).await;
    assert_eq!(answer, MembersAnswer::default());
    assert_eq!(group.routes().await, (vec![], None));
}

#[tokio::test]
async fn routes_of_expired_members_are_left_out() {
    let mut group = Group::start().await;
    group.add_route("normal").await;
    group.add_route("single?x").await;
    group.add("a").await;
    assert_eq!(group.route_names().await, ["normal", "single?x", "p!"]);
    group.age(ROUTE_ENDS, "single?x", 101 * SECOND).await;
    assert_eq!(group.route_names().await, ["normal", "p!"]);
    // The next add removes them.
    group.add("b").await;
    let routes: Vec<String> = group.connection.zrange(&group.keys()[GROUP], 0, -1).await.unwrap();
    assert_eq!(routes, ["", "normal", "p!"]);
}

#[tokio::test]
async fn the_end_of_one_route_leaves_the_others() {
    let mut group = Group::start().await;
    group.add_route("normal").await;
    group.add("a").await;
    group.discard("a").await.expect("it was a member");
    assert_eq!(group.route_names().await, ["normal"]);
    assert_eq!(group.connection.exists::<_, i64>(&group.keys()[2..5]).await.unwrap(), 0);
    assert_eq!(group.discard_route("normal").await, None);
    assert_eq!(group.routes().await, (vec![], None));
}

#[tokio::test]
async fn a_discard_outlasts_a_clock_that_steps_back() {
    let server = RedisServer::with_clock(&[]);
    let layer = Site::on(std::slice::from_ref(&server)).layer().await;
    layer.group_add_for("g", "p!a", Duration::from_mins(1)).await.unwrap();
    layer.group_add("g", "p!b").await.unwrap();
    // The membership has ended by this clock, and has not by the next one.
    server.set_clock(120);
    layer.group_discard("g", "p!a").await.unwrap();
    server.set_clock(0);
    let members = layer.group_channels("g").await.unwrap();
    assert_eq!(members.iter().map(ToString::to_string).collect::<Vec<_>>(), ["p!b"]);
}
