//! Slots that move, and nodes that come and go as planned: no caller sees an error.

use std::time::Duration;

use channel_layer::{ChannelLayer, Error, Event, FallbackLayer, Mode, RedisLayer};
use futures_util::FutureExt;

use super::load::Load;
use super::tools::{all, config, connect, name_in, slot_of};
use crate::support::{Cluster, DEADLINE, NO_NODE_TIMEOUT, eventually, within};

/// Channels of every kind with names in each of `slots`.
fn channels(slots: impl IntoIterator<Item = u16>) -> Vec<String> {
    let name =
        |slot: u16| [name_in("jobs.", slot..slot + 1, 'j'), format!("{}x", name_in("send.", slot..slot + 1, '!'))];
    slots.into_iter().flat_map(name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_arrive_once_and_in_order_while_their_slots_move() {
    let cluster = Cluster::without_replicas().await;
    // A call that a node has answered with a redirection is no failed attempt, so retries repeat nothing.
    let config = config(&cluster).retry_attempts(5);
    let (writer, reader) = (connect(config.clone()).await, connect(config).await);
    let load = Load::start(&writer, &reader, &channels((0..30).step_by(3)));
    for _ in 0..3 {
        cluster.move_slots(0..30, 0, 1).await;
        cluster.move_slots(0..30, 1, 2).await;
        cluster.move_slots(0..30, 2, 0).await;
    }
    let outcome = load.finish().await;
    assert_eq!(outcome.errors().len(), 0, "{:?}", outcome.errors());
    outcome.assert_whole(&[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_arrive_once_and_in_order_during_planned_failovers() {
    let cluster = Cluster::with(&NO_NODE_TIMEOUT, true).await;
    // A master that waits for votes refuses writes for up to 5 s.
    let config = config(&cluster).command_timeout(Duration::from_secs(15));
    let (writer, reader) =
        (connect(config.clone().retry_attempts(5)).await, connect(config.clone().retry_attempts(20)).await);
    let falls_back = FallbackLayer::<RedisLayer>::new(connect(config.clone()).await, &config).unwrap();
    let mut noticed = None;
    let calls = async {
        // Each call asks whether the servers are down.
        while falls_back.group_channels("room").await.is_ok() && falls_back.status().mode == Mode::Remote {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        noticed = Some(falls_back.status());
        std::future::pending::<()>().await;
    };
    let mut events = writer.events();
    let load = Load::start(&writer, &reader, &channels([0, 100, 6000, 12000]));
    // These calls concern a server and no slot, so that no redirection is followed for them.
    let asking = reader.clone();
    let asked = tokio::spawn(async move {
        loop {
            asking.redis_stats().await?;
        }
    });
    let failovers = async {
        for node in [3, 0, 4, 1] {
            cluster.fail_over(node).await;
            cluster.works(&[node % Cluster::MASTERS, node % Cluster::MASTERS + Cluster::MASTERS]).await;
        }
    };
    tokio::select! {
        () = failovers => {}
        () = calls => {}
    }
    let outcome = load.finish().await;
    assert_eq!(noticed, None, "the layer with a fallback has noticed a failover");
    assert_eq!(outcome.errors().len(), 0, "{:?}", outcome.errors());
    let error: Option<Result<(), Error>> = asked.now_or_never().map(Result::unwrap);
    assert!(error.is_none(), "{error:?}");
    outcome.assert_whole(&[]);
    let other = all(&mut events).into_iter().find(|event| !matches!(event, Event::ShardUp { .. }));
    assert_eq!(other, None, "a planned failover is neither an outage nor a loss");
}

#[tokio::test]
async fn a_reader_of_an_empty_channel_follows_its_slot_while_it_moves() {
    let cluster = Cluster::without_replicas().await;
    let config = config(&cluster);
    let (writer, reader) = (connect(config.clone()).await, connect(config).await);
    let channel = name_in("quiet.", 0..5000, '!');
    let slot = slot_of(&channel);
    let mut receiver = reader.receiver(&[&channel]).unwrap();
    let member = format!("{channel}x");
    writer.send(&member, channel_layer::message! { "number": 1 }).await.unwrap();
    within(DEADLINE, "a message", receiver.recv()).await.unwrap();
    let moving = async {
        eventually("a read that waits on the old node", async || {
            let clients: String = cluster.nodes[0].ask(redis::cmd("CLIENT").arg("LIST")).await;
            clients.contains("cmd=blmpop").then_some(())
        })
        .await;
        // The message goes to the new node.
        cluster.begin_move(slot, 0, 1).await;
        writer.send(&member, channel_layer::message! { "number": 2 }).await.unwrap();
    };
    let waiting = within(DEADLINE, "a message in a slot that moves", receiver.recv());
    let (delivery, ()) = tokio::join!(waiting, moving);
    assert_eq!(delivery.unwrap().message.int("number"), Some(2));
    cluster.end_move(slot, 1, &[0, 2]).await;
    writer.send(&member, channel_layer::message! { "number": 3 }).await.unwrap();
    let delivery = within(DEADLINE, "a message in a slot that has moved", receiver.recv()).await.unwrap();
    assert_eq!(delivery.message.int("number"), Some(3));
}

#[tokio::test]
async fn a_process_connects_while_a_slot_is_half_moved() {
    let cluster = Cluster::without_replicas().await;
    let config = config(&cluster);
    let early = connect(config.clone()).await;
    let (kept, moved) = (name_in("kept.", 0..5000, '!'), name_in("moved.", 0..5000, '!'));
    let slots = [slot_of(&kept), slot_of(&moved)];
    for channel in [&kept, &moved] {
        early.send(&format!("{channel}x"), channel_layer::message! { "number": 1 }).await.unwrap();
    }
    for slot in slots {
        cluster.begin_move(slot, 0, 1).await;
    }
    cluster.move_keys(slots[1], 0, 1).await;
    let late = connect(config).await;
    for channel in [&kept, &moved] {
        late.send(&format!("{channel}x"), channel_layer::message! { "number": 2 }).await.unwrap();
        for number in [1, 2] {
            let delivery = within(DEADLINE, "a message", late.receive(&[channel])).await.unwrap();
            assert_eq!(delivery.message.int("number"), Some(number), "{channel}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_added_takes_slots_and_one_that_has_none_can_be_removed() {
    let mut cluster = Cluster::without_replicas().await;
    let config = config(&cluster);
    let (writer, reader) = (connect(config.clone()).await, connect(config.clone()).await);
    let mut events = writer.events();
    let load = Load::start(&writer, &reader, &channels([0, 1, 2, 3, 4, 6000]));
    let added = cluster.add_node().await;
    cluster.move_slots(0..5, 0, added).await;
    // The layers know the value by which they notice a loss of the data of a shard.
    let knows_data = async |layer: &RedisLayer| {
        layer.health().await.shards.iter().any(|shard| shard.shard == Cluster::MASTERS && shard.epoch.is_some())
    };
    eventually("the new shard", async || (knows_data(&writer).await && knows_data(&reader).await).then_some(())).await;
    // This layer sends nothing, so it learns of changes by the layout only.
    let watcher = connect(config.clone()).await;
    let mut seen = watcher.events();
    cluster.move_slots(0..5, added, 1).await;
    cluster.agrees().await;
    let without_slots = async || (!knows_data(&writer).await && !knows_data(&reader).await).then_some(());
    eventually("a shard without slots", without_slots).await;
    cluster.remove_node(added).await;
    let outcome = load.finish().await;
    assert_eq!(outcome.errors().len(), 0, "{:?}", outcome.errors());
    outcome.assert_whole(&[]);
    eventually("health without the removed node", async || {
        let health = writer.health().await;
        (health.shards.len() == Cluster::MASTERS && health.status == channel_layer::health::Status::Healthy)
            .then_some(())
    })
    .await;
    let removal = async { while !matches!(seen.recv().await.unwrap(), Event::ShardRemoved { .. }) {} };
    within(DEADLINE, "the event of the removed node", removal).await;
    assert_eq!(watcher.health().await.shards.len(), Cluster::MASTERS);
    let other = all(&mut events).into_iter().find(|event| !matches!(event, Event::ShardUp { .. }));
    assert_eq!(other, None, "a node that is gone is neither an outage nor a loss of data");
}

#[tokio::test]
async fn groups_and_statistics_are_whole_after_their_slots_have_moved() {
    let cluster = Cluster::without_replicas().await;
    let config = config(&cluster);
    let (one, other) = (connect(config.clone()).await, connect(config).await);
    let (group, channel) = ("room", name_in("send.", 0..5000, '!'));
    let member = format!("{channel}ada");
    one.group_add(group, &member).await.unwrap();
    one.group_send(group, channel_layer::message! { "number": 1 }).await.unwrap();
    let (slots, from) = ([slot_of(group), slot_of(&channel)], cluster.owner(slot_of(group), 0).await);
    cluster.move_slots(slots[0]..slots[0] + 1, from, (from + 1) % 3).await;
    cluster.move_slots(slots[1]..slots[1] + 1, 0, 2).await;
    one.group_send(group, channel_layer::message! { "number": 2 }).await.unwrap();
    for number in [1, 2] {
        let delivery = within(DEADLINE, "a group message", other.receive(&[&channel])).await.unwrap();
        assert_eq!((delivery.channel.as_str(), delivery.message.int("number")), (&*member, Some(number)));
    }
    assert_eq!(other.group_channels(group).await.unwrap().len(), 1);
    let counted = eventually("the counters of the other process", async || {
        let statistics = other.channel_statistics(&channel).await.unwrap();
        (statistics.messages_count == 2).then_some(statistics)
    });
    assert_eq!(counted.await.messages_pending, 0);
    one.flush().await.unwrap();
    assert_eq!(other.group_channels(group).await.unwrap().len(), 0);
}
