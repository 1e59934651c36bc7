//! A close puts unread messages back, and ends all waiting calls.

use std::pin::Pin;
use std::time::Duration;

use channel_layer::{Error, Result};
use futures_util::future::{join_all, maybe_done};
use futures_util::poll;
use tokio::join;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::backend::{Kind, Options};
use super::guarantees::Promise;
use super::tools::{Layer, assert_none, number, numbered, numbers, numbers_on, send_numbers, take, take_many};
use crate::support::{DEADLINE, interrupted, within};

#[track_caller]
fn assert_closed<T: std::fmt::Debug>(what: &str, result: Result<T>) {
    assert!(matches!(result, Err(Error::Closed)), "{what} after closing returns {result:?}");
}

pub async fn calls_after_a_close_return_closed(kind: &Kind) {
    let layer = kind.start(Options::default()).await.layer();
    let mut receiver = layer.receiver(&["a"]).unwrap();
    layer.close().await.unwrap();
    assert_closed("send", layer.send("a", numbered(1)).await);
    for channel in ["a!b", "a?b"] {
        assert_closed("send", layer.send(channel, numbered(1)).await);
        assert_closed("send_many", layer.send_many(&[(channel, numbered(1))]).await.remove(0));
    }
    for source in ["a", "a!", "a?b"] {
        assert_closed("receive", within(DEADLINE, "a receive after closing", layer.receive(&[source])).await);
        assert_closed("try_receive", layer.try_receive(&[source]).await);
        assert_closed("receiver", layer.receiver(&[source]));
    }
    assert_closed("recv", within(DEADLINE, "a recv after closing", receiver.recv()).await);
    assert_closed("new_channel", layer.new_channel("a?").await);
    assert_closed("group_add", layer.group_add("g", "a").await);
    assert_closed("group_discard", layer.group_discard("g", "a").await);
    assert_closed("group_channels", layer.group_channels("g").await);
    assert_closed("group_send", layer.group_send("g", numbered(1)).await);
    assert_closed("group_send_many", layer.group_send_many(&[("g", numbered(1))]).await.remove(0));
    assert_closed("flush", layer.flush().await);
    assert_closed("global_statistics", layer.global_statistics().await);
    assert_closed("channel_statistics", layer.channel_statistics("a").await);
}

pub async fn a_close_ends_waiting_calls_with_closed(kind: &Kind) {
    let layer = kind.start(Options::default()).await.layer();
    let mut waiting = JoinSet::new();
    for source in ["a", "a!", "a?b"] {
        let reader = layer.clone();
        waiting.spawn(async move { reader.receive(&[source]).await });
        let mut receiver = layer.receiver(&[source]).unwrap();
        waiting.spawn(async move { receiver.recv().await });
    }
    // Calls that do not wait yet return the same error a little later.
    sleep(Duration::from_millis(50)).await;
    layer.close().await.unwrap();
    let ended = within(DEADLINE, "the end of all waiting calls", waiting.join_all()).await;
    for result in ended {
        assert_closed("a waiting call", result);
    }
}

pub async fn dropping_the_layer_ends_its_receivers(kind: &Kind) {
    let backend = kind.start(Options::default()).await;
    let layer = backend.layer();
    let mut waiting = JoinSet::new();
    for source in ["a", "a!", "a?b"] {
        let mut receiver = layer.receiver(&[source]).unwrap();
        waiting.spawn(async move { receiver.recv().await });
    }
    sleep(Duration::from_millis(50)).await;
    drop((backend, layer));
    for result in within(DEADLINE, "the end of all receivers", waiting.join_all()).await {
        assert_closed("a receiver of a dropped layer", result);
    }
}

pub async fn closing_a_receiver_puts_back_in_order(kind: &Kind) {
    let backend = kind.start(Options::default()).await;
    let (layer, peer) = (backend.layer(), backend.peer().await);
    layer.group_add("back", "back!b").await.unwrap();
    layer.group_add("back", "back!c").await.unwrap();
    for (channel, source) in [("back!a", "back!"), ("back?a", "back?a")] {
        send_numbers(&layer, channel, 0..10).await;
        for first in 0..5 {
            let reader = if first % 2 == 0 { &layer } else { &peer };
            let mut receiver = reader.receiver(&[source]).unwrap();
            assert_eq!(number(&within(DEADLINE, "the first of the rest", receiver.recv()).await.unwrap()), first);
            receiver.close().await.unwrap();
        }
        send_numbers(&layer, channel, [10]).await;
        assert_eq!(numbers(&take_many(&peer, &[source], 6).await), [5, 6, 7, 8, 9, 10]);
        assert_none(peer.try_receive(&[source]).await.unwrap());
    }
    // Half of a group message is put back as well.
    layer.group_send("back", numbered(0)).await.unwrap();
    layer.send("back!a", numbered(1)).await.unwrap();
    let mut receiver = layer.receiver(&["back!"]).unwrap();
    let half = within(DEADLINE, "the message of one of two members", receiver.recv()).await.unwrap();
    receiver.close().await.unwrap();
    let rest = take_many(&peer, &["back!"], 2).await;
    assert_eq!(numbers(&rest), [0, 1]);
    assert_ne!(rest[0].channel, half.channel);
    assert_none(peer.try_receive(&["back!"]).await.unwrap());
}

