//! `put_back.lua` on a real server.

use std::time::Duration;

use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;

use super::tools::{ask, assert_lives, entries, now_ms, ttl};
use crate::support::{random_prefix, shared_servers};

const SOURCE: &str = include_str!("../../src/redis/native/scripts/put_back.lua");
/// How much longer than its last entry a list lives.
const SLACK: Duration = Duration::from_secs(30);

async fn start() -> (MultiplexedConnection, String, u64) {
    let mut connection = shared_servers()[0].connection().await;
    let now = now_ms(&mut connection).await;
    (connection, random_prefix(), now)
}

async fn put_back(connection: &mut MultiplexedConnection, list: &str, entries: &[Vec<u8>]) -> i64 {
    ask(connection, redis::cmd("EVAL").arg(SOURCE).arg(1).arg(list).arg(30_000).arg(entries)).await
}

fn entry(expires: u64, frame: &str) -> Vec<u8> {
    [&expires.to_be_bytes(), frame.as_bytes()].concat()
}

#[tokio::test]
async fn entries_are_added_in_order_before_present_ones() {
    let (mut connection, list, now) = start().await;
    let all: Vec<_> = (0..6).map(|n| entry(now + 60_000, &n.to_string())).collect();
    let () = connection.rpush(&list, &all[4..]).await.unwrap();
    assert_eq!(put_back(&mut connection, &list, &all[2..4]).await, 0);
    assert_eq!(put_back(&mut connection, &list, &all[..2]).await, 0);
    assert_eq!(entries(&mut connection, &list).await, all);
}

#[tokio::test]
async fn expired_entries_are_dropped_and_counted() {
    let (mut connection, list, now) = start().await;
    let (live, old) = (entry(now + 60_000, "live"), entry(now - 1, "old"));
    let all = [old.clone(), live.clone(), old.clone(), live.clone(), old.clone()];
    assert_eq!(put_back(&mut connection, &list, &all).await, 3);
    assert_eq!(entries(&mut connection, &list).await, [live.clone(), live]);
    let other = format!("{list}-other");
    assert_eq!(put_back(&mut connection, &other, &[old]).await, 1);
    assert_eq!(ttl(&mut connection, &other).await, -2);
}

#[tokio::test]
async fn a_new_list_lives_as_long_as_the_last_of_its_entries() {
    let (mut connection, list, now) = start().await;
    let all = [entry(now + 50_000, "1"), entry(now + 90_000, "2"), entry(now + 20_000, "3")];
    put_back(&mut connection, &list, &all).await;
    assert_lives(ttl(&mut connection, &list).await, Duration::from_secs(90) + SLACK);
}

#[tokio::test]
async fn a_list_lives_as_long_as_before_or_longer() {
    let (mut connection, list, now) = start().await;
    let () = connection.rpush(&list, entry(now + 50_000, "1")).await.unwrap();
    let () = connection.pexpire(&list, 80_000).await.unwrap();
    put_back(&mut connection, &list, &[entry(now + 20_000, "2")]).await;
    assert_lives(ttl(&mut connection, &list).await, Duration::from_secs(80));
    put_back(&mut connection, &list, &[entry(now + 90_000, "3")]).await;
    assert_lives(ttl(&mut connection, &list).await, Duration::from_secs(90) + SLACK);
}

#[tokio::test]
async fn stamps_in_the_far_future_are_exact_enough() {
    let (mut connection, list, now) = start().await;
    let century = 100 * 366 * 86_400_000;
    assert_eq!(put_back(&mut connection, &list, &[entry(now + century, "1")]).await, 0);
    let lives = ttl(&mut connection, &list).await;
    assert!(lives > i64::try_from(century - 10_000).unwrap(), "{lives}");
}

#[tokio::test]
async fn a_thousand_entries_fit_one_call() {
    let (mut connection, list, now) = start().await;
    let all: Vec<_> = (0..1000).map(|n| entry(now + 60_000, &n.to_string())).collect();
    assert_eq!(put_back(&mut connection, &list, &all).await, 0);
    assert_eq!(entries(&mut connection, &list).await, all);
}
