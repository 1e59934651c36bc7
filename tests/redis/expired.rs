//! Expired entries at the head of a channel: `drop_expired.lua`, and the readers that call it.

use channel_layer::ChannelLayer;
use metrics_util::debugging::DebuggingRecorder;
use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;

use super::tools::{Site, ask, entries, now_ms, number, numbered};
use crate::support::{Counts, DEADLINE, RedisServer, random_prefix, shared_servers, within};

const SOURCE: &str = include_str!("../../src/redis/native/scripts/drop_expired.lua");
const CHANNEL: &str = "jobs";
/// More than one call of the script removes.
const EXPIRED: usize = 1500;

async fn drop_expired(connection: &mut MultiplexedConnection, list: &str, most: usize, bytes: usize) -> usize {
    ask(connection, redis::cmd("EVAL").arg(SOURCE).arg(1).arg(list).arg(most).arg(bytes)).await
}

/// `entry` with another stamp.
fn stamped(entry: &[u8], expires: u64) -> Vec<u8> {
    [&expires.to_be_bytes(), &entry[8..]].concat()
}

#[tokio::test]
async fn the_script_removes_expired_entries_up_to_the_first_other_one() {
    let (mut connection, list) = (shared_servers()[0].connection().await, random_prefix());
    let now = now_ms(&mut connection).await;
    let [old, live] = [now - 1, now + 60_000].map(|expires| stamped(&[b'x'; 100], expires));
    assert_eq!(drop_expired(&mut connection, &list, 9, 1000).await, 0, "there is no list");
    let all = [&old, &old, &old, &old, &live, &old].map(Clone::clone);
    let () = connection.rpush(&list, &all).await.unwrap();
    assert_eq!(drop_expired(&mut connection, &list, 2, 1000).await, 2, "the most entries");
    assert_eq!(drop_expired(&mut connection, &list, 9, 100).await, 1, "the most bytes");
    assert_eq!(drop_expired(&mut connection, &list, 9, 1000).await, 1);
    assert_eq!(drop_expired(&mut connection, &list, 9, 1000).await, 0);
    assert_eq!(entries(&mut connection, &list).await, [live, old]);
    let () = connection.lpush(&list, "short").await.unwrap();
    assert_eq!(drop_expired(&mut connection, &list, 9, 1000).await, 0, "no entry of this format");
}

#[tokio::test]
async fn a_reader_passes_expired_messages_in_few_reads_and_takes_no_message_that_nobody_waits_for() {
    let recorder = DebuggingRecorder::new();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let mut counts = Counts::of(&recorder);
    let server = RedisServer::start();
    let site = Site::on(std::slice::from_ref(&server));
    let (mut connection, list) = (server.connection().await, site.list(CHANNEL));
    let sender = site.layer().await;
    for number in 1..=3 {
        sender.send(CHANNEL, numbered(number)).await.unwrap();
    }
    // The counters are written before the reads are counted.
    sender.close().await.unwrap();
    let live = entries(&mut connection, &list).await;
    let expired = stamped(&live[0], now_ms(&mut connection).await - 1);
    let () = connection.lpush(&list, vec![expired; EXPIRED]).await.unwrap();
    let reader = site.layer().await;
    let () = ask(&mut connection, redis::cmd("CONFIG").arg("RESETSTAT")).await;
    let delivery = within(DEADLINE, "a message behind expired ones", reader.receive(&[CHANNEL])).await.unwrap();
    assert_eq!(number(&delivery), 1);
    assert_eq!(entries(&mut connection, &list).await, live[1..]);
    let statistics: String = ask(&mut connection, redis::cmd("INFO").arg("commandstats")).await;
    let calls = |command: &str| -> usize {
        let begin = format!("cmdstat_{command}:calls=");
        let calls = statistics.lines().find_map(|line| line.strip_prefix(&begin)?.split(',').next()?.parse().ok());
        calls.unwrap_or(0)
    };
    let reads = calls("blmpop") + calls("evalsha");
    assert!(reads < 10, "{reads} reads");
    assert_eq!(counts.dropped("expired"), EXPIRED as u64);
}
