//! Normal channels that a rule spreads over several lists, and so over the masters.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use channel_layer::health::ShardState;
use channel_layer::{ChannelLayer, Config, Error, RedisLayer, SpreadRule, message};
use futures_util::future::join_all;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::tools::{config, connect, slot_of};
use crate::support::{Cluster, DEADLINE, eventually, random_prefix, shared_cluster, within};

const CHANNEL: &str = "jobs.mail";
const LISTS: usize = 8;

/// The options of a layer that spreads the channel over `lists` lists.
fn spread(cluster: &Cluster, lists: usize) -> Config {
    config(cluster).spread(SpreadRule::glob("jobs.*", lists))
}

/// The slots of the lists of the channel.
fn slots() -> Vec<u16> {
    let further = (1..LISTS).map(|number| slot_of(&format!("{CHANNEL}/{number}")));
    [slot_of(CHANNEL)].into_iter().chain(further).collect()
}

/// How many messages the lists of the channel hold together, by the nodes.
async fn stored(cluster: &Cluster, prefix: &str) -> BTreeMap<String, usize> {
    let mut lists = BTreeMap::new();
    for node in &cluster.nodes[..Cluster::MASTERS] {
        let keys: Vec<String> = node.ask(redis::cmd("KEYS").arg(format!("{prefix}:channel:*"))).await;
        for key in keys {
            let length = node.ask(redis::cmd("LLEN").arg(&key)).await;
            lists.insert(key, length);
        }
    }
    lists
}

async fn send(layer: &RedisLayer, number: i64) -> Result<(), Error> {
    layer.send(CHANNEL, message! { "number": number }).await
}

