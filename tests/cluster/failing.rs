//! Nodes that fail.

use std::sync::Arc;
use std::time::Duration;

use channel_layer::{ChannelLayer, Event, RedisLayer, message};
use tokio::sync::broadcast;
use tokio::time::Instant;

use super::load::Load;
use super::tools::{assert_no_data_lost, config, connect, name_in};
use crate::support::{Cluster, DEADLINE, NO_NODE_TIMEOUT, eventually, within};

/// How long after the death of a master a call may return that the master has answered.
const ON_THE_WAY: Duration = Duration::from_secs(1);
/// How long after a master has been replaced its messages arrive again at the latest.
const RECOVERY: Duration = Duration::from_secs(2);

/// A load on a channel of each of three masters, once messages arrive.
async fn load_of_each_master(writer: &Arc<RedisLayer>, reader: &Arc<RedisLayer>) -> Load {
    let channels: Vec<_> = [0, 6000, 12000].map(|slot| format!("{}x", name_in("send.", slot..slot + 400, '!'))).into();
    let load = Load::start(writer, reader, &channels);
    load.has_begun().await;
    load
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_takes_over_from_a_killed_master() {
    let mut cluster = Cluster::start().await;
    let config = config(&cluster);
    let (writer, reader) = (connect(config.clone()).await, connect(config).await);
    // A promoted node knows no script.
    cluster.nodes[3].ask::<()>(redis::cmd("SCRIPT").arg("FLUSH")).await;
    let probed = name_in("probed.", 0..400, 'x');
    let load = load_of_each_master(&writer, &reader).await;
    let since = Instant::now();
    cluster.replicates(0, 3).await;
    cluster.nodes[0].server.stop();
    let killed = Instant::now();
    cluster.becomes_master(3).await;
    let replaced = killed.elapsed();
    eventually("a send to the new master", async || writer.send(&probed, message! { "number": 1 }).await.ok()).await;
    let outcome = load.finish().await;
    assert!(
        outcome.errors().iter().all(|error| error.is_transient() || error.may_have_run()),
        "{:?}",
        outcome.errors()
    );
    outcome.assert_whole(&[(since, killed + ON_THE_WAY)]);
    let silence = outcome.longest_silence();
    assert!(silence <= replaced + RECOVERY, "no message for {silence:?}, and a new master after {replaced:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_takes_over_from_a_master_that_hangs_and_comes_back() {
    let mut cluster = Cluster::start().await;
    let config = config(&cluster);
    let (writer, reader) = (connect(config.clone()).await, connect(config).await);
    let probed = name_in("probed.", 0..400, 'x');
    let load = load_of_each_master(&writer, &reader).await;
    let since = Instant::now();
    cluster.replicates(0, 3).await;
    cluster.nodes[0].server.freeze();
    let frozen = Instant::now();
    cluster.becomes_master(3).await;
    eventually("a send to the new master", async || writer.send(&probed, message! { "number": 1 }).await.ok()).await;
    // The old master has commands to run that it got before it hung. Their answers reach nobody.
    cluster.nodes[0].server.thaw();
    eventually("the old master as a replica", async || cluster.master_of(0).await).await;
    load.finish().await.assert_whole(&[(since, frozen + ON_THE_WAY)]);
}

#[tokio::test]
async fn the_slots_of_other_masters_work_while_one_is_down_without_a_replica() {
    let mut cluster = Cluster::with(&["--cluster-require-full-coverage", "no"], false).await;
    let layer = connect(config(&cluster)).await;
    let mut events = layer.events();
    let [lost, kept] = [0, 6000].map(|slot| format!("{}x", name_in("send.", slot..slot + 400, '!')));
    cluster.nodes[0].server.stop();
    eventually("an outage", async || layer.send(&lost, message! { "number": 1 }).await.err()).await;
    layer.send(&kept, message! { "number": 1 }).await.unwrap();
    let error = layer.send(&lost, message! { "number": 2 }).await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    cluster.nodes[0].server.start_again();
    eventually("a send after the return", async || layer.send(&lost, message! { "number": 3 }).await.ok()).await;
    loss_is_announced(&mut events).await;
}

#[tokio::test]
async fn a_durable_master_without_a_replica_returns_with_its_messages_after_the_node_timeout() {
    let mut cluster = Cluster::with(&["--appendonly", "yes", "--appendfsync", "always"], false).await;
    let layer = connect(config(&cluster)).await;
    let (channel, mut events) = (name_in("jobs.", 0..400, 'x'), layer.events());
    layer.send(&channel, message! { "number": 1 }).await.unwrap();
    cluster.nodes[0].server.stop();
    eventually("nodes that count it as failed", async || {
        let info: String = cluster.nodes[1].cluster(&["INFO"]).await;
        info.contains("cluster_state:fail").then_some(())
    })
    .await;
    layer.send(&channel, message! { "number": 2 }).await.unwrap_err();
    cluster.nodes[0].server.start_again();
    cluster.works(&[0, 1, 2]).await;
    eventually("a send after the return", async || layer.send(&channel, message! { "number": 3 }).await.ok()).await;
    for number in [1, 3] {
        let delivery = within(DEADLINE, "a message", layer.receive(&[&channel])).await.unwrap();
        assert_eq!(delivery.message.int("number"), Some(number));
    }
    assert_no_data_lost(&mut events);
}

#[tokio::test]
async fn a_master_that_returns_empty_within_the_node_timeout_is_announced() {
    // Its replica empties itself too.
    for replicated in [false, true] {
        let mut cluster = Cluster::with(&NO_NODE_TIMEOUT, replicated).await;
        let layer = connect(config(&cluster)).await;
        let mut events = layer.events();
        cluster.nodes[0].server.restart();
        loss_is_announced(&mut events).await;
    }
}

#[tokio::test]
async fn a_replica_that_takes_over_without_the_data_is_announced() {
    let cluster = Cluster::start().await;
    let config = config(&cluster);
    let _other = connect(config.clone()).await;
    let replica = &cluster.nodes[3];
    eventually("the epoch on the replica", async || {
        let keys: Vec<String> = replica.ask(redis::cmd("KEYS").arg("*:epoch:*")).await;
        (!keys.is_empty()).then_some(())
    })
    .await;
    for node in &cluster.nodes {
        eventually("a layout with all replicas", async || {
            let ranges: Vec<Vec<redis::Value>> = node.cluster(&["SLOTS"]).await;
            // First and last slot, the master and the replica.
            ranges.iter().all(|range| range.len() == 4).then_some(())
        })
        .await;
    }
    let layer = connect(config).await;
    let mut events = layer.events();
    replica.ask::<()>(redis::cmd("CONFIG").arg("SET").arg("replica-read-only").arg("no")).await;
    replica.ask::<()>(&redis::cmd("FLUSHALL")).await;
    cluster.fail_over(3).await;
    loss_is_announced(&mut events).await;
}

async fn loss_is_announced(events: &mut broadcast::Receiver<Event>) {
    let lost = async { while !matches!(events.recv().await.unwrap(), Event::DataLost { .. }) {} };
    within(DEADLINE, "the announcement of the loss", lost).await;
}

#[tokio::test]
async fn messages_survive_the_restart_of_all_durable_nodes() {
    let mut cluster = Cluster::with(&["--appendonly", "yes", "--appendfsync", "always"], false).await;
    let layer = connect(config(&cluster)).await;
    let channels: Vec<_> = [0, 6000, 12000].map(|slot| name_in("send.", slot..slot + 400, '!')).into();
    for channel in &channels {
        layer.send(&format!("{channel}x"), message! { "number": 1 }).await.unwrap();
    }
    let mut events = layer.events();
    for node in &mut cluster.nodes {
        node.server.restart();
    }
    cluster.works(&[0, 1, 2]).await;
    for channel in &channels {
        let delivery = eventually("the message", async || layer.receive(&[channel]).await.ok()).await;
        assert_eq!(delivery.message.int("number"), Some(1));
    }
    assert_no_data_lost(&mut events);
}
