//! A channel holds as many messages as its capacity allows, and no call waits for room.

use std::time::Duration;

use channel_layer::{Error, Result};

use super::backend::{Kind, Options};
use super::tools::{Layer, assert_none, numbered, numbers, send_numbers, sorted_channels, take, take_all};

fn of(capacity: usize) -> Options {
    Options { capacity, ..Options::default() }
}

#[track_caller]
fn assert_full(result: Result<()>, expected: &str) {
    match result.expect_err("the channel should be full") {
        Error::ChannelFull { channel } => assert_eq!(channel, expected),
        other => panic!("expected ChannelFull: {other}"),
    }
}

/// Returns how many messages `channel` takes before it is full, at most 50. A normal channel has its capacity on each
/// of the servers that it is spread over.
async fn fill(layer: &Layer, channel: &str) -> i64 {
    for sent in 0..50 {
        if let Err(error) = layer.send(channel, numbered(sent)).await {
            assert_full(Err(error), channel);
            return sent;
        }
    }
    50
}

pub async fn a_send_above_the_capacity_is_refused(kind: &Kind) {
    let layer = kind.start(of(3)).await.layer();
    for channel in ["full!a", "full?a"] {
        send_numbers(&layer, channel, 0..3).await;
        assert_full(layer.send(channel, numbered(3)).await, channel);
        assert_full(layer.send(channel, numbered(3)).await, channel);
    }
    let filled = fill(&layer, "full").await;
    assert!((3..50).contains(&filled), "a normal channel of capacity 3 took {filled} messages");
    assert_eq!(numbers(&take_all(&layer, &["full!"]).await), [0, 1, 2]);
    assert_eq!(numbers(&take_all(&layer, &["full?a"]).await), [0, 1, 2]);
    assert_eq!(take_all(&layer, &["full"]).await.len(), usize::try_from(filled).unwrap());
}

pub async fn the_local_parts_of_a_process_share_its_capacity(kind: &Kind) {
    let layer = kind.start(of(3)).await.layer();
    for local in ["process!a", "process!b", "process!c"] {
        layer.send(local, numbered(1)).await.unwrap();
    }
    assert_full(layer.send("process!final", numbered(1)).await, "process!final");
    layer.send("other!a", numbered(1)).await.unwrap();
    assert_eq!(take_all(&layer, &["process!"]).await.len(), 3);
}

pub async fn a_received_message_makes_room(kind: &Kind) {
    let layer = kind.start(of(2)).await.layer();
    send_numbers(&layer, "room?a", [0, 1]).await;
    assert_full(layer.send("room?a", numbered(2)).await, "room?a");
    take(&layer, &["room?a"]).await;
    layer.send("room?a", numbered(3)).await.unwrap();
    assert_full(layer.send("room?a", numbered(4)).await, "room?a");
    assert_eq!(numbers(&take_all(&layer, &["room?a"]).await), [1, 3]);
}

pub async fn each_message_of_send_many_has_its_own_result(kind: &Kind) {
    let layer = kind.start(of(3)).await.layer();
    let batch: Vec<_> = (0..5).flat_map(|at| [("each?a", numbered(at)), ("each!a", numbered(at))]).collect();
    for (at, result) in layer.send_many(&batch).await.into_iter().enumerate() {
        if at < 6 {
            result.unwrap();
        } else {
            assert_full(result, batch[at].0);
        }
    }
    assert_eq!(numbers(&take_all(&layer, &["each?a"]).await), [0, 1, 2]);
    assert_eq!(numbers(&take_all(&layer, &["each!"]).await), [0, 1, 2]);
}

pub async fn the_first_matching_rule_decides_the_capacity(kind: &Kind) {
    let rules: &[_] = &[("rule.special*", 4), ("rule.*", 2), ("rule.never*", 9), ("*!loud", 9)];
    let options = Options { channel_capacity: rules, ..of(3) };
    let layer = kind.start(options).await.layer();
    // Rules match the non-local part, so no rule matches the last name.
    let loud = if kind.like_python { 9 } else { 3 };
    let expected = [("rule.special?a", 4), ("rule.a?a", 2), ("rule.never?a", 2), ("ruled?a", 3), ("r!loud", loud)];
    for (channel, capacity) in expected {
        assert_eq!(fill(&layer, channel).await, capacity, "the capacity of {channel}");
    }
}