/// Takes `count` messages, and returns their numbers in ascending order.
async fn take(layer: &RedisLayer, count: usize) -> Vec<i64> {
    let mut numbers = Vec::new();
    while numbers.len() < count {
        let delivery = within(DEADLINE, "a message", layer.receive(&[CHANNEL])).await.unwrap();
        numbers.push(delivery.message.int("number").unwrap());
    }
    numbers.sort_unstable();
    numbers
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lists_of_a_channel_hold_its_capacity_together_with_several_senders() {
    const CAPACITY: usize = 100;
    let cluster = shared_cluster();
    let prefix = random_prefix();
    let config = spread(cluster, LISTS).capacity(CAPACITY).prefix(&prefix);
    let mut senders = Vec::new();
    for _ in 0..4 {
        senders.push(connect(config.clone()).await);
    }
    let sent = senders.iter().enumerate().map(|(sender, layer)| async move {
        let numbers = (0..40).map(|number| i64::try_from(sender * 40 + number).unwrap());
        join_all(numbers.map(|number| async move { (number, send(layer, number).await) })).await
    });
    let mut accepted = Vec::new();
    for (number, result) in join_all(sent).await.into_iter().flatten() {
        match result {
            Ok(()) => accepted.push(number),
            Err(Error::ChannelFull { channel }) => assert_eq!(channel, CHANNEL),
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(accepted.len(), CAPACITY);
    let stored = stored(cluster, &prefix).await;
    assert_eq!(stored.len(), LISTS, "{stored:?}");
    assert!(stored.values().all(|length| (12..=13).contains(length)), "{stored:?}");
    for layer in &senders {
        // Each process writes its counts.
        layer.channel_statistics(CHANNEL).await.unwrap();
    }
    let statistics = senders[0].channel_statistics(CHANNEL).await.unwrap();
    let of_channel = (statistics.messages_count, statistics.messages_pending, statistics.channel_full_count);
    assert_eq!(of_channel, (100, 100, 60));
    let global = senders[0].global_statistics().await.unwrap();
    assert_eq!((global.messages_count, global.messages_pending, global.channel_full_count), of_channel);
    accepted.sort_unstable();
    assert_eq!(take(&senders[1], CAPACITY).await, accepted);
    assert!(senders[2].try_receive(&[CHANNEL]).await.unwrap().is_none());
}

#[tokio::test]
async fn a_flush_deletes_all_lists_of_a_channel() {
    let cluster = shared_cluster();
    let prefix = random_prefix();
    let layer = connect(spread(cluster, LISTS).prefix(&prefix)).await;
    join_all((0..100).map(|number| send(&layer, number))).await.into_iter().for_each(Result::unwrap);
    assert_eq!(stored(cluster, &prefix).await.len(), LISTS);
    // A process without the rule knows the lists of all processes.
    connect(config(cluster).prefix(&prefix)).await.flush().await.unwrap();
    assert_eq!(stored(cluster, &prefix).await, BTreeMap::new());
}

#[tokio::test]
async fn what_a_reader_leaves_goes_back_into_the_lists_from_which_it_came() {
    let cluster = shared_cluster();
    let prefix = random_prefix();
    let config = spread(cluster, LISTS).prefix(&prefix);
    let (writer, reader) = (connect(config.clone()).await, connect(config).await);
    join_all((0..100).map(|number| send(&writer, number))).await.into_iter().for_each(Result::unwrap);
    let before = stored(cluster, &prefix).await;
    let mut receiver = reader.receiver(&[CHANNEL]).unwrap();
    // Many are wanted, so that the reader takes from several lists.
    let mut taken = Vec::new();
    within(DEADLINE, "messages", receiver.recv_many(&mut taken, 60)).await.unwrap();
    receiver.close().await.unwrap();
    let after = stored(cluster, &prefix).await;
    assert_eq!(after.values().sum::<usize>() + taken.len(), before.values().sum::<usize>());
    assert!(after.iter().all(|(list, length)| length <= &before[list]), "{before:?} {after:?}");
}

#[tokio::test]
async fn the_lists_on_other_masters_work_while_one_master_is_down() {
    let mut cluster = Cluster::with(&["--cluster-require-full-coverage", "no"], false).await;
    let config = spread(&cluster, LISTS);
    let (writer, reader) = (connect(config.clone()).await, connect(config).await);
    join_all((0..100).map(|number| send(&writer, number))).await.into_iter().for_each(Result::unwrap);
    let on_first = slots().into_iter().filter(|slot| *slot < 5461).count();
    assert!((1..LISTS).contains(&on_first));
    let mut receiver = reader.receiver(&[CHANNEL]).unwrap();
    receiver.recv().await.unwrap();
    cluster.nodes[0].server.stop();
    for layer in [&writer, &reader] {
        eventually("an outage", async || layer.outage()).await;
    }
    // No send fails, and a reader gets what is on the other masters without an error.
    join_all((100..200).map(|number| send(&writer, number))).await.into_iter().for_each(Result::unwrap);
    let mut numbers = Vec::new();
    while numbers.iter().filter(|number| **number >= 100).count() < 100 {
        let delivery = within(DEADLINE, "a message", receiver.recv()).await.unwrap();
        numbers.push(delivery.message.int("number").unwrap());
    }
    cluster.nodes[0].server.start_again();
    cluster.works(&[0, 1, 2]).await;
    for layer in [&writer, &reader] {
        eventually("the end of the outage", async || layer.outage().is_none().then_some(())).await;
    }
    join_all((200..300).map(|number| send(&writer, number))).await.into_iter().for_each(Result::unwrap);
    while numbers.iter().filter(|number| **number >= 200).count() < 100 {
        let delivery = within(DEADLINE, "a message", receiver.recv()).await.unwrap();
        numbers.push(delivery.message.int("number").unwrap());
    }
}

#[tokio::test]
async fn a_send_fails_while_all_masters_of_its_lists_are_down_and_is_retried_if_configured() {
    let mut cluster = Cluster::without_replicas().await;
    let config = spread(&cluster, LISTS);
    let layer = connect(config.clone()).await;
    let retrying = connect(config.retry_attempts(1000).retry_backoff(Duration::from_millis(50))).await;
    for node in &mut cluster.nodes {
        node.server.stop();
    }
    // A connection whose end has not been noticed yet leaves it open whether the send ran.
    let error =
        eventually("an error", async || send(&layer, 1).await.err().filter(|error| !error.may_have_run())).await;
    assert!(error.is_transient(), "{error:?}");
    eventually("an outage of all masters", async || {
        let health = retrying.health().await;
        health.shards.iter().all(|shard| shard.state == ShardState::Down).then_some(())
    })
    .await;
    let sent = tokio::spawn(async move { send(&retrying, 2).await });
    for node in &mut cluster.nodes {
        node.server.start_again();
    }
    within(DEADLINE, "the send", sent).await.unwrap().unwrap();
    let numbers = eventually("the message", async || layer.try_receive(&[CHANNEL]).await.ok().flatten()).await;
    assert_eq!(numbers.message.int("number"), Some(2));
}

#[tokio::test]
async fn no_message_is_lost_while_processes_change_the_rule_readers_first() {
    let cluster = shared_cluster();
    let prefix = random_prefix();
    let with = async |lists| connect(spread(cluster, lists).prefix(&prefix)).await;
    let (old, new) = (with(1).await, with(LISTS).await);
    // Further: the readers know the lists before a sender uses them.
    join_all((0..50).map(|number| send(&old, number))).await.into_iter().for_each(Result::unwrap);
    let mut taken = take(&new, 25).await;
    join_all((50..100).map(|number| send(&new, number))).await.into_iter().for_each(Result::unwrap);
    join_all((100..150).map(|number| send(&old, number))).await.into_iter().for_each(Result::unwrap);
    taken.extend(take(&new, 125).await);
    taken.sort_unstable();
    assert_eq!(taken, (0..150).collect::<Vec<_>>());
    // Less: the senders stop using the lists while the readers still know them.
    join_all((0..50).map(|number| send(&new, number))).await.into_iter().for_each(Result::unwrap);
    join_all((50..100).map(|number| send(&old, number))).await.into_iter().for_each(Result::unwrap);
    assert_eq!(take(&new, 100).await, (0..100).collect::<Vec<_>>());
    join_all((0..50).map(|number| send(&old, number))).await.into_iter().for_each(Result::unwrap);
    assert_eq!(take(&old, 50).await, (0..50).collect::<Vec<_>>());
}

#[tokio::test]
async fn processes_with_other_rules_are_named_by_health() {
    let cluster = shared_cluster();
    let prefix = random_prefix();
    let config = |lists| spread(cluster, lists).prefix(&prefix);
    let (_one, other) = (connect(config(2)).await, connect(config(LISTS)).await);
    eventually("the difference", async || {
        let health = other.health().await;
        let mut differences = health.shards.iter().flat_map(|shard| &shard.setting_differences);
        let found = differences.find(|difference| difference.option == "spread")?;
        assert_eq!((&*found.ours, &*found.theirs), (r#""jobs.*" = 8"#, r#""jobs.*" = 2"#));
        Some(())
    })
    .await;
}

/// Begins to send numbers from `first` on until `stop`, and returns the number after the last one.
fn write(layer: Arc<RedisLayer>, first: i64, stop: CancellationToken) -> JoinHandle<Result<i64, Error>> {
    tokio::spawn(async move {
        let mut number = first;
        while !stop.is_cancelled() {
            send(&layer, number).await?;
            number += 1;
        }
        Ok(number)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_arrive_once_while_the_slots_of_the_lists_move() {
    const WRITERS: i64 = 4;
    const APART: i64 = 1_000_000;
    let cluster = Cluster::without_replicas().await;
    let config = spread(&cluster, LISTS);
    let (writer, reader) = (connect(config.clone()).await, connect(config).await);
    let (stop, ended) = (CancellationToken::new(), CancellationToken::new());
    let writers: Vec<_> = (0..WRITERS).map(|at| write(writer.clone(), at * APART, stop.clone())).collect();
    let (of_reader, reading) = (reader.clone(), ended.clone());
    let taken = tokio::spawn(async move {
        let mut receiver = of_reader.receiver(&[CHANNEL])?;
        let (mut taken, mut numbers) = (Vec::new(), Vec::new());
        while let Some(result) = reading.run_until_cancelled(receiver.recv_many(&mut taken, 100)).await {
            result?;
            numbers.extend(taken.drain(..).map(|delivery| delivery.message.int("number").unwrap()));
        }
        receiver.close().await?;
        Ok::<_, Error>(numbers)
    });
    for _ in 0..3 {
        for slot in slots() {
            let owner = cluster.owner(slot, 0).await;
            cluster.move_slots(slot..slot + 1, owner, (owner + 1) % Cluster::MASTERS).await;
            let owner = (owner + 1) % Cluster::MASTERS;
            cluster.end_move(slot, owner, &[0, 1, 2]).await;
        }
    }
    stop.cancel();
    let mut expected = Vec::new();
    for (at, writer) in (0..).zip(writers) {
        expected.extend(at * APART..within(DEADLINE, "a writer", writer).await.unwrap().unwrap());
    }
    eventually("an empty channel", async || {
        let statistics = reader.channel_statistics(CHANNEL).await.unwrap();
        (statistics.messages_pending == 0).then_some(())
    })
    .await;
    ended.cancel();
    let mut numbers = within(DEADLINE, "the reader", taken).await.unwrap().unwrap();
    // What was in the buffer of the receiver is back in the lists.
    while let Some(delivery) = reader.try_receive(&[CHANNEL]).await.unwrap() {
        numbers.push(delivery.message.int("number").unwrap());
    }
    numbers.sort_unstable();
    assert!(numbers.len() > 500, "{}", numbers.len());
    assert_eq!(numbers, expected);
}
