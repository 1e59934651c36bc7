//! A group message reaches the channels that are members at the time of the send, and no others.

use std::collections::BTreeSet;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::backend::{Kind, Options};
use super::tools::{Layer, assert_none, numbered, sorted_channels, take_all};

/// For each kind of channel: the name to read, a permanent member, and one that joins and leaves.
const KINDS: [(&str, &str, &str); 3] =
    [("kind!", "kind!stays", "kind!comes"), ("kind.a", "elsewhere", "kind.a"), ("kind?a", "elsewhere", "kind?a")];

/// Sends to the group and returns whether `member` got the message. The reader may remember former members.
async fn is_reached(layer: &Layer, reader: &Layer, source: &str, member: &str) -> bool {
    layer.group_send("group", numbered(1)).await.unwrap();
    gets_it(reader, source, member).await
}

async fn gets_it(reader: &Layer, source: &str, member: &str) -> bool {
    let taken = sorted_channels(&take_all(reader, &[source]).await);
    let times = taken.iter().filter(|channel| *channel == member).count();
    assert!(times <= 1, "{member} got the message {times} times");
    times == 1
}

pub async fn a_member_added_before_the_send_gets_it(kind: &Kind) {
    let backend = kind.start(Options::default()).await;
    let (layer, reader) = (backend.layer(), backend.peer().await);
    for (source, stays, comes) in KINDS {
        layer.group_add("group", stays).await.unwrap();
        for _ in 0..20 {
            assert!(!is_reached(&layer, &reader, source, comes).await, "{comes} was not a member yet");
            layer.group_add("group", comes).await.unwrap();
            assert!(is_reached(&layer, &reader, source, comes).await, "{comes} had become a member");
            layer.group_discard("group", comes).await.unwrap();
        }
    }
}

pub async fn a_member_discarded_before_the_send_does_not_get_it(kind: &Kind) {
    let backend = kind.start(Options::default()).await;
    let (layer, reader) = (backend.layer(), backend.peer().await);
    for (source, stays, comes) in KINDS {
        layer.group_add("group", stays).await.unwrap();
        for _ in 0..20 {
            layer.group_add("group", comes).await.unwrap();
            assert!(is_reached(&layer, &reader, source, comes).await, "{comes} was a member");
            layer.group_discard("group", comes).await.unwrap();
            assert!(!is_reached(&layer, &reader, source, comes).await, "{comes} had left");
        }
    }
}

pub async fn a_member_added_after_the_send_does_not_get_it(kind: &Kind) {
    let backend = kind.start(Options::default()).await;
    let (layer, reader) = (backend.layer(), backend.peer().await);
    for (source, stays, comes) in KINDS {
        layer.group_add("group", stays).await.unwrap();
        for _ in 0..20 {
            layer.group_send("group", numbered(1)).await.unwrap();
            layer.group_add("group", comes).await.unwrap();
            assert!(!gets_it(&reader, source, comes).await, "{comes} became a member after the send");
            layer.group_discard("group", comes).await.unwrap();
        }
    }
}

pub async fn a_member_discarded_after_the_send_still_gets_it(kind: &Kind) {
    let backend = kind.start(Options::default()).await;
    let (layer, reader) = (backend.layer(), backend.peer().await);
    for (source, stays, comes) in KINDS {
        layer.group_add("group", stays).await.unwrap();
        for _ in 0..20 {
            layer.group_add("group", comes).await.unwrap();
            layer.group_send("group", numbered(1)).await.unwrap();
            layer.group_discard("group", comes).await.unwrap();
            assert!(gets_it(&reader, source, comes).await, "{comes} was a member when it was sent");
        }
    }
}

pub async fn group_sends_follow_every_change_of_members(kind: &Kind) {
    let backend = kind.start(Options::default()).await;
    let layers = [backend.layer(), backend.peer().await];
    let reader = backend.peer().await;
    let pool: Vec<_> = (0..4).flat_map(|process| (0..5).map(move |at| format!("p{process}!{at}"))).collect();
    let sources = ["p0!", "p1!", "p2!", "p3!"];
    let mut random = StdRng::seed_from_u64(2);
    let mut members = BTreeSet::new();
    for round in 0..60 {
        for _ in 0..random.random_range(0..4) {
            let (layer, member) = (layers.choose(&mut random).unwrap(), pool.choose(&mut random).unwrap());
            if random.random_bool(0.6) {
                layer.group_add("changing", member).await.unwrap();
                members.insert(member.clone());
            } else {
                layer.group_discard("changing", member).await.unwrap();
                members.remove(member);
            }
        }
        layers.choose(&mut random).unwrap().group_send("changing", numbered(round)).await.unwrap();
        let reached = sorted_channels(&take_all(&reader, &sources).await);
        assert_eq!(reached, members.iter().cloned().collect::<Vec<_>>(), "who got message {round}");
    }
}

pub async fn a_member_added_twice_gets_each_message_once(kind: &Kind) {
    let backend = kind.start(Options::default()).await;
    let (layer, peer) = (backend.layer(), backend.peer().await);
    for member in ["twice!a", "twice", "twice?a"] {
        layer.group_add("group", member).await.unwrap();
        peer.group_add("group", member).await.unwrap();
    }
    assert_eq!(layer.group_channels("group").await.unwrap().len(), 3);
    layer.group_send("group", numbered(1)).await.unwrap();
    let taken = take_all(&layer, &["twice!", "twice", "twice?a"]).await;
    assert_eq!(sorted_channels(&taken), ["twice", "twice!a", "twice?a"]);
}

