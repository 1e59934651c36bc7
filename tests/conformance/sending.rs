//! A sent message is received once, by a reader of its channel.

use std::time::Duration;

use channel_layer::message;
use tokio::time::{sleep, timeout};

use super::backend::{Kind, Options};
use super::tools::{assert_none, number, numbered, numbers, rest, send_numbers, take, take_all, take_many};
use crate::support::{DEADLINE, within};

pub async fn a_message_arrives_only_on_its_channel(kind: &Kind) {
    let layer = kind.start(Options::default()).await.layer();
    send_numbers(&layer, "apart.a", [1, 2, 3]).await;
    send_numbers(&layer, "apart.b", [4]).await;

    let mut on_a = numbers(&take_many(&layer, &["apart.a"], 3).await);
    on_a.sort_unstable();
    assert_eq!(on_a, [1, 2, 3]);

    let rest = take(&layer, &["apart.a", "apart.b"]).await;
    assert_eq!(rest.channel, "apart.b");
    assert_eq!(rest.message, numbered(4));
    assert_none(layer.try_receive(&["apart.a", "apart.b"]).await.unwrap());
}

pub async fn a_delivery_has_the_full_name_of_its_channel(kind: &Kind) {
    let layer = kind.start(Options::default()).await.layer();
    for (local, text) in [("local!a", "ponies"), ("local!b", "pangolins")] {
        layer.send(local, message! { "best": text }).await.unwrap();
        let delivery = take(&layer, &["local!"]).await;
        assert_eq!(delivery.channel, local);
        assert_eq!(delivery.message, message! { "best": text });
    }
}

pub async fn a_message_reaches_a_waiting_reader(kind: &Kind) {
    let backend = kind.start(Options::default()).await;
    for channel in ["waited", "waited!a", "waited?a"] {
        let reader = backend.peer().await;
        let source = channel.strip_suffix("!a").map_or_else(|| channel.to_owned(), |process| format!("{process}!"));
        let waiting = tokio::spawn(async move { take(&reader, &[&source]).await });
        // The scheduler decides whether the reader waits before the message arrives. Both have to work.
        sleep(Duration::from_millis(20)).await;
        backend.layer().send(channel, numbered(7)).await.unwrap();
        let delivery = within(DEADLINE, "the waiting reader", waiting).await.unwrap();
        assert_eq!((delivery.channel.as_str(), number(&delivery)), (channel, 7));
    }
}

pub async fn a_message_reaches_a_reader_in_another_process(kind: &Kind) {
    let backend = kind.start(Options::default()).await;
    let (writer, reader) = (backend.layer(), backend.peer().await);
    for channel in ["other.process", "other?process", "other!process"] {
        writer.send(channel, numbered(1)).await.unwrap();
    }
    let sources = ["other.process", "other?process", "other!"];
    let mut channels: Vec<_> = take_many(&reader, &sources, 3).await.into_iter().map(|taken| taken.channel).collect();
    channels.sort();
    assert_eq!(channels, ["other!process", "other.process", "other?process"]);
}

pub async fn try_receive_does_not_wait(kind: &Kind) {
    let layer = kind.start(Options::default()).await.layer();
    for channel in ["empty", "empty!", "empty?a"] {
        // A blocked read lasts seconds; one read attempt on three servers does not.
        let looked = timeout(Duration::from_secs(3), layer.try_receive(&[channel])).await;
        assert_none(looked.expect("try_receive does not wait for a message").unwrap());
    }
}

pub async fn send_many_reaches_every_channel(kind: &Kind) {
    let layer = kind.start(Options::default()).await.layer();
    let batch: Vec<_> =
        ["many.a", "many!b", "many?c", "bad name", "many.a"].into_iter().zip((0..).map(numbered)).collect();
    let results = layer.send_many(&batch).await;
    let sent: Vec<_> = results.iter().map(Result::is_ok).collect();
    assert_eq!(sent, [true, true, true, false, true]);
    let refusal = results[3].as_ref().unwrap_err().to_string();
    assert!(refusal.contains("bad name"), "{refusal} does not name the channel");

    let mut on_a = numbers(&take_many(&layer, &["many.a"], 2).await);
    on_a.sort_unstable();
    assert_eq!(on_a, [0, 4]);
    assert_eq!(numbers(&take_all(&layer, &["many!"]).await), [1]);
    assert_eq!(numbers(&take_all(&layer, &["many?c"]).await), [2]);
    assert!(layer.send_many(&[]).await.is_empty());
}

pub async fn try_receive_finds_messages_beside_a_waiting_reader(kind: &Kind) {
    let layer = kind.start(Options::default()).await.layer();
    for round in 0..50 {
        let waiting = tokio::spawn({
            let layer = layer.clone();
            async move { take(&layer, &["beside"]).await }
        });
        rest(round).await;
        let three = [0, 1, 2].map(|number| ("beside", numbered(number)));
        assert!(layer.send_many(&three).await.iter().all(Result::is_ok));
        for _ in 0..2 {
            assert!(layer.try_receive(&["beside"]).await.unwrap().is_some(), "at least one is left in round {round}");
        }
        waiting.await.unwrap();
    }
}
