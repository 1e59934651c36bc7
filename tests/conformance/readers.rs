//! A receiver reads only when it is polled, as a stream or in batches, and puts undelivered messages back.

use std::pin::pin;
use std::task::Poll;

use futures_util::{StreamExt, poll};

use super::backend::{Kind, Options};
use super::tools::{assert_none, number, numbers, send_numbers, sorted_channels, take_all, take_many};
use crate::support::{DEADLINE, eventually, within};

pub async fn a_receiver_is_a_stream(kind: &Kind) {
    let backend = kind.start(Options::default()).await;
    let layer = backend.layer();
    send_numbers(&layer, "stream!a", 0..10).await;
    let mut stream = layer.receiver(&["stream!"]).unwrap();
    for expected in 0..10 {
        let next = within(DEADLINE, "the next of the stream", stream.next()).await;
        assert_eq!(number(&next.expect("the stream continues").unwrap()), expected);
    }
    {
        let mut next = pin!(stream.next());
        assert!(poll!(&mut next).is_pending(), "no more messages were sent");
        send_numbers(&layer, "stream!b", [10]).await;
        let next = within(DEADLINE, "the message that it waited for", next).await;
        assert_eq!(number(&next.expect("the stream continues").unwrap()), 10);
    }
    layer.close().await.unwrap();
    assert!(within(DEADLINE, "the end of the stream", stream.next()).await.is_none());
    assert!(matches!(poll!(stream.next()), Poll::Ready(None)), "the stream stays at its end");
}

pub async fn recv_many_takes_what_is_there_up_to_the_limit(kind: &Kind) {
    let backend = kind.start(Options::default()).await;
    let layer = backend.layer();
    send_numbers(&layer, "batch?a", 0..25).await;
    let mut receiver = layer.receiver(&["batch?a"]).unwrap();
    let mut taken = Vec::new();
    while taken.len() < 25 {
        let before = taken.len();
        let count = within(DEADLINE, "a batch", receiver.recv_many(&mut taken, 10)).await.unwrap();
        assert!((1..=10).contains(&count) && taken.len() == before + count, "{count} of at most 10");
    }
    assert_eq!(numbers(&taken), (0..25).collect::<Vec<_>>());
}

pub async fn a_limit_of_zero_counts_as_one(kind: &Kind) {
    let layer = kind.start(Options::default()).await.layer();
    send_numbers(&layer, "zero?a", 0..2).await;
    let mut receiver = layer.receiver(&["zero?a"]).unwrap();
    let mut taken = Vec::new();
    assert_eq!(within(DEADLINE, "a batch", receiver.recv_many(&mut taken, 0)).await.unwrap(), 1);
    assert_eq!(numbers(&taken), [0]);
}

pub async fn a_receiver_reads_nothing_before_it_is_polled(kind: &Kind) {
    let backend = kind.start(Options::default()).await;
    let (layer, peer) = (backend.layer(), backend.peer().await);
    let idle = peer.receiver(&["idle", "idle!", "idle?a"]).unwrap();
    for channel in ["idle", "idle!a", "idle?a"] {
        send_numbers(&layer, channel, [1]).await;
    }
    assert_eq!(sorted_channels(&take_all(&layer, &["idle", "idle!", "idle?a"]).await), ["idle", "idle!a", "idle?a"]);
    drop(idle);
}

pub async fn a_receiver_reads_several_channels(kind: &Kind) {
    let backend = kind.start(Options::default()).await;
    let (layer, peer) = (backend.layer(), backend.peer().await);
    let names: Vec<_> = (0..12)
        .map(|at| [format!("several.{at}"), format!("several!{at}"), format!("s?{at}")][at % 3].clone())
        .collect();
    let mut sources: Vec<_> = names.iter().map(|name| if name.contains('!') { "several!" } else { name }).collect();
    // A channel that is named twice is read once.
    sources.push("s?2");
    let mut receiver = peer.receiver(&sources).unwrap();
    for round in 0..2 {
        for name in &names {
            send_numbers(&layer, name, [round]).await;
        }
        let mut taken = Vec::new();
        while taken.len() < names.len() {
            within(DEADLINE, "a message on each channel", receiver.recv_many(&mut taken, 100)).await.unwrap();
        }
        let mut expected = names.clone();
        expected.sort();
        assert_eq!(sorted_channels(&taken), expected);
        assert_eq!(numbers(&taken), vec![round; names.len()]);
    }
}

pub async fn a_dropped_receiver_puts_its_messages_back(kind: &Kind) {
    let backend = kind.start(Options::default()).await;
    let (layer, peer) = (backend.layer(), backend.peer().await);
    for (channel, source) in [("drop", "drop"), ("drop!a", "drop!"), ("drop?a", "drop?a")] {
        send_numbers(&layer, channel, 0..6).await;
        let mut receiver = peer.receiver(&[source]).unwrap();
        let first = within(DEADLINE, "the first message", receiver.recv()).await.unwrap();
        drop(receiver);
        let pending = async || {
            let statistics = layer.channel_statistics(channel).await.unwrap();
            (statistics.messages_pending == 5).then_some(())
        };
        eventually(&format!("the messages of {channel} that were put back"), pending).await;
        let mut rest = numbers(&take_many(&layer, &[source], 5).await);
        if channel != "drop" {
            assert_eq!((number(&first), &rest[..]), (0, &[1, 2, 3, 4, 5][..]), "the order on {channel}");
        }
        rest.push(number(&first));
        rest.sort_unstable();
        assert_eq!(rest, [0, 1, 2, 3, 4, 5]);
        assert_none(layer.try_receive(&[source]).await.unwrap());
    }
}
