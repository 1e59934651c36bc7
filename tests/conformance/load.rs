//! Many writers, readers and names: every message arrives once, and no reader starves.

use std::collections::BTreeSet;

use channel_layer::Delivery;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::backend::{Kind, Options};
use super::tools::{Layer, assert_none, number, numbered, numbers, rest, send_numbers, take, take_all, take_many};
use crate::support::{DEADLINE, within};

const SHARED: [&str; 3] = ["work.a", "work.b", "work.c"];

/// Receives for ever, one at a time or in batches.
async fn work(layer: Layer, batch: usize, done: mpsc::UnboundedSender<i64>) {
    if batch == 1 {
        loop {
            let delivery = layer.receive(&SHARED).await.unwrap();
            done.send(number(&delivery)).ok();
        }
    }
    let mut receiver = layer.receiver(&SHARED).unwrap();
    loop {
        let mut taken = Vec::new();
        receiver.recv_many(&mut taken, batch).await.unwrap();
        for delivery in &taken {
            done.send(number(delivery)).ok();
        }
    }
}

pub async fn many_writers_and_readers_lose_and_duplicate_nothing(kind: &Kind) {
    let backend = kind.start(Options::default()).await;
    let layers = [backend.layer(), backend.peer().await];
    let (done, mut all_done) = mpsc::unbounded_channel();
    let mut readers = JoinSet::new();
    for batch in [1, 1, 1, 4, 16] {
        for layer in &layers {
            readers.spawn(work(layer.clone(), batch, done.clone()));
        }
    }
    let mut writers = JoinSet::new();
    for writer in 0..10_i64 {
        let layer = layers[usize::from(writer % 2 == 0)].clone();
        writers.spawn(async move {
            for number in 0..100 {
                let channel = SHARED[usize::try_from(number % 3).unwrap()];
                layer.send(channel, numbered(writer * 100 + number)).await.unwrap();
            }
        });
    }
    let mut numbers = BTreeSet::new();
    for _ in 0..1000 {
        let number = within(DEADLINE, "all 1000 messages", all_done.recv()).await.unwrap();
        assert!(numbers.insert(number), "message {number} came twice");
    }
    writers.join_all().await;
    assert_none(layers[0].try_receive(&SHARED).await.unwrap());
    assert!(all_done.try_recv().is_err(), "more messages came than were sent");
}

pub async fn waiting_readers_are_all_served(kind: &Kind) {
    let backend = kind.start(Options::default()).await;
    let mut readers = JoinSet::new();
    for at in 0..20 {
        let layer = if at % 2 == 0 { backend.layer() } else { backend.peer().await };
        readers.spawn(async move { number(&take(&layer, &["served"]).await) });
    }
    send_numbers(&backend.layer(), "served", 0..20).await;
    let mut served = within(DEADLINE, "all readers", readers.join_all()).await;
    served.sort_unstable();
    assert_eq!(served, (0..20).collect::<Vec<_>>());
}

pub async fn every_operation_reaches_its_reader_whatever_the_name(kind: &Kind) {
    let backend = kind.start(Options::default()).await;
    let (layer, peer) = (backend.layer(), backend.peer().await);
    // With 24 names of each kind, not all are on the same of three servers.
    for name in 0..24 {
        let (normal, single, process) = (format!("n{name}"), format!("s{name}?x"), format!("p{name}!"));
        let local = format!("{process}client");
        let (group, source) = (format!("g{name}"), [normal.as_str(), single.as_str(), process.as_str()]);
        for channel in [&normal, &single, &local] {
            layer.group_add(&group, channel).await.unwrap();
            layer.send(channel, numbered(0)).await.unwrap();
            layer.send_many(&[(channel, numbered(1))]).await.remove(0).unwrap();
        }
        layer.group_send(&group, numbered(2)).await.unwrap();
        layer.group_send_many(&[(&group, numbered(3))]).await.remove(0).unwrap();
        for source in source {
            let mut got = numbers(&take_many(&peer, &[source], 4).await);
            got.sort_unstable();
            assert_eq!(got, [0, 1, 2, 3], "what came on {source}");
        }
        for channel in [&normal, &single, &local] {
            peer.group_discard(&group, channel).await.unwrap();
        }
        layer.group_send(&group, numbered(4)).await.unwrap();
        assert_none(peer.try_receive(&source).await.unwrap());
    }
}

/// Queues many messages on `busy` and one on `quiet`. Returns the position at which a reader of both gets the latter.
async fn place_of_quiet(kind: &Kind, sources: [&str; 2], busy: &str, quiet: &str) -> usize {
    let backend = kind.start(Options::default()).await;
    let layer = backend.layer();
    let batch: Vec<_> = (0..1000).map(|at| (busy, numbered(at))).collect();
    assert!(layer.send_many(&batch).await.iter().all(Result::is_ok));
    send_numbers(&layer, quiet, [0]).await;
    backend.arrived().await;
    for place in 0.. {
        if take(&layer, &sources).await.channel == quiet {
            return place;
        }
    }
    unreachable!("the loop ends when the message comes")
}

pub async fn a_busy_channel_does_not_starve_a_quiet_one(kind: &Kind) {
    for sources in [["busy", "quiet"], ["quiet", "busy"]] {
        let place = place_of_quiet(kind, sources, "busy", "quiet").await;
        assert!(place < 20, "the quiet channel's message came after {place} others");
    }
}

pub async fn a_busy_process_local_channel_does_not_starve_a_normal_one(kind: &Kind) {
    for sources in [["busy!", "quiet"], ["quiet", "busy!"]] {
        let place = place_of_quiet(kind, sources, "busy!a", "quiet").await;
        assert!(place < 20, "the quiet channel's message came after {place} others");
    }
    for sources in [["busy", "quiet!"], ["quiet!", "busy"], ["quiet?a", "busy"]] {
        let quiet = if sources.contains(&"quiet!") { "quiet!a" } else { "quiet?a" };
        let place = place_of_quiet(kind, sources, "busy", quiet).await;
        assert!(place < 20, "the quiet channel's message came after {place} others");
    }
}

pub async fn a_receiver_of_a_busy_channel_does_not_starve_a_quiet_one(kind: &Kind) {
    for (busy, busy_source) in [("busy", "busy"), ("busy!a", "busy!"), ("busy?a", "busy?a")] {
        let backend = kind.start(Options::default()).await;
        let layer = backend.layer();
        let batch: Vec<_> = (0..4000).map(|at| (busy, numbered(at))).collect();
        assert!(layer.send_many(&batch).await.iter().all(Result::is_ok));
        send_numbers(&layer, "quiet!a", [0]).await;
        let mut receiver = layer.receiver(&[busy_source, "quiet!"]).unwrap();
        let (mut taken, mut sent) = (Vec::<Delivery>::new(), 4001);
        for round in 0.. {
            let before = taken.len();
            within(DEADLINE, "the next messages", receiver.recv_many(&mut taken, 100)).await.unwrap();
            if taken[before..].iter().any(|delivery| delivery.channel == "quiet!a") {
                break;
            }
            // The channels may be on different servers, and one may answer later. The limit allows for that.
            assert!(round < 2000, "the quiet channel starves beside {busy}");
            sent += taken.len() - before;
            send_numbers(&layer, busy, vec![0; taken.len() - before]).await;
            rest(round).await;
        }
        receiver.close().await.unwrap();
        taken.extend(take_all(&layer, &[busy_source]).await);
        assert_eq!(taken.len(), sent);
    }
}
