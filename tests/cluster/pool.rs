//! Connections to a cluster: each channel that is read needs one, and a closed layer has none.

use std::sync::Arc;

use channel_layer::{ChannelLayer, Error, PubSubLayer, message};

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
    assert_eq!(log.text().matches("raise pool_size").count(), 1);
}