pub async fn a_full_member_misses_a_group_send_and_the_others_get_it(kind: &Kind) {
    let layer = kind.start(of(3)).await.layer();
    for member in ["miss?full", "miss!other", "miss?other"] {
        layer.group_add("miss", member).await.unwrap();
    }
    send_numbers(&layer, "miss?full", 0..2).await;
    for number in 2..5 {
        layer.group_send("miss", numbered(number)).await.unwrap();
    }
    assert_eq!(numbers(&take_all(&layer, &["miss?full"]).await), [0, 1, 2]);
    assert_eq!(numbers(&take_all(&layer, &["miss?other"]).await), [2, 3, 4]);
    for _ in 0..5 {
        layer.group_send("miss", numbered(5)).await.unwrap();
    }
    assert_eq!(numbers(&take_all(&layer, &["miss!"]).await), [2, 3, 4]);
}

pub async fn a_group_send_takes_one_place_for_all_members_of_a_process(kind: &Kind) {
    let layer = kind.start(of(3)).await.layer();
    let members: Vec<_> = (0..10).map(|at| format!("place!{at}")).collect();
    for member in &members {
        layer.group_add("place", member).await.unwrap();
    }
    for number in 0..3 {
        layer.group_send("place", numbered(number)).await.unwrap();
    }
    assert_full(layer.send("place!0", numbered(9)).await, "place!0");
    layer.group_send("place", numbered(9)).await.unwrap();

    let taken = take_all(&layer, &["place!"]).await;
    assert_eq!(taken.len(), 30);
    for (number, round) in (0..).zip(taken.chunks(10)) {
        assert_eq!(sorted_channels(round), members);
        assert_eq!(numbers(round), [number; 10]);
    }
    assert_none(layer.try_receive(&["place!"]).await.unwrap());
}

pub async fn expired_messages_do_not_fill_a_channel(kind: &Kind) {
    let backend = kind.start(Options { expiry: Duration::from_secs(2), ..of(3) }).await;
    let layer = backend.layer();
    layer.group_add("load", "load!b").await.unwrap();
    send_numbers(&layer, "load?a", 0..3).await;
    send_numbers(&layer, "load!a", 0..3).await;
    assert_full(layer.send("load?a", numbered(3)).await, "load?a");
    backend.pass(Duration::from_millis(2300)).await;

    send_numbers(&layer, "load?a", 3..6).await;
    assert_full(layer.send("load?a", numbered(6)).await, "load?a");
    layer.group_send("load", numbered(3)).await.unwrap();
    send_numbers(&layer, "load!a", 4..6).await;
    assert_full(layer.send("load!a", numbered(6)).await, "load!a");
    assert_eq!(numbers(&take_all(&layer, &["load?a"]).await), [3, 4, 5]);
    assert_eq!(numbers(&take_all(&layer, &["load!"]).await), [3, 4, 5]);
}

pub async fn requeued_messages_need_no_room(kind: &Kind) {
    let layer = kind.start(of(3)).await.layer();
    for (channel, source) in [("full!a", "full!"), ("full?a", "full?a"), ("full", "full")] {
        let filled = fill(&layer, channel).await;
        let back: Vec<_> = (filled..filled + 5).map(|number| (channel, numbered(number))).collect();
        for result in layer.requeue(&back).await {
            result.unwrap();
        }
        assert_full(layer.send(channel, numbered(99)).await, channel);
        let mut taken = numbers(&take_all(&layer, &[source]).await);
        if channel == "full" {
            // The channel may be spread over servers.
            taken.sort_unstable();
        }
        assert!(taken.iter().copied().eq(0..filled + 5), "{channel}: {taken:?}");
    }
}
