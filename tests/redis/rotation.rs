//! Key rotation while old and new processes exchange messages.

use channel_layer::{ChannelLayer, Config, Event};
use metrics_util::debugging::DebuggingRecorder;

use super::tools::{Layer, Site, connect, event, number, numbered, quarantined, take, take_number};
use crate::support::{Counts, eventually, shared_servers};

/// The steps of a rotation in docs/encryption.md.
const STEPS: usize = 4;

fn step(config: Config, step: usize) -> Config {
    match step {
        0 => config.symmetric_encryption_keys(["old"]),
        1 => config.symmetric_encryption_keys(["old"]).accept_only_keys(["new"]),
        2 => config.symmetric_encryption_keys(["new", "old"]),
        _ => config.symmetric_encryption_keys(["new"]),
    }
}

/// Sends from one layer to the other in every way.
async fn talk(from: &Layer, to: &Layer, base: i64) {
    from.group_add("g", "n").await.unwrap();
    from.group_add("g", "l!a").await.unwrap();
    from.group_add("g", "l!b").await.unwrap();
    from.send("n", numbered(base)).await.unwrap();
    from.send("l!a", numbered(base)).await.unwrap();
    from.send("s?a", numbered(base)).await.unwrap();
    from.group_send("g", numbered(base + 1)).await.unwrap();
    assert_eq!([take_number(to, "n").await, take_number(to, "n").await], [base, base + 1]);
    assert_eq!(take_number(to, "s?a").await, base);
    let mut local = Vec::new();
    for _ in 0..3 {
        let delivery = take(to, "l!").await;
        local.push((number(&delivery), delivery.channel.to_string()));
    }
    local[1..].sort();
    assert_eq!(local, [(base, "l!a".into()), (base + 1, "l!a".into()), (base + 1, "l!b".into())]);
}

#[tokio::test]
async fn a_partly_rolled_out_step_loses_nothing() {
    let site = Site::on(&shared_servers()[..1]);
    let recorder = DebuggingRecorder::new();
    let mut counts = Counts::of(&recorder);
    let _local = metrics::set_default_local_recorder(&recorder);
    for before in 0..STEPS - 1 {
        let old = connect(step(site.config(), before)).await;
        let new = connect(step(site.config(), before + 1)).await;
        for (round, (from, to)) in [(&old, &new), (&new, &old), (&old, &old), (&new, &new)].into_iter().enumerate() {
            talk(from, to, i64::try_from(10 * round).unwrap()).await;
        }
    }
    assert_eq!(counts.dropped("undecryptable"), 0);
}

#[tokio::test]
async fn messages_from_before_a_step_are_read_after_it() {
    let site = Site::on(&shared_servers()[..1]);
    for before in 0..STEPS - 1 {
        let old = connect(step(site.config(), before)).await;
        old.send("n", numbered(1)).await.unwrap();
        old.close().await.unwrap();
        let new = connect(step(site.config(), before + 1)).await;
        assert_eq!(take_number(&new, "n").await, 1, "step {before}");
    }
}

#[tokio::test]
async fn a_skipped_step_is_reported_and_its_messages_are_kept() {
    let site = Site::on(&shared_servers()[..1]);
    let old = connect(step(site.config(), 0)).await;
    let new = connect(step(site.config(), 3)).await;
    let recorder = DebuggingRecorder::new();
    let mut counts = Counts::of(&recorder);
    let _local = metrics::set_default_local_recorder(&recorder);
    let mut events = new.events();
    for n in 0..5 {
        old.send("n", numbered(n)).await.unwrap();
    }
    assert!(new.try_receive(&["n"]).await.unwrap().is_none());
    let reported = event(&mut events, "the event", |event| matches!(event, Event::Quarantined { .. })).await;
    let Event::Quarantined { reason, .. } = &reported else { panic!("{reported:?}") };
    assert!(reason.contains("unknown key"), "{reason}");
    assert_eq!(counts.dropped("undecryptable"), 5);
    eventually("all five in quarantine", async || {
        (quarantined(&mut shared_servers()[0].connection().await, &site).await.len() == 5).then_some(())
    })
    .await;
}
