//! Every operation refuses invalid names, with an error that repeats the name.

use std::collections::HashSet;

use channel_layer::{ChannelKind, Error, Result};

use super::backend::{Kind, Options};
use super::tools::{numbered, take};

/// Invalid names for sending and receiving.
fn bad_channels() -> Vec<String> {
    let mut names: Vec<_> =
        ["", "a b", "caf\u{e9}", "a/b", "a:b", "a{b}", "a!b!c", "a?b?c", "a?b!c", "a!b?c", "!a", "?a", "!", "?", "a\n"]
            .map(str::to_owned)
            .to_vec();
    names.extend(["x".repeat(101), format!("x!{}", "y".repeat(99)), "z".repeat(100_000)]);
    names
}

fn bad_targets() -> Vec<String> {
    let mut names = bad_channels();
    names.extend(["process!", "single?"].map(str::to_owned));
    names
}

#[track_caller]
fn assert_refused<T: std::fmt::Debug>(result: Result<T>, name: &str) {
    let error = result.expect_err(&format!("the name {name:?} should be refused"));
    assert!(matches!(error, Error::InvalidName(_)), "{name:?} returns {error:?}");
    // The error may shorten a long name, and escapes characters that are not printable.
    let shown: String = name.chars().take(100).flat_map(char::escape_debug).collect();
    let text = error.to_string();
    assert!(text.contains(&shown) && text.len() < 400, "{text} does not name {name:?}");
}

pub async fn invalid_names_to_send_to_are_refused(kind: &Kind) {
    let layer = kind.start(Options::default()).await.layer();
    for name in bad_targets() {
        assert_refused(layer.send(&name, numbered(1)).await, &name);
        assert_refused(layer.send_many(&[(&name, numbered(1))]).await.remove(0), &name);
        assert_refused(layer.group_add("group", &name).await, &name);
        assert_refused(layer.group_discard("group", &name).await, &name);
    }
    assert!(layer.group_channels("group").await.unwrap().is_empty());
}

pub async fn invalid_names_to_receive_from_are_refused(kind: &Kind) {
    let layer = kind.start(Options::default()).await.layer();
    layer.send("good", numbered(1)).await.unwrap();
    let mut names = bad_channels();
    names.extend(["process!local", "single?"].map(str::to_owned));
    for name in names {
        assert_refused(layer.receive(&["good", &name]).await, &name);
        assert_refused(layer.try_receive(&["good", &name]).await, &name);
        assert_refused(layer.receiver(&["good", &name]), &name);
    }
    assert_eq!(take(&layer, &["good"]).await.channel, "good", "a refused call takes nothing");
}

pub async fn receiving_from_no_channel_is_refused(kind: &Kind) {
    let layer = kind.start(Options::default()).await.layer();
    let errors = [
        layer.receive(&[]).await.expect_err("there is nothing to wait for"),
        layer.try_receive(&[]).await.expect_err("there is nothing to look at"),
        layer.receiver(&[]).expect_err("there is nothing to read"),
    ];
    for error in errors {
        assert!(matches!(error, Error::InvalidName(_)), "{error:?}");
    }
}

pub async fn invalid_group_names_are_refused(kind: &Kind) {
    let layer = kind.start(Options::default()).await.layer();
    for name in ["", "a b", "a!b", "a?", "caf\u{e9}", &"x".repeat(101)] {
        assert_refused(layer.group_add(name, "channel").await, name);
        assert_refused(layer.group_discard(name, "channel").await, name);
        assert_refused(layer.group_channels(name).await, name);
        assert_refused(layer.group_send(name, numbered(1)).await, name);
        assert_refused(layer.group_send_many(&[(name, numbered(1))]).await.remove(0), name);
    }
}

pub async fn the_longest_names_are_accepted(kind: &Kind) {
    let layer = kind.start(Options::default()).await.layer();
    let group = "G".repeat(100);
    let process = format!("{}!", "p".repeat(98));
    let single = format!("{}?s", "a".repeat(98));
    let normal = "-_.09azAZ".repeat(12)[..100].to_owned();
    for channel in [format!("{process}l"), single.clone(), normal.clone()] {
        layer.group_add(&group, &channel).await.unwrap();
        layer.send(&channel, numbered(1)).await.unwrap();
    }
    layer.group_send(&group, numbered(2)).await.unwrap();
    for source in [&process, &single, &normal] {
        let mut got = [take(&layer, &[source]).await, take(&layer, &[source]).await].map(|got| got.message);
        got.sort_by_key(|message| message.int("number"));
        assert_eq!(got, [numbered(1), numbered(2)]);
    }
}

pub async fn new_channel_completes_its_pattern_to_a_unique_name(kind: &Kind) {
    let backend = kind.start(Options::default()).await;
    let (layer, peer) = (backend.layer(), backend.peer().await);
    let mut names = HashSet::new();
    for _ in 0..100 {
        for layer in [&layer, &peer] {
            let name = layer.new_channel("test.foo?").await.unwrap();
            assert_eq!(name.kind(), ChannelKind::SingleReader);
            let suffix = name.as_str().strip_prefix("test.foo?").expect("the pattern is the beginning");
            assert!(suffix.len() >= 8, "{name} can be guessed");
            assert!(names.insert(name), "a name came twice");
        }
    }
    let [first, second] = [layer.new_channel("a?").await.unwrap(), layer.new_channel("a?").await.unwrap()];
    peer.send(first.as_str(), numbered(1)).await.unwrap();
    let delivery = take(&layer, &[first.as_str(), second.as_str()]).await;
    assert_eq!((delivery.channel, delivery.message), (first, numbered(1)));
}

pub async fn invalid_patterns_are_refused(kind: &Kind) {
    let layer = kind.start(Options::default()).await.layer();
    for pattern in ["test!", "test.foo", "test?foo", "", "?", "a b?", "a!b?", &format!("{}?", "x".repeat(100))] {
        if pattern == "test.foo" && kind.like_python {
            continue;
        }
        assert_refused(layer.new_channel(pattern).await, pattern);
    }
}
