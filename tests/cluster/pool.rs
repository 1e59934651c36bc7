//! Connections to a cluster: each channel that is read needs one, and a closed layer has none.

use std::sync::Arc;
use std::time::Duration;

use channel_layer::{ChannelLayer, Error, PubSubLayer, message};
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};

use super::tools::{config, connect, name_in};
use crate::support::{Cluster, DEADLINE, Log, eventually, shared_cluster, within};

#[tokio::test]
async fn a_closed_layer_has_no_connection_to_a_node() {
    let cluster = Cluster::without_replicas().await;
    let config = config(&cluster);
    let sharded = config.clone().sharded_pubsub(true);
    let layers: [Arc<dyn ChannelLayer>; 3] = [
        connect(config.clone()).await,
        Arc::new(PubSubLayer::connect(config).await.unwrap()),
        Arc::new(PubSubLayer::connect(sharded).await.unwrap()),
    ];
    for layer in &layers {
        layer.send("jobs", message! {}).await.unwrap();
        layer.close().await.unwrap();
    }
    for node in &cluster.nodes {
        eventually("the end of all connections", async || {
            let clients: String = node.ask(redis::cmd("CLIENT").arg("LIST")).await;
            // The connection that asks is one.
            (clients.lines().count() == 1).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn readers_of_more_channels_than_connections_get_an_error_and_the_log_says_so_once() {
    let log = Log::default();
    let _kept = log.keep();
    let layer = connect(config(shared_cluster()).pool_size(1)).await;
    let names: Vec<_> = (0..3_u16).map(|number| name_in("jobs.", number..number + 1, 'x')).collect();
    let mut receiver = layer.receiver(&names.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
    for _ in 0..2 {
        let error = within(DEADLINE, "an error", receiver.recv()).await.unwrap_err();
        assert!(matches!(error, Error::Redis { .. }) && error.to_string().contains("pool_size"), "{error}");
    }
    let text = log.text();
    let warnings: Vec<_> = text.lines().filter(|line| line.contains("further readers get errors")).collect();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(["needed=2", "needed=3"].iter().any(|needed| warnings[0].contains(needed)), "{warnings:?}");
}

/// The values of these gauges, each summed over its labels. A snapshot empties the recorder.
fn gauges<const N: usize>(snapshotter: &Snapshotter, names: [&str; N]) -> [f64; N] {
    let metrics = snapshotter.snapshot().into_vec();
    names.map(|name| {
        let values = metrics.iter().filter(|(key, ..)| key.key().name() == name).map(|(.., value)| match value {
            DebugValue::Gauge(value) => value.into_inner(),
            other => panic!("{name} is {other:?}"),
        });
        values.sum()
    })
}

#[test]
fn the_connections_of_readers_are_in_the_health_report_and_in_gauges() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    metrics::with_local_recorder(&recorder, || {
        runtime.block_on(async {
            let layer = connect(config(shared_cluster()).pool_size(2).connect_timeout(Duration::from_mins(2))).await;
            let shown = async || {
                let shards = layer.health().await.shards.into_iter();
                let connections: Vec<_> = shards.filter_map(|shard| shard.blocking_connections).collect();
                assert!(connections.len() == 3 && connections.iter().all(|shard| shard.limit == 2), "{connections:?}");
                connections.iter().fold((0, 0), |sum, shard| (sum.0 + shard.used, sum.1 + shard.waiting))
            };
            assert_eq!(shown().await, (0, 0));
            // All are on the first master.
            let names: Vec<_> = (0..3_u16).map(|number| name_in("jobs.", number..number + 1, 'x')).collect();
            let mut receiver = layer.receiver(&names.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
            let mut reading = std::pin::pin!(receiver.recv());
            let names = ["channel_layer_blocking_connections", "channel_layer_blocking_connections_limit"];
            // A snapshot sets gauges to zero. One connection may still be opened when the health report counts it.
            let mut values = [0.0; 2];
            let waits = eventually("three reads", async || {
                let added = gauges(&snapshotter, names);
                values = std::array::from_fn(|index| values[index] + added[index]);
                (shown().await == (2, 1) && values.map(|value| value.to_string()) == ["2", "6"]).then_some(())
            });
            tokio::select! {
                result = &mut reading => panic!("{result:?}"),
                () = waits => {}
            }
        });
    });
}
