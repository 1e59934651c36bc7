//! Behaviour of the pub/sub format only: each process that reads a channel gets all its messages, and readers skip
//! garbage.

use redis::AsyncCommands;

use super::ends::{Ends, number, numbered};
use super::garbage::bodies;
use super::rust::RustLayer;
use super::side::Side;
use super::site::{Package, Site};
use crate::support::{eventually, random_prefix, shared_cluster};

#[tokio::test]
async fn every_process_gets_all_messages_of_a_normal_channel() {
    let ends = Ends::of(Site::pubsub()).await;
    let (other, channel) = (ends.site.rust().await, random_prefix());
    for (sender, expected) in [(&ends.python as &dyn Side, 1), (&ends.rust, 2)] {
        let send = async {
            ends.site.subscribed_by(3, &channel).await;
            sender.send(&channel, &numbered(expected)).await;
        };
        let received =
            tokio::join!(number(&ends.python, &channel), number(&ends.rust, &channel), number(&other, &channel), send);
        assert_eq!((received.0, received.1, received.2), (expected, expected, expected));
    }
}

#[tokio::test]
async fn a_group_spans_the_processes_of_both_languages() {
    let ends = Ends::of(Site::pubsub().on_two_hosts()).await;
    let other = ends.site.python().await;
    let sides: [&dyn Side; 3] = [&ends.python, &ends.rust, &other];
    let mut members = Vec::new();
    for side in sides {
        let member = side.new_local_channel().await;
        side.group_add("room", &member).await;
        members.push(member);
    }
    ends.site.subscribed_by(3, &ends.site.group_subscription("room")).await;
    for (sender, expected) in sides.iter().zip(1..) {
        sender.group_send("room", &numbered(expected)).await;
        for (side, member) in sides.iter().zip(&members) {
            assert_eq!(number(*side, member).await, expected);
        }
    }
}

/// Python hashes the Redis channels over the nodes, and Rust uses one node.
#[tokio::test]
async fn both_languages_share_all_channels_of_a_cluster() {
    let cluster = shared_cluster();
    let site = Site::pubsub().on(cluster.urls(0..cluster.nodes.len()));
    let (python, rust) = (site.python().await, RustLayer::open(Package::PubSub, site.config().cluster(true)).await);
    let subscribed = async |channel: &str| {
        eventually("two subscribers", async || {
            let mut subscribers = 0;
            for node in &cluster.nodes {
                let (_, count): (String, i64) = node.ask(redis::cmd("PUBSUB").arg("NUMSUB").arg(channel)).await;
                subscribers += count;
            }
            (subscribers == 2).then_some(())
        })
        .await;
    };
    let sides: [&dyn Side; 2] = [&python, &rust];
    for (sender, expected) in sides.iter().cycle().zip(0..6) {
        let channel = random_prefix();
        let send = async {
            subscribed(&channel).await;
            sender.send(&channel, &numbered(expected)).await;
        };
        let received = tokio::join!(number(&python, &channel), number(&rust, &channel), send);
        assert_eq!((received.0, received.1), (expected, expected));
    }
}

async fn a_reader_continues_after_garbage(site: Site) {
    let ends = Ends::of(site).await;
    let mut redis = ends.site.redis().await;
    let channel = ends.rust.new_local_channel().await;
    ends.rust.group_add("room", &channel).await;
    let group = ends.site.group_subscription("room");
    for body in bodies() {
        for subscription in [&channel, &group] {
            let subscribers: i64 = redis.publish(subscription, &body).await.unwrap();
            assert_eq!(subscribers, 1);
        }
    }
    ends.python.send(&channel, &numbered(1)).await;
    assert_eq!(number(&ends.rust, &channel).await, 1);
    ends.python.group_send("room", &numbered(2)).await;
    assert_eq!(number(&ends.rust, &channel).await, 2);
}

#[tokio::test]
async fn a_reader_continues_after_garbage_in_message_pack() {
    a_reader_continues_after_garbage(Site::pubsub()).await;
}

#[tokio::test]
async fn a_reader_continues_after_garbage_in_json() {
    a_reader_continues_after_garbage(Site::pubsub().json()).await;
}

#[tokio::test]
async fn a_reader_continues_after_garbage_with_encryption() {
    a_reader_continues_after_garbage(Site::pubsub().fernet()).await;
}
