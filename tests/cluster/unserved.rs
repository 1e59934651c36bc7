//! Slots that no node serves for a while: calls that work on several channels wait for one command timeout at most, and
//! not for each channel.

use std::time::Duration;

use channel_layer::{ChannelLayer, message};

use super::tools::{LONG, config, connect, name_in, slot_of};
use crate::support::{Cluster, DEADLINE, eventually, within};

/// A cluster in which slots without a node do not concern the others.
async fn cluster() -> Cluster {
    Cluster::with(&["--cluster-require-full-coverage", "no"], false).await
}

#[tokio::test]
async fn a_reader_delivers_entries_that_cannot_be_put_back_because_no_node_serves_their_slot() {
    let cluster = cluster().await;
    let config = config(&cluster);
    let (writer, reader) = (connect(config.clone()).await, connect(config.command_timeout(LONG)).await);
    let channel = name_in("send.", 0..5000, '!');
    let (member, slot) = (format!("{channel}x"), slot_of(&channel).to_string());
    let mut receiver = reader.receiver(&[&channel]).unwrap();
    eventually("an entry in the buffer of the reader", async || {
        for number in 1..=3 {
            writer.send(&member, message! { "number": number }).await.unwrap();
        }
        // Afterwards no counters are written any more.
        writer.channel_statistics(&channel).await.unwrap();
        // The first read takes one entry, and the second one the others.
        for number in 1..=2 {
            assert_eq!(receiver.recv().await.unwrap().message.int("number"), Some(number));
        }
        cluster.nodes[0].cluster::<()>(&["DELSLOTS", &slot]).await;
        let left: usize = cluster.nodes[0].cluster(&["COUNTKEYSINSLOT", &slot]).await;
        // The keys are the list, if the entry has been put back already, and the counters.
        if left < 2 {
            return Some(());
        }
        cluster.nodes[0].cluster::<()>(&["ADDSLOTS", &slot]).await;
        receiver.recv().await.unwrap();
        None
    })
    .await;
    eventually("an attempt to put the entry back", async || {
        (cluster.nodes[0].statistic("evalsha", "rejected_calls").await > 0).then_some(())
    })
    .await;
    let delivery = within(DEADLINE, "the entry", receiver.recv()).await.unwrap();
    assert_eq!(delivery.message.int("number"), Some(3));
}

#[tokio::test]
async fn a_poll_returns_a_message_of_one_channel_while_no_node_serves_the_slot_of_another() {
    let cluster = cluster().await;
    let layer = connect(config(&cluster).command_timeout(LONG)).await;
    let [unserved, served] = [0, 6000].map(|slot| name_in("jobs.", slot..slot + 100, 'x'));
    cluster.nodes[0].cluster::<()>(&["DELSLOTS", &slot_of(&unserved).to_string()]).await;
    for channels in [[&*unserved, &*served], [&*served, &*unserved]] {
        layer.send(&served, message! { "number": 1 }).await.unwrap();
        let polled = within(DEADLINE, "the message of the other channel", layer.try_receive(&channels)).await;
        assert_eq!(polled.unwrap().map(|delivery| delivery.message.int("number")), Some(Some(1)));
    }
}

#[tokio::test]
async fn a_send_that_waits_for_a_node_with_its_slot_holds_up_only_later_messages_to_its_channel() {
    let cluster = cluster().await;
    let layer = connect(config(&cluster).command_timeout(LONG)).await;
    let channel = name_in("jobs.", 0..100, 'x');
    // The master has two queues, and some of these channels use that of the first one.
    let others: Vec<_> = (1..9).map(|number: u16| name_in("jobs.", number * 100..number * 100 + 100, 'x')).collect();
    let slot = slot_of(&channel).to_string();
    cluster.nodes[0].cluster::<()>(&["DELSLOTS", &slot]).await;
    let send = |number: i64| {
        let (layer, channel) = (layer.clone(), channel.clone());
        tokio::spawn(async move { layer.send(&channel, message! { "number": number }).await })
    };
    let first = send(1);
    eventually("the first attempt", async || {
        (cluster.nodes[0].statistic("evalsha", "rejected_calls").await > 0).then_some(())
    })
    .await;
    let second = send(2);
    for other in &others {
        within(DEADLINE, "a send to another channel", layer.send(other, message! { "number": 1 })).await.unwrap();
    }
    assert!(!first.is_finished() && !second.is_finished());
    cluster.nodes[0].cluster::<()>(&["ADDSLOTS", &slot]).await;
    for sent in [first, second] {
        within(DEADLINE, "the end of the send", sent).await.unwrap().unwrap();
    }
    for number in 1..=2 {
        let delivery = within(DEADLINE, "a message", layer.receive(&[&channel])).await.unwrap();
        assert_eq!(delivery.message.int("number"), Some(number));
    }
}

#[tokio::test]
async fn the_counters_of_many_channels_wait_together_while_a_cluster_serves_no_slot() {
    let cluster = Cluster::without_replicas().await;
    let layer = connect(config(&cluster).command_timeout(Duration::from_secs(3))).await;
    let channels: Vec<_> = (0..3000).map(|number| format!("jobs.{number}")).collect();
    let messages: Vec<_> = channels.iter().map(|channel| (&**channel, message! { "number": 1 })).collect();
    for sent in layer.send_many(&messages).await {
        sent.unwrap();
    }
    for (index, node) in cluster.nodes.iter().enumerate() {
        // A node that knows a slot without a node refuses all commands.
        node.cluster::<()>(&["DELSLOTS", &(index * 6000).to_string()]).await;
    }
    let error = within(DEADLINE, "the end of the call", layer.channel_statistics(&channels[0])).await.unwrap_err();
    assert!(error.is_transient() && error.to_string().contains("CLUSTERDOWN"), "{error}");
}
