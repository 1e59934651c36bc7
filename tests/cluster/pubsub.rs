//! `PubSubLayer` on a cluster, through one of its nodes.

use std::time::Duration;

use channel_layer::{ChannelLayer, Config, Mode, PubSubLayer};
use metrics_util::debugging::DebuggingRecorder;

use super::tools::all;
use crate::pubsub::tools::{mode, next, numbered};
use crate::support::{Cluster, Counts, DEADLINE, RedisServer, eventually, within};

fn config(cluster: &Cluster) -> Config {
    Config::new()
        .cluster(true)
        .hosts(cluster.urls(0..cluster.nodes.len()))
        .command_timeout(Duration::from_secs(1))
        .return_after(Duration::from_millis(200))
}

async fn connect(config: Config) -> PubSubLayer {
    within(DEADLINE, "a layer", PubSubLayer::connect(config)).await.unwrap()
}

/// The index of the node that has a subscribed client.
async fn node_of(cluster: &Cluster, topic: &str) -> usize {
    eventually("a subscription", async || {
        for (index, node) in cluster.nodes.iter().enumerate() {
            let topics: Vec<String> = node.ask(redis::cmd("PUBSUB").arg("CHANNELS")).await;
            if topics.iter().any(|one| one == topic) {
                return Some(index);
            }
        }
        None
    })
    .await
}

#[tokio::test]
async fn messages_reach_processes_on_other_nodes() {
    let recorder = DebuggingRecorder::new();
    let mut counts = Counts::of(&recorder);
    let _recording = metrics::set_default_local_recorder(&recorder);
    let cluster = Cluster::start().await;
    let mut config = config(&cluster);
    let mut layers = Vec::new();
    // Each has another seed, and all of them are used.
    for url in cluster.urls(0..3) {
        config = config.hosts([url]);
        layers.push(connect(config.clone()).await);
    }
    let mut receivers: Vec<_> = layers.iter().map(|layer| layer.receiver(&["news"]).unwrap()).collect();
    for layer in &layers {
        layer.subscribe(&["news"]).await.unwrap();
    }
    for (layer, number) in layers.iter().zip(1..) {
        layer.send("news", numbered(number)).await.unwrap();
        for receiver in &mut receivers {
            assert_eq!(next(receiver).await, number);
        }
    }
    let sender = connect(config).await;
    sender.send("news", numbered(4)).await.unwrap();
    for receiver in &mut receivers {
        assert_eq!(next(receiver).await, 4);
    }
    assert_eq!(counts.dropped("no_reader"), 0, "a node knows its own readers only");
}

#[tokio::test]
async fn a_layer_changes_the_node_when_its_node_is_stopped() {
    let mut cluster = Cluster::start().await;
    let layer = connect(config(&cluster)).await;
    let mut receiver = layer.receiver(&["news"]).unwrap();
    layer.subscribe(&["news"]).await.unwrap();
    let used = node_of(&cluster, "news").await;
    cluster.nodes[used].server.stop();
    mode(&layer, Mode::LocalOnly).await;
    mode(&layer, Mode::Remote).await;
    layer.send("news", numbered(1)).await.unwrap();
    assert_eq!(next(&mut receiver).await, 1);
}

#[tokio::test]
async fn a_layer_leaves_a_node_that_is_cut_off_from_the_others() {
    let cluster = Cluster::without_replicas().await;
    let (one, other) = (connect(config(&cluster)).await, connect(config(&cluster)).await);
    for layer in [&one, &other] {
        layer.subscribe(&["news"]).await.unwrap();
    }
    let mut receiver = other.receiver(&["news"]).unwrap();
    one.subscribe(&["of-one"]).await.unwrap();
    let used = node_of(&cluster, "of-one").await;
    // The node answers, and knows no other node any more.
    for node in cluster.nodes.iter().filter(|node| node.id != cluster.nodes[used].id) {
        cluster.nodes[used].cluster::<()>(&["FORGET", &node.id]).await;
    }
    eventually("another node", async || (node_of(&cluster, "of-one").await != used).then_some(())).await;
    mode(&one, Mode::Remote).await;
    mode(&other, Mode::Remote).await;
    one.send("news", numbered(1)).await.unwrap();
    assert_eq!(next(&mut receiver).await, 1);
}

#[tokio::test]
async fn a_layer_keeps_its_node_while_another_master_fails() {
    let mut cluster = Cluster::start().await;
    let layer = connect(config(&cluster)).await;
    layer.subscribe(&["news"]).await.unwrap();
    let used = node_of(&cluster, "news").await;
    // Neither this node nor its replica.
    let failing = usize::from(used % Cluster::MASTERS == 0);
    let mut events = layer.events();
    cluster.nodes[failing].server.stop();
    cluster.becomes_master(failing + Cluster::MASTERS).await;
    cluster.works(&[used]).await;
    assert_eq!(all(&mut events), []);
}

#[tokio::test]
async fn a_server_without_cluster_mode_is_refused() {
    let server = RedisServer::start();
    let config = Config::new().cluster(true).host(&*server.url());
    let error = within(DEADLINE, "a refusal", PubSubLayer::connect(config)).await.unwrap_err();
    assert!(error.to_string().contains("remove `cluster = true`"), "{error}");
}
