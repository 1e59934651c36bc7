//! The quarantine of unreadable entries: its bounds, and its events.

use channel_layer::{ChannelLayer, Event};
use metrics_util::debugging::DebuggingRecorder;
use redis::AsyncCommands;

use super::tools::{Site, ask, connect, event, events_so_far, now_ms, number, numbered, quarantined, take_number, ttl};
use crate::support::{Counts, DEADLINE, RedisServer, eventually, shared_servers, within};

#[tokio::test]
async fn the_last_entries_are_kept_for_days_and_all_are_counted() {
    let site = Site::on(&shared_servers()[..1]);
    let layer = connect(site.config()).await;
    let recorder = DebuggingRecorder::new();
    let mut counts = Counts::of(&recorder);
    let _local = metrics::set_default_local_recorder(&recorder);
    let mut connection = shared_servers()[0].connection().await;
    let mut receiver = layer.receiver(&["flood!"]).unwrap();
    for round in 0..3 {
        let garbage: Vec<_> = (0..500).map(|n| format!("{round}-{n}")).collect();
        let () = connection.rpush(site.list("flood!"), garbage).await.unwrap();
        layer.send("flood!a", numbered(round)).await.unwrap();
        assert_eq!(number(&within(DEADLINE, "the next message", receiver.recv()).await.unwrap()), round);
        let newest = format!("{round}-499");
        eventually("the last of them", async || {
            let kept = quarantined(&mut shared_servers()[0].connection().await, &site).await;
            kept.last().is_some_and(|last| last == newest.as_bytes()).then_some(())
        })
        .await;
    }
    let kept = quarantined(&mut connection, &site).await;
    assert_eq!(kept.len(), 256);
    assert_eq!(kept[0], b"2-244");
    assert!(ttl(&mut connection, &site.key("quarantine")).await > 2 * 86_400_000);
    assert_eq!(counts.dropped("undecodable"), 1500);
}

#[tokio::test]
async fn records_are_dropped_after_three_days() {
    let site = Site::on(&shared_servers()[..1]);
    let layer = connect(site.config()).await;
    let mut connection = shared_servers()[0].connection().await;
    let day = 86_400_000;
    let now = now_ms(&mut connection).await;
    for (age, entry) in [(3 * day + 60_000, "old"), (3 * day - 60_000, "recent")] {
        let id = format!("{}-0", now - age);
        let record = redis::cmd("XADD").arg(site.key("quarantine")).arg(&[&id, "entry", entry]).clone();
        let _: String = ask(&mut connection, &record).await;
    }
    let () = connection.rpush(site.list("n"), "garbage").await.unwrap();
    assert!(layer.try_receive(&["n"]).await.unwrap().is_none());
    eventually("the new record", async || {
        let kept = quarantined(&mut shared_servers()[0].connection().await, &site).await;
        (kept == [&b"recent"[..], b"garbage"]).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_stream_is_bounded_without_the_memory_usage_command() {
    let server = RedisServer::start();
    let mut connection = server.connection().await;
    let rules = ["SETUSER", "u", "on", ">p", "~*", "&*", "+@all", "-memory|usage"];
    let () = ask(&mut connection, redis::cmd("ACL").arg(&rules)).await;
    let site = Site::at([format!("redis://u:p@127.0.0.1:{}", server.port())]);
    let layer = connect(site.config()).await;
    let garbage: Vec<_> = (0..20).map(|n| n.to_string()).collect();
    let () = connection.rpush(site.list("s?a"), &garbage).await.unwrap();
    let mut receiver = layer.receiver(&["s?a"]).unwrap();
    let reading = tokio::spawn(async move { receiver.recv().await });
    eventually("the last sixteen", async || {
        let kept = quarantined(&mut server.connection().await, &site).await;
        kept.iter().eq(garbage[4..].iter().map(String::as_bytes)).then_some(())
    })
    .await;
    reading.abort();
}

#[tokio::test]
async fn each_cause_is_announced_once() {
    let site = Site::on(&shared_servers()[..1]);
    let layer = connect(site.config()).await;
    let mut events = layer.events();
    let mut connection = shared_servers()[0].connection().await;
    let quarantined_event = |event: &Event| matches!(event, Event::Quarantined { .. });
    for (bytes, expected) in [(&[0_u8; 4][..], "too early"), (&[0; 20], "version")] {
        for n in 0..10 {
            let () = connection.rpush(site.list("n"), bytes).await.unwrap();
            layer.send("n", numbered(n)).await.unwrap();
            assert_eq!(take_number(&layer, "n").await, n);
        }
        let announced = event(&mut events, "the cause", quarantined_event).await;
        let Event::Quarantined { shard: 0, reason } = &announced else { panic!("{announced:?}") };
        assert!(reason.contains(expected), "{reason}");
    }
    eventually("all of them", async || {
        let kept = quarantined(&mut shared_servers()[0].connection().await, &site).await;
        (kept.len() == 20).then_some(())
    })
    .await;
    assert!(!events_so_far(&mut events).iter().any(quarantined_event));
}

#[tokio::test]
async fn a_key_of_another_type_does_not_stop_the_reader() {
    let site = Site::on(&shared_servers()[..1]);
    let layer = connect(site.config()).await;
    let mut connection = shared_servers()[0].connection().await;
    let () = connection.set(site.key("quarantine"), "text").await.unwrap();
    for n in 0..3 {
        let () = connection.rpush(site.list("n"), "garbage").await.unwrap();
        layer.send("n", numbered(n)).await.unwrap();
        assert_eq!(take_number(&layer, "n").await, n);
    }
    layer.close().await.unwrap();
}
