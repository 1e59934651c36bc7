//! The first contact with a cluster: seeds, users, and the commands of the access list.

use std::time::Duration;

use channel_layer::{ChannelLayer, Config, message};

use super::tools::{config, connect, name_in, slot_of};
use crate::redis::tools::publishes;
use crate::support::{Cluster, DEADLINE, ReservedPort, shared_cluster, within};

const ACCESS_LIST: &str = include_str!("../../deploy/redis/users.acl");

#[tokio::test]
async fn one_seed_that_answers_leads_to_all_nodes() {
    let cluster = shared_cluster();
    let dead = ReservedPort::new();
    let seeds = [format!("redis://127.0.0.1:{}", dead.number()), cluster.nodes[1].server.url()];
    let layer = connect(config(cluster).hosts(seeds)).await;
    for slot in [0, 6000, 12000] {
        let channel = name_in("jobs.", slot..slot + 400, 'x');
        layer.send(&channel, message! { "number": 1 }).await.unwrap();
        let delivery = within(DEADLINE, "a message", layer.receive(&[&channel])).await.unwrap();
        assert_eq!(delivery.message.int("number"), Some(1));
    }
    assert_eq!(layer.health().await.shards.len(), Cluster::MASTERS);
}

#[tokio::test]
async fn the_user_of_the_native_format_may_use_a_cluster_whose_slots_move() {
    let cluster = Cluster::without_replicas().await;
    let urls = urls_for(&cluster, "channel-layer").await;
    // The access list allows only keys with the default prefixes.
    let layer = connect(Config::new().cluster(true).hosts(urls).blocking_timeout(Duration::from_secs(1))).await;
    let (channel, group) = (name_in("send.", 0..5000, '!'), "room");
    cluster.begin_move(slot_of(&channel), 0, 1).await;
    let member = format!("{channel}ada");
    layer.group_add(group, &member).await.unwrap();
    layer.group_send(group, message! { "number": 1 }).await.unwrap();
    let delivery = within(DEADLINE, "a message of the group", layer.receive(&[&channel])).await.unwrap();
    assert_eq!(delivery.message.int("number"), Some(1));
    layer.send(&member, message! { "number": 2 }).await.unwrap();
    cluster.end_move(slot_of(&channel), 1, &[0]).await;
    assert_eq!(layer.channel_statistics(&channel).await.unwrap().messages_pending, 1);
    layer.group_discard(group, &member).await.unwrap();
    layer.flush().await.unwrap();
    layer.close().await.unwrap();
    assert_nothing_refused(&cluster).await;
}

#[tokio::test]
async fn the_user_of_pubsub_may_use_a_cluster() {
    let cluster = Cluster::without_replicas().await;
    let urls = urls_for(&cluster, "channel-layer-pubsub").await;
    let config = Config::new().cluster(true).hosts(urls);
    publishes(config.clone()).await;
    publishes(config.sharded_pubsub(true)).await;
    assert_nothing_refused(&cluster).await;
}

/// Creates a user of the access list on all nodes. Returns their URLs with its login.
async fn urls_for(cluster: &Cluster, user: &str) -> Vec<String> {
    let rules = ACCESS_LIST.lines().find_map(|line| line.strip_prefix(&format!("user {user} "))).unwrap();
    for node in &cluster.nodes {
        let mut command = redis::cmd("ACL");
        command.arg("SETUSER").arg(user).arg(rules.split_whitespace().collect::<Vec<_>>());
        node.ask::<()>(&command).await;
    }
    let urls = cluster.urls(0..cluster.nodes.len());
    urls.iter().map(|url| url.replace("redis://", &format!("redis://{user}:change-me@"))).collect()
}

async fn assert_nothing_refused(cluster: &Cluster) {
    for node in &cluster.nodes {
        let refused: Vec<redis::Value> = node.ask(redis::cmd("ACL").arg("LOG")).await;
        assert_eq!(refused, [], "commands that the access list does not allow");
    }
}
