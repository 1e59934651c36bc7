//! Sharded publish and subscribe in a slot that no node serves: calls wait for one command timeout at most.

use std::time::Duration;

use channel_layer::health::Status;
use channel_layer::{ChannelLayer, Config, Error, Fallback, Mode, PubSubLayer};

use super::sharded_pubsub::{config, connect};
use super::tools::slot_of;
use crate::pubsub::tools::{next, numbered};
use crate::support::{Cluster, DEADLINE, eventually, within};

const CHANNEL: &str = "news";

/// A cluster in which slots without a node do not concern the others.
async fn cluster() -> Cluster {
    Cluster::with(&["--cluster-require-full-coverage", "no"], false).await
}

fn brief(cluster: &Cluster) -> Config {
    config(cluster).command_timeout(Duration::from_secs(1))
}

/// The slot of the Redis channel, to which a layer is subscribed, and the index of its node.
async fn place(cluster: &Cluster) -> (String, usize) {
    for (index, node) in cluster.nodes.iter().enumerate() {
        let topics: Vec<String> = node.ask(redis::cmd("PUBSUB").arg("SHARDCHANNELS")).await;
        if let Some(tag) = topics.iter().find_map(|topic| topic.strip_prefix('{')?.strip_suffix("}news")) {
            return (slot_of(tag).to_string(), index);
        }
    }
    panic!("no layer is subscribed");
}

async fn unserve(cluster: &Cluster, slot: &str) {
    for node in &cluster.nodes {
        node.cluster::<()>(&["DELSLOTS", slot]).await;
    }
}

async fn is_healthy(layer: &PubSubLayer, expected: Status) {
    eventually("the health", async || (layer.health().await.status == expected).then_some(())).await;
}

/// Subscribes to other channels without a pause. Never returns.
async fn subscribe_again_and_again(layer: &PubSubLayer) {
    for number in 0.. {
        let names: Vec<_> = (0..10).map(|of_many| format!("other.{number}.{of_many}")).collect();
        layer.subscribe(&names.iter().map(String::as_str).collect::<Vec<_>>()).await.unwrap();
    }
}

#[tokio::test]
async fn messages_of_a_slot_without_a_node_stay_in_the_process() {
    let cluster = cluster().await;
    let (one, other) = (connect(brief(&cluster)).await, connect(brief(&cluster)).await);
    one.subscribe(&[CHANNEL]).await.unwrap();
    let mut receiver = one.receiver(&[CHANNEL]).unwrap();
    let (slot, node) = place(&cluster).await;
    unserve(&cluster, &slot).await;
    let subscribing = async {
        // Both a subscription that the node has ended and a new one.
        one.subscribe(&[CHANNEL]).await.unwrap();
        other.subscribe(&[CHANNEL]).await.unwrap();
        assert!(other.try_receive(&[CHANNEL]).await.unwrap().is_none());
    };
    within(DEADLINE, "subscriptions", subscribing).await;
    within(DEADLINE, "a send", one.send(CHANNEL, numbered(1))).await.unwrap();
    assert_eq!(next(&mut receiver).await, 1);
    assert_eq!(one.status().iter().map(|status| status.stayed_local).sum::<u64>(), 1);
    is_healthy(&one, Status::Unhealthy).await;
    assert_eq!(*one.mode().borrow(), Mode::Remote, "the node serves its other slots");

    cluster.nodes[node].cluster::<()>(&["ADDSLOTS", &slot]).await;
    let served = async {
        is_healthy(&one, Status::Healthy).await;
        is_healthy(&other, Status::Healthy).await;
    };
    // Subscriptions that were postponed are requested again in a busy process too.
    tokio::select! {
        () = subscribe_again_and_again(&one) => {}
        () = served => {}
    }
    other.send(CHANNEL, numbered(2)).await.unwrap();
    assert_eq!(next(&mut receiver).await, 2);
}

#[tokio::test]
async fn without_a_fallback_calls_for_a_slot_without_a_node_fail() {
    let cluster = cluster().await;
    let config = brief(&cluster).fallback(Fallback::Fail);
    let (one, other) = (connect(config.clone()).await, connect(config).await);
    one.subscribe(&[CHANNEL]).await.unwrap();
    let mut receiver = one.receiver(&[CHANNEL]).unwrap();
    let (slot, node) = place(&cluster).await;
    unserve(&cluster, &slot).await;
    let subscribed = within(DEADLINE, "a subscription", other.subscribe(&[CHANNEL])).await;
    assert!(matches!(subscribed, Err(Error::Redis { .. })), "{subscribed:?}");
    let sent = within(DEADLINE, "a send", one.send(CHANNEL, numbered(1))).await;
    assert!(matches!(sent, Err(Error::Redis { .. })), "{sent:?}");
    let outage = within(DEADLINE, "the outage", receiver.recv()).await;
    assert!(matches!(outage, Err(Error::Redis { .. })), "{outage:?}");
    is_healthy(&one, Status::Unhealthy).await;

    cluster.nodes[node].cluster::<()>(&["ADDSLOTS", &slot]).await;
    is_healthy(&one, Status::Healthy).await;
    eventually("a send", async || other.send(CHANNEL, numbered(2)).await.ok()).await;
    assert_eq!(next(&mut receiver).await, 2);
}
