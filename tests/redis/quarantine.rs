//! The list of what could not be read: bounded, and told once for each cause.

use channel_layer::{ChannelLayer, Event};
use metrics_util::debugging::DebuggingRecorder;
use redis::AsyncCommands;

use super::tools::{Site, connect, entries, event, events_so_far, number, numbered, take_number, ttl};
use crate::support::{Counts, DEADLINE, eventually, shared_servers, within};

#[tokio::test]
async fn keeps_the_last_ones_for_days_and_counts_all() {
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
            let newest = newest.as_bytes();
            let kept = entries(&mut shared_servers()[0].connection().await, &site.key("quarantine")).await;
            kept.first().is_some_and(|first| first == newest).then_some(())
        })
        .await;
    }
    let kept = entries(&mut connection, &site.key("quarantine")).await;
    assert_eq!(kept.len(), 256);
    assert_eq!(kept.last().unwrap(), b"2-244");
    assert!(ttl(&mut connection, &site.key("quarantine")).await > 2 * 86_400_000);
    assert_eq!(counts.dropped("undecodable"), 1500);
}

#[tokio::test]
async fn tells_each_cause_once() {
    let site = Site::on(&shared_servers()[..1]);
    let layer = connect(site.config()).await;
    let mut events = layer.events();
    let mut connection = shared_servers()[0].connection().await;
    let is_it = |event: &Event| matches!(event, Event::Quarantined { .. });
    for (bytes, said) in [(&[0_u8; 4][..], "too early"), (&[0; 20], "version")] {
        for n in 0..10 {
            let () = connection.rpush(site.list("n"), bytes).await.unwrap();
            layer.send("n", numbered(n)).await.unwrap();
            assert_eq!(take_number(&layer, "n").await, n);
        }
        let told = event(&mut events, "the cause", is_it).await;
        let Event::Quarantined { shard: 0, reason } = &told else { panic!("{told:?}") };
        assert!(reason.contains(said), "{reason}");
    }
    eventually("all of them", async || {
        let kept = entries(&mut shared_servers()[0].connection().await, &site.key("quarantine")).await;
        (kept.len() == 20).then_some(())
    })
    .await;
    assert!(!events_so_far(&mut events).iter().any(is_it));
}

#[tokio::test]
async fn a_key_that_holds_no_list_does_not_stop_the_reader() {
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