pub async fn a_dropped_close_of_a_receiver_goes_on(kind: &Kind) {
    let backend = kind.start(Options::default()).await;
    let (layer, peer) = (backend.layer(), backend.peer().await);
    send_numbers(&layer, "close?a", 0..5).await;
    let mut receiver = layer.receiver(&["close?a"]).unwrap();
    assert_eq!(number(&within(DEADLINE, "the first message", receiver.recv()).await.unwrap()), 0);
    interrupted(1, DEADLINE, receiver.close()).await.transpose().unwrap();
    assert_eq!(numbers(&take_many(&peer, &["close?a"], 4).await), [1, 2, 3, 4]);
    assert_none(peer.try_receive(&["close?a"]).await.unwrap());
}

pub async fn closing_leaves_unread_messages_to_others(kind: &Kind) {
    let backend = kind.start(Options::default()).await;
    let (closing, other) = (backend.peer().await, backend.layer());
    let sources = ["drain", "drain!", "drain?a"];
    let mut first = Vec::new();
    let mut receivers = Vec::new();
    for (channel, source) in ["drain", "drain!a", "drain?a"].into_iter().zip(sources) {
        send_numbers(&closing, channel, 0..10).await;
        let mut receiver = closing.receiver(&[source]).unwrap();
        first.push(within(DEADLINE, "the first message", receiver.recv()).await.unwrap());
        receivers.push(receiver);
    }
    closing.close().await.unwrap();
    for (source, first) in sources.into_iter().zip(&first) {
        let mut rest = numbers(&take_many(&other, &[source], 9).await);
        rest.insert(0, number(first));
        if source == "drain" {
            rest.sort_unstable();
        }
        assert_eq!(rest, (0..10).collect::<Vec<_>>(), "what came on {source}");
        assert_none(other.try_receive(&[source]).await.unwrap());
    }
}

pub async fn a_dropped_close_goes_on(kind: &Kind) {
    let backend = kind.start(Options::default()).await;
    let (closing, other) = (backend.peer().await, backend.layer());
    send_numbers(&closing, "close?a", 0..5).await;
    let mut receiver = closing.receiver(&["close?a"]).unwrap();
    assert_eq!(number(&within(DEADLINE, "the first message", receiver.recv()).await.unwrap()), 0);
    interrupted(1, DEADLINE, closing.close()).await.transpose().unwrap();
    assert_closed("receive", within(DEADLINE, "a receive after closing", closing.receive(&["close?a"])).await);
    if kind.promises(Promise::Drain) {
        assert_eq!(numbers(&take_many(&other, &["close?a"], 4).await), [1, 2, 3, 4]);
        assert_none(other.try_receive(&["close?a"]).await.unwrap());
    }
    within(DEADLINE, "the end of closing", closing.close()).await.unwrap();
    assert_closed("send", closing.send("close?a", numbered(5)).await);
}

pub async fn closing_finishes_sends_under_way(kind: &Kind) {
    let backend = kind.start(Options::default()).await;
    let (closing, other) = (backend.peer().await, backend.layer());
    for (channel, source) in [("way", "way"), ("way!a", "way!"), ("way?a", "way?a")] {
        send_numbers(&closing, channel, [0]).await;
        take(&closing, &[source]).await;
    }
    let channels = ["way", "way!a", "way?a"].into_iter().cycle();
    let sends = channels.zip(0..60).map(|(channel, number)| closing.send(channel, numbered(number)));
    let results = close_behind(&closing, sends).await;
    for result in results {
        result.unwrap();
    }
    let sources = ["way", "way!", "way?a"];
    let mut got = numbers(&take_many(&other, &sources, 60).await);
    got.sort_unstable();
    assert_eq!(got, (0..60).collect::<Vec<_>>());
    assert_none(other.try_receive(&sources).await.unwrap());
}

pub async fn a_group_send_during_a_close_reaches_all_members_or_fails_for_all(kind: &Kind) {
    let backend = kind.start(Options::default()).await;
    let (closing, other) = (backend.peer().await, backend.layer());
    let (members, sources) = (["way!a", "way?a", "way?b"], ["way!", "way?a", "way?b"]);
    for member in members {
        closing.group_add("way", member).await.unwrap();
    }
    // The layer learns the location of the members.
    for number in 0..3 {
        closing.group_send("way", numbered(number)).await.unwrap();
    }
    take_many(&closing, &sources, 9).await;
    let mut sent = Vec::new();
    let sends = (0..20).map(|number| closing.group_send("way", numbered(number)));
    for (number, result) in (0..).zip(close_behind(&closing, sends).await) {
        match result {
            Ok(()) => sent.push(number),
            error => assert_closed("a group send", error),
        }
    }
    if kind.promises(Promise::Drain) {
        let got = take_many(&other, &sources, members.len() * sent.len()).await;
        for member in members {
            // The sends were in flight at the same time, so none was queued behind another.
            let mut numbers = numbers_on(member, &got);
            numbers.sort_unstable();
            assert_eq!(numbers, sent, "what came on {member}");
        }
        assert_none(other.try_receive(&sources).await.unwrap());
    }
}

/// Closes a layer while `sends` are in flight. Each of them has been polled. Returns their results.
async fn close_behind(
    closing: &Layer,
    sends: impl Iterator<Item = impl Future<Output = Result<()>>>,
) -> Vec<Result<()>> {
    let mut sends: Vec<_> = sends.map(|send| Box::pin(maybe_done(send))).collect();
    for send in &mut sends {
        let _begun = poll!(send.as_mut());
    }
    let all = join_all(sends.iter_mut().map(Pin::as_mut));
    let (closed, _) = within(DEADLINE, "the end of closing", async { join!(closing.close(), all) }).await;
    closed.unwrap();
    sends.iter_mut().map(|send| send.as_mut().take_output().expect("it has ended")).collect()
}