pub async fn a_membership_ends_after_the_group_expiry(kind: &Kind) {
    let expiry = Duration::from_secs(2);
    let backend = kind.start(Options { group_expiry: expiry, ..Options::default() }).await;
    let layer = backend.layer();
    assert_eq!(layer.group_expiry(), expiry);
    for member in ["ends!a", "ends", "ends?a"] {
        layer.group_add("group", member).await.unwrap();
    }
    backend.pass(Duration::from_millis(2400)).await;
    layer.group_send("group", numbered(1)).await.unwrap();
    assert_none(layer.try_receive(&["ends!", "ends", "ends?a"]).await.unwrap());
    assert!(layer.group_channels("group").await.unwrap().is_empty());
}

pub async fn a_membership_ends_earlier_if_the_caller_says_so(kind: &Kind) {
    let backend = kind.start(Options { group_expiry: Duration::from_mins(10), ..Options::default() }).await;
    let layer = backend.layer();
    let short = Duration::from_secs(1);
    for member in ["ends!a", "ends", "ends?a", "extended!a"] {
        layer.group_add_for("group", member, short).await.unwrap();
    }
    layer.group_add("group", "extended!a").await.unwrap();
    layer.group_add("group", "lasts!a").await.unwrap();
    // A shorter time takes nothing from a membership.
    layer.group_add_for("group", "lasts!a", short).await.unwrap();
    backend.pass(short + Duration::from_millis(400)).await;
    let mut members: Vec<_> = layer.group_channels("group").await.unwrap().iter().map(ToString::to_string).collect();
    members.sort();
    assert_eq!(members, ["extended!a", "lasts!a"]);
}

pub async fn a_change_after_many_group_sends_applies_to_the_next(kind: &Kind) {
    let backend = kind.start(Options::default()).await;
    let (layer, reader) = (backend.layer(), backend.peer().await);
    for (source, stays, comes) in KINDS {
        layer.group_add("group", stays).await.unwrap();
        for round in 0..6 {
            // A layer may learn that the group does not change, and must notice at once when it does.
            for _ in 0..round {
                assert!(!is_reached(&layer, &reader, source, comes).await, "{comes} was not a member");
            }
            layer.group_add("group", comes).await.unwrap();
            for _ in 0..=round {
                assert!(is_reached(&layer, &reader, source, comes).await, "{comes} had become a member");
            }
            layer.group_discard("group", comes).await.unwrap();
        }
    }
}

pub async fn a_member_that_expires_after_the_send_still_gets_it(kind: &Kind) {
    let expiry = Duration::from_secs(2);
    let backend = kind.start(Options { group_expiry: expiry, ..Options::default() }).await;
    let (layer, reader) = (backend.layer(), backend.peer().await);
    for (_, _, comes) in KINDS {
        layer.group_add("group", comes).await.unwrap();
    }
    layer.group_add("group", "kind!returns").await.unwrap();
    layer.group_send("group", numbered(1)).await.unwrap();
    backend.pass(expiry + Duration::from_millis(500)).await;
    layer.group_add("group", "kind!returns").await.unwrap();
    for (source, members) in
        [("kind!", &["kind!comes", "kind!returns"][..]), ("kind.a", &["kind.a"]), ("kind?a", &["kind?a"])]
    {
        assert_eq!(sorted_channels(&take_all(&reader, &[source]).await), members, "{source}");
    }
    layer.group_send("group", numbered(2)).await.unwrap();
    assert_eq!(sorted_channels(&take_all(&reader, &["kind!"]).await), ["kind!returns"]);
}

pub async fn a_member_added_after_the_send_does_not_get_it_when_all_have_expired(kind: &Kind) {
    let expiry = Duration::from_secs(2);
    let backend = kind.start(Options { group_expiry: expiry, ..Options::default() }).await;
    let (layer, reader) = (backend.layer(), backend.peer().await);
    for (_, stays, _) in KINDS {
        layer.group_add("group", stays).await.unwrap();
    }
    layer.group_send("group", numbered(1)).await.unwrap();
    for (_, _, comes) in KINDS {
        layer.group_add("group", comes).await.unwrap();
    }
    backend.pass(expiry + Duration::from_millis(500)).await;
    // The layer may forget ended memberships when another process adds a member.
    reader.group_add("group", "other!a").await.unwrap();
    for (source, _, comes) in KINDS {
        assert!(!gets_it(&reader, source, comes).await, "{comes} became a member after the send");
    }
}

pub async fn adding_a_member_again_renews_its_membership(kind: &Kind) {
    let backend = kind.start(Options { group_expiry: Duration::from_secs(2), ..Options::default() }).await;
    let (layer, reader) = (backend.layer(), backend.peer().await);
    for member in ["renew!kept", "renew!left", "renew.kept", "renew.left", "renew?kept", "renew?left"] {
        layer.group_add("group", member).await.unwrap();
    }
    let sources = ["renew!", "renew.kept", "renew.left", "renew?kept", "renew?left"];
    backend.pass(Duration::from_millis(1200)).await;
    let kept = ["renew!kept", "renew.kept", "renew?kept"];
    for member in kept {
        layer.group_add("group", member).await.unwrap();
    }
    backend.pass(Duration::from_millis(1200)).await;
    layer.group_send("group", numbered(2)).await.unwrap();
    let mut members: Vec<_> = layer.group_channels("group").await.unwrap();
    members.sort();
    assert_eq!(members, kept);
    assert_eq!(sorted_channels(&take_all(&reader, &sources).await), kept);
}
