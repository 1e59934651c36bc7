//! Messages to channels in many slots travel in one call to each master.

use std::collections::BTreeSet;

use channel_layer::{ChannelLayer, Error, Message, RedisLayer, message};

use super::tools::{config, connect, name_in, slot_of};
use crate::support::{Cluster, eventually};

const CHANNELS: usize = 100;

/// The shares of the slots of three masters.
const SHARES: [std::ops::Range<u16>; 3] = [0..5461, 5461..10923, 10923..16384];

fn to_each(channels: &[String], number: i64) -> Vec<(&str, Message)> {
    channels.iter().map(|channel| (channel.as_str(), message! { "number": number })).collect()
}

/// Sends a number to each of the channels.
async fn send_to_each(layer: &RedisLayer, channels: &[String], number: i64) {
    for result in layer.send_many(&to_each(channels, number)).await {
        result.unwrap();
    }
}

/// How often the nodes have run scripts.
async fn calls(cluster: &Cluster) -> usize {
    let mut calls = 0;
    for node in &cluster.nodes {
        calls += node.statistic("evalsha", "calls").await;
    }
    calls
}

/// The numbers that have arrived on each channel, until there are `count`.
async fn numbers(layer: &RedisLayer, channels: &[String], count: usize) -> Vec<(String, i64)> {
    let names: Vec<_> = channels.iter().map(String::as_str).collect();
    let (mut receiver, mut taken) = (layer.receiver(&names).unwrap(), Vec::new());
    while taken.len() < count {
        receiver.recv_many(&mut taken, count).await.unwrap();
    }
    let mut found: Vec<_> =
        taken.iter().map(|delivery| (delivery.channel.to_string(), delivery.message.int("number").unwrap())).collect();
    // The sort is stable, so the messages of a channel keep their order.
    found.sort_by(|(one, _), (other, _)| one.cmp(other));
    found
}

fn expected(channels: &[String], last: i64) -> Vec<(String, i64)> {
    let names: BTreeSet<_> = channels.iter().cloned().collect();
    names.into_iter().flat_map(|name| (0..=last).map(move |number| (name.clone(), number))).collect()
}

#[tokio::test]
async fn messages_to_many_channels_need_few_calls() {
    let cluster = Cluster::without_replicas().await;
    let layer = connect(config(&cluster)).await;
    let channels: Vec<_> = (0..CHANNELS).map(|number| format!("jobs.{number}")).collect();
    let before = calls(&cluster).await;
    for number in 0..20 {
        send_to_each(&layer, &channels, number).await;
    }
    let calls = calls(&cluster).await - before;
    // Each batch needs a call to each master. Counters are written once a second by a call for each channel.
    assert!(calls < 10 * CHANNELS, "{calls} calls");
    assert_eq!(numbers(&layer, &channels, 20 * CHANNELS).await, expected(&channels, 19));
}

#[tokio::test]
async fn a_channel_whose_slot_is_half_moved_does_not_fail_the_others_of_its_batch() {
    let cluster = Cluster::without_replicas().await;
    let layer = connect(config(&cluster)).await;
    let channels: Vec<_> = (0..10).map(|number| name_in(&format!("jobs{number}."), SHARES[0].clone(), 'x')).collect();
    // The list of the first of these is on the node that the slot leaves, and that of the second one is on neither.
    let [with_list, without] = [3, 6].map(|place| slot_of(&channels[place]));
    send_to_each(&layer, &channels[..6], 0).await;
    for slot in [with_list, without] {
        cluster.begin_move(slot, 0, 1).await;
    }
    send_to_each(&layer, &channels[6..], 0).await;
    for number in 1..3 {
        send_to_each(&layer, &channels, number).await;
    }
    for slot in [with_list, without] {
        cluster.move_keys(slot, 0, 1).await;
        cluster.end_move(slot, 1, &[0, 1, 2]).await;
    }
    send_to_each(&layer, &channels, 3).await;
    assert_eq!(numbers(&layer, &channels, 4 * channels.len()).await, expected(&channels, 3));
}

#[tokio::test]
async fn each_channel_of_a_batch_has_its_own_capacity() {
    let cluster = Cluster::without_replicas().await;
    let layer = connect(config(&cluster).capacity(2)).await;
    let channels: Vec<_> = (0..10).map(|number| name_in(&format!("jobs{number}."), SHARES[0].clone(), 'x')).collect();
    for number in 0..2 {
        send_to_each(&layer, &channels[..1], number).await;
    }
    let results = layer.send_many(&to_each(&channels, 0)).await;
    assert!(matches!(results[0], Err(Error::ChannelFull { .. })), "{:?}", results[0]);
    assert!(results[1..].iter().all(Result::is_ok), "{results:?}");
    eventually("the refused message is counted", async || {
        let statistics = layer.channel_statistics(&channels[0]).await.unwrap();
        (statistics.channel_full_count == 1).then_some(())
    })
    .await;
}
