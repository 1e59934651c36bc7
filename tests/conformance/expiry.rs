//! A message that has waited for the expiry is never delivered.
//!
//! Times are far from the limits: with an expiry of 2 s, a message of 1.2 s has to be delivered and one of 2.4 s must
//! not.

use std::time::Duration;

use tokio::time::timeout;

use super::backend::{Kind, Options};
use super::tools::{assert_none, number, numbered, numbers, send_numbers, take_all};
use crate::support::{DEADLINE, within};

const STEP: Duration = Duration::from_millis(1200);

fn two_seconds() -> Options {
    Options { expiry: Duration::from_secs(2), ..Options::default() }
}

pub async fn a_message_expires(kind: &Kind) {
    let backend = kind.start(two_seconds()).await;
    let layer = backend.layer();
    for channel in ["expires", "expires!a", "expires?a"] {
        layer.send(channel, numbered(1)).await.unwrap();
    }
    backend.pass(STEP).await;
    backend.pass(STEP).await;
    assert_none(layer.try_receive(&["expires", "expires!", "expires?a"]).await.unwrap());
}

pub async fn a_group_message_expires(kind: &Kind) {
    let backend = kind.start(two_seconds()).await;
    let layer = backend.layer();
    for member in ["expires", "expires!a", "expires!b", "expires?a"] {
        layer.group_add("group", member).await.unwrap();
    }
    layer.group_send("group", numbered(1)).await.unwrap();
    backend.pass(STEP).await;
    backend.pass(STEP).await;
    assert_none(layer.try_receive(&["expires", "expires!", "expires?a"]).await.unwrap());
}

pub async fn each_message_of_a_busy_channel_expires_on_its_own(kind: &Kind) {
    let backend = kind.start(two_seconds()).await;
    let layer = backend.layer();
    for round in 0..3 {
        for channel in ["busy", "busy!a", "busy?a"] {
            send_numbers(&layer, channel, [round]).await;
        }
        if round < 2 {
            backend.pass(STEP).await;
        }
    }
    for source in ["busy", "busy!", "busy?a"] {
        let mut left = numbers(&take_all(&layer, &[source]).await);
        left.sort_unstable();
        assert_eq!(left, [1, 2], "what is left on {source}");
    }
}

pub async fn a_reader_that_comes_late_gets_no_expired_message(kind: &Kind) {
    let backend = kind.start(two_seconds()).await;
    let layer = backend.layer();
    let reader = backend.peer().await;
    send_numbers(&layer, "waiting?a", [1]).await;
    backend.pass(STEP).await;
    backend.pass(STEP).await;
    let waiting = tokio::spawn(async move { reader.receive(&["waiting?a"]).await });
    send_numbers(&layer, "waiting?a", [2]).await;
    let delivery = within(DEADLINE, "the message that has not expired", waiting).await.unwrap().unwrap();
    assert_eq!(number(&delivery), 2);
}

pub async fn putting_back_keeps_the_expiry(kind: &Kind) {
    let backend = kind.start(two_seconds()).await;
    let layer = backend.layer();
    for (channel, source) in [("back", "back"), ("back!a", "back!"), ("back?a", "back?a")] {
        send_numbers(&layer, channel, 0..3).await;
        let mut receiver = layer.receiver(&[source]).unwrap();
        within(DEADLINE, "the first message", receiver.recv()).await.unwrap();
        receiver.close().await.unwrap();
    }
    backend.pass(STEP).await;
    // A second round trip of each, so that an expiry renewed by putting back would show.
    for source in ["back", "back!", "back?a"] {
        let mut receiver = layer.receiver(&[source]).unwrap();
        within(DEADLINE, "the second message", receiver.recv()).await.unwrap();
        receiver.close().await.unwrap();
    }
    backend.pass(STEP).await;
    assert_none(layer.try_receive(&["back", "back!", "back?a"]).await.unwrap());
}

pub async fn a_message_that_a_receiver_holds_expires(kind: &Kind) {
    let backend = kind.start(two_seconds()).await;
    let layer = backend.layer();
    send_numbers(&layer, "held!a", 0..3).await;
    let mut receiver = layer.receiver(&["held!"]).unwrap();
    assert_eq!(number(&within(DEADLINE, "the first message", receiver.recv()).await.unwrap()), 0);
    backend.pass(STEP).await;
    backend.pass(STEP).await;
    let late = timeout(Duration::from_millis(200), receiver.recv()).await;
    assert!(late.is_err(), "an expired message was delivered: {late:?}");
    send_numbers(&layer, "held!a", [3]).await;
    assert_eq!(number(&within(DEADLINE, "a fresh message", receiver.recv()).await.unwrap()), 3);
}
