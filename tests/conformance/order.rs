//! Messages from one writer to one reader of a `!` or `?` channel arrive in the order of the calls.

use channel_layer::Delivery;

use super::backend::{Kind, Options};
use super::tools::{Layer, Others, number, numbered, numbers, numbers_on, take_all};
use crate::support::{DEADLINE, Moments, within};

const CHANNELS: [&str; 3] = ["order!a", "order!b", "order?c"];
const SOURCES: [&str; 2] = ["order!", "order?c"];
const ROUNDS: i64 = 60;
/// Each round sends four messages to each channel, by four different operations.
const PER_CHANNEL: i64 = ROUNDS * 4;

/// Sends numbers that grow to all channels, by all operations in turn.
async fn write(layer: Layer) {
    for channel in CHANNELS {
        layer.group_add("order", channel).await.unwrap();
    }
    for first in (0..PER_CHANNEL).step_by(4) {
        for channel in CHANNELS {
            layer.send(channel, numbered(first)).await.unwrap();
        }
        layer.group_send("order", numbered(first + 1)).await.unwrap();
        let batch = CHANNELS.map(|channel| (channel, numbered(first + 2)));
        assert!(layer.send_many(&batch).await.iter().all(Result::is_ok));
        let results = layer.group_send_many(&[("order", numbered(first + 3)), ("nobody", numbered(0))]).await;
        assert!(results.iter().all(Result::is_ok));
    }
}

#[track_caller]
fn assert_in_order(taken: &[Delivery]) {
    for channel in CHANNELS {
        assert_eq!(numbers_on(channel, taken), (0..PER_CHANNEL).collect::<Vec<_>>(), "what came on {channel}");
    }
    // The local parts of a process share one order. Only the order of the members of one group send is free.
    let process: Vec<_> = taken.iter().filter(|delivery| delivery.channel != "order?c").map(number).collect();
    assert!(process.is_sorted(), "the local parts of order! came in the order {process:?}");
}

fn all_are_there(taken: &[Delivery]) -> bool {
    taken.len() >= CHANNELS.len() * usize::try_from(PER_CHANNEL).unwrap()
}

pub async fn the_order_holds_from_writer_to_reader(kind: &Kind) {
    let backend = kind.start(Options::default()).await;
    let (layer, peer) = (backend.layer(), backend.peer().await);
    let others = Others::on(&layer);
    let writer = tokio::spawn(write(layer));
    let mut receiver = peer.receiver(&SOURCES).unwrap();
    let mut taken = Vec::new();
    while !all_are_there(&taken) {
        let limit = taken.len() % 7 + 1;
        within(DEADLINE, "the next messages", receiver.recv_many(&mut taken, limit)).await.unwrap();
    }
    writer.await.unwrap();
    others.end().await;
    assert_in_order(&taken);
}

pub async fn the_order_holds_through_readers_of_every_kind(kind: &Kind) {
    let backend = kind.start(Options::default()).await;
    let (layer, peer) = (backend.layer(), backend.peer().await);
    let others = Others::on(&layer);
    let writer = tokio::spawn(write(layer));
    let mut taken = Vec::new();
    let mut moments = Moments::new(3);
    while !all_are_there(&taken) {
        // One reader at a time. It may be dropped half-way, and puts its messages back before the next one reads.
        if let Some(received) = moments.cut(peer.receive(&SOURCES)).await {
            taken.push(received.unwrap());
        }
        let mut receiver = peer.receiver(&SOURCES).unwrap();
        if let Some(received) = moments.cut(receiver.recv_many(&mut taken, 5)).await {
            received.unwrap();
        }
        receiver.close().await.unwrap();
        // Dropped without a close, twice in a row: the second reader may start before the first has put anything back.
        for _ in 0..2 {
            let mut receiver = peer.receiver(&SOURCES).unwrap();
            if let Some(received) = moments.cut(receiver.recv()).await {
                taken.push(received.unwrap());
            }
        }
        if let Some(Some(delivery)) = moments.cut(peer.try_receive(&SOURCES)).await.transpose().unwrap() {
            taken.push(delivery);
        }
    }
    writer.await.unwrap();
    others.end().await;
    assert_in_order(&taken);
}

pub async fn the_order_holds_on_a_new_channel(kind: &Kind) {
    let backend = kind.start(Options::default()).await;
    let (layer, reader) = (backend.layer(), backend.peer().await);
    let channel = reader.new_channel("body?").await.unwrap();
    for number in 0..200 {
        layer.send(channel.as_str(), numbered(number)).await.unwrap();
    }
    assert_eq!(numbers(&take_all(&reader, &[channel.as_str()]).await), (0..200).collect::<Vec<_>>());
}
