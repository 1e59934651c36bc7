//! Groups whose servers differ, and groups whose server changes.

use channel_layer::{ChannelLayer, RedisLayer, message};
use futures_util::future::join_all;
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};

use super::tools::{config, connect, name_in, slot_of};
use crate::support::{Cluster, DEADLINE, eventually, shared_cluster, within};

/// Adds `channels` in turn to the groups.
async fn add(layer: &RedisLayer, groups: &[String], channels: &[String]) {
    let added = groups.iter().zip(channels.iter().cycle()).map(|(group, channel)| layer.group_add(group, channel));
    join_all(added).await.into_iter().for_each(Result::unwrap);
}

/// Sends to each of `groups` in one call.
async fn send_to_all(layer: &RedisLayer, groups: &[String]) {
    let messages: Vec<_> = groups.iter().map(|group| (&**group, message! { "number": 1 })).collect();
    layer.group_send_many(&messages).await.into_iter().for_each(Result::unwrap);
}

/// A member on each master.
fn members() -> Vec<String> {
    [0, 6000, 12000].map(|slot| format!("{}a", name_in("send.", slot..slot + 400, '!'))).into()
}

/// How many round trips there have been since the last call.
fn round_trips(snapshotter: &Snapshotter) -> usize {
    let metrics = snapshotter.snapshot().into_vec().into_iter();
    let trips = metrics.filter(|(key, ..)| key.key().name() == "channel_layer_round_trip_seconds");
    trips.map(|(.., value)| if let DebugValue::Histogram(trips) = value { trips.len() } else { 0 }).sum()
}

#[test]
fn a_send_to_a_thousand_groups_takes_two_round_trips_to_each_master() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    metrics::with_local_recorder(&recorder, || {
        runtime.block_on(async {
            let layer = connect(config(shared_cluster())).await;
            let groups: Vec<_> = (0..1000).map(|number| format!("room.{number}")).collect();
            add(&layer, &groups, &members()).await;
            round_trips(&snapshotter);
            send_to_all(&layer, &groups).await;
            let trips = round_trips(&snapshotter);
            // A slow run may write counters meanwhile, in one trip for each channel and one for all.
            assert!((6..=10).contains(&trips), "{trips} round trips");
        });
    });
}

#[tokio::test]
async fn only_groups_that_have_moved_are_looked_up_again_one_by_one() {
    let cluster = Cluster::without_replicas().await;
    let layer = connect(config(&cluster)).await;
    let slots = (0..400).map(|slot| name_in("room.", slot..slot + 1, 'g'));
    let groups: Vec<_> = slots.collect();
    add(&layer, &groups, &members()).await;
    let moved = slot_of(&groups[7]);
    cluster.move_slots(moved..moved + 1, 0, 1).await;
    let before = cluster.nodes[0].statistic("evalsha", "calls").await;
    send_to_all(&layer, &groups).await;
    let calls = cluster.nodes[0].statistic("evalsha", "calls").await - before;
    // One lookup for each group, and one call for the messages to the member there.
    assert!(calls <= groups.len() + 1, "{calls} calls");
    let mut receiver =
        layer.receiver(&members().iter().map(|name| &name[..name.len() - 1]).collect::<Vec<_>>()).unwrap();
    for _ in &groups {
        within(DEADLINE, "a message", receiver.recv()).await.unwrap();
    }
}

#[tokio::test]
async fn no_member_from_before_a_failover_gets_a_message_that_the_new_master_does_not_know_it_for() {
    let cluster = Cluster::start().await;
    let config = config(&cluster).command_timeout(std::time::Duration::from_secs(15));
    let (writer, reader) = (connect(config.clone()).await, connect(config).await);
    let (group, source) = (name_in("room.", 0..400, 'g'), name_in("send.", 6000..6400, '!'));
    let member = |local: &str| format!("{source}{local}");
    for local in ["a", "b"] {
        writer.group_add(&group, &member(local)).await.unwrap();
    }
    let mut receiver = reader.receiver(&[&source]).unwrap();
    writer.group_send(&group, message! { "number": 1 }).await.unwrap();
    for _ in ["a", "b"] {
        within(DEADLINE, "a message of the members so far", receiver.recv()).await.unwrap();
    }
    // The replica takes over without the group.
    let replica = &cluster.nodes[3];
    eventually("the group on the replica", async || {
        let keys: Vec<String> = replica.ask(redis::cmd("KEYS").arg("*:group:*")).await;
        (!keys.is_empty()).then_some(())
    })
    .await;
    replica.ask::<()>(redis::cmd("CONFIG").arg("SET").arg("replica-read-only").arg("no")).await;
    replica.ask::<()>(&redis::cmd("FLUSHALL")).await;
    cluster.fail_over(3).await;
    writer.group_add(&group, &member("c")).await.unwrap();
    writer.group_send(&group, message! { "number": 2 }).await.unwrap();
    writer.send(&member("last"), message! { "number": 3 }).await.unwrap();
    let mut got = Vec::new();
    while got.last() != Some(&member("last")) {
        let delivery = within(DEADLINE, "a message", receiver.recv()).await.unwrap();
        got.push(delivery.channel.to_string());
    }
    assert_eq!(got, [member("c"), member("last")]);
}
