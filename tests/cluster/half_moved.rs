//! Slots whose migration does not end, and clusters that serve nothing.

use std::sync::Arc;
use std::time::Duration;

use channel_layer::{ChannelLayer, RedisLayer, message};

use super::tools::{LONG, config, connect, name_in, slot_of};
use crate::support::{Cluster, DEADLINE, eventually, within};

/// A group whose members cannot be looked up, because the keys of its slot are on two nodes.
struct HalfMoved {
    cluster: Cluster,
    writer: Arc<RedisLayer>,
    reader: Arc<RedisLayer>,
    group: String,
    /// The channel of the member, without its local part.
    channel: String,
}

impl HalfMoved {
    /// Sends a message with the number 1 to the group, and then moves a part of its keys.
    async fn start() -> Self {
        let cluster = Cluster::without_replicas().await;
        let config = config(&cluster).command_timeout(LONG);
        let (writer, reader) = (connect(config.clone()).await, connect(config).await);
        let (group, channel) = (name_in("room", 0..5000, 'x'), name_in("send.", 6000..9000, '!'));
        writer.group_add(&group, &format!("{channel}ada")).await.unwrap();
        let site = Self { cluster, writer, reader, group, channel };
        site.send_to_group(1).await;
        let slot = slot_of(&site.group);
        site.cluster.begin_move(slot, 0, 1).await;
        let mut keys: Vec<String> = site.cluster.nodes[0].cluster(&["GETKEYSINSLOT", &slot.to_string(), "100"]).await;
        // A send to the group needs only these keys.
        keys.retain(|key| !key.contains(":group:") && !key.contains(":route-ends:"));
        site.cluster.migrate(&keys, 0, 1).await;
        site
    }

    async fn send_to_group(&self, number: i64) {
        self.writer.group_send(&self.group, message! { "number": number }).await.unwrap();
    }

    /// Waits until the reader has taken all messages of the channel.
    async fn all_are_taken(&self) {
        eventually("a read of the messages of the channel", async || {
            let statistics = self.writer.channel_statistics(&self.channel).await.unwrap();
            (statistics.messages_pending == 0).then_some(())
        })
        .await;
    }

    async fn end(&self) {
        let slot = slot_of(&self.group);
        self.cluster.move_keys(slot, 0, 1).await;
        self.cluster.end_move(slot, 1, &[0]).await;
    }
}

#[tokio::test]
async fn a_channel_is_used_while_its_slot_moves_to_a_master_without_slots() {
    let mut cluster = Cluster::without_replicas().await;
    let layer = connect(config(&cluster)).await;
    let channel = name_in("jobs.", 0..5000, 'x');
    let added = cluster.add_node().await;
    cluster.begin_move(slot_of(&channel), 0, added).await;
    for number in 1..=2 {
        layer.send(&channel, message! { "number": number }).await.unwrap();
    }
    let delivery = within(DEADLINE, "a message on the new master", layer.receive(&[&channel])).await.unwrap();
    assert_eq!(delivery.message.int("number"), Some(1));
    cluster.end_move(slot_of(&channel), added, &[0]).await;
    let delivery = within(DEADLINE, "a message in a slot that has moved", layer.receive(&[&channel])).await.unwrap();
    assert_eq!(delivery.message.int("number"), Some(2));
}

#[tokio::test]
async fn calls_for_a_new_group_in_a_slot_that_stays_half_moved_fail_with_the_reason() {
    let cluster = Cluster::without_replicas().await;
    let layer = connect(config(&cluster).command_timeout(Duration::from_secs(1))).await;
    let (group, member) = (name_in("room", 0..5000, 'x'), "send.ada!1");
    cluster.begin_move(slot_of(&group), 0, 1).await;
    let error = layer.group_add(&group, member).await.unwrap_err();
    assert!(error.is_transient() && !error.may_have_run(), "{error:?}");
    assert!(error.to_string().contains("the slot is being migrated"), "{error}");
    cluster.end_move(slot_of(&group), 1, &[0]).await;
    layer.group_add(&group, member).await.unwrap();
    assert_eq!(layer.group_channels(&group).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_reader_delivers_other_messages_while_the_members_of_a_group_are_on_two_nodes() {
    let site = HalfMoved::start().await;
    let other = name_in("jobs.", 6000..9000, 'x');
    let mut receiver = site.reader.receiver(&[&site.channel, &other]).unwrap();
    let sending = async {
        site.all_are_taken().await;
        site.writer.send(&other, message! { "number": 2 }).await.unwrap();
    };
    let (delivery, ()) = tokio::join!(within(DEADLINE, "a message on another channel", receiver.recv()), sending);
    assert_eq!(delivery.unwrap().message.int("number"), Some(2));
    site.end().await;
    let delivery = within(DEADLINE, "the message of the group", receiver.recv()).await.unwrap();
    assert_eq!(delivery.message.int("number"), Some(1));
}

#[tokio::test]
async fn messages_to_a_group_in_a_slot_that_stays_half_moved_stop_their_channel_once() {
    let site = HalfMoved::start().await;
    let mut receiver = site.reader.receiver(&[&site.channel]).unwrap();
    let bob = format!("{}bob", site.channel);
    // Each of these would stop the channel for 5 s.
    let messages = async {
        for number in 2..12 {
            let sending = async {
                site.send_to_group(-number).await;
                site.writer.send(&bob, message! { "number": number }).await.unwrap();
            };
            let (delivery, ()) = tokio::join!(receiver.recv(), sending);
            assert_eq!(delivery.unwrap().message.int("number"), Some(number));
        }
    };
    within(DEADLINE, "the messages to another member", messages).await;
    site.end().await;
    for number in [1].into_iter().chain((2..12).map(|number| -number)) {
        let delivery = within(DEADLINE, "the messages of the group", receiver.recv()).await.unwrap();
        assert_eq!(delivery.message.int("number"), Some(number));
    }
}

#[tokio::test]
async fn a_reader_takes_many_messages_at_once_from_a_slot_that_stays_half_moved() {
    let cluster = Cluster::without_replicas().await;
    let layer = connect(config(&cluster)).await;
    let channel = name_in("send.", 0..5000, '!');
    let member = format!("{channel}x");
    let messages: Vec<_> = (0..300).map(|number| (&*member, message! { "number": number })).collect();
    for sent in layer.send_many(&messages).await {
        sent.unwrap();
    }
    cluster.begin_move(slot_of(&channel), 0, 1).await;
    cluster.move_keys(slot_of(&channel), 0, 1).await;
    cluster.nodes[1].ask::<()>(redis::cmd("CONFIG").arg("RESETSTAT")).await;
    let mut receiver = layer.receiver(&[&channel]).unwrap();
    for number in 0..300 {
        let delivery = within(DEADLINE, "a message", receiver.recv()).await.unwrap();
        assert_eq!(delivery.message.int("number"), Some(number));
    }
    let node = &cluster.nodes[1];
    let reads = node.statistic("blmpop", "calls").await + node.statistic("eval", "calls").await;
    assert!(reads < 20, "{reads} reads");
}

#[tokio::test]
async fn a_flush_is_not_repeated_for_messages_to_a_slot_that_stays_half_moved() {
    let cluster = Cluster::without_replicas().await;
    let layer = connect(config(&cluster)).await;
    let channel = name_in("jobs.", 0..5000, 'x');
    cluster.begin_move(slot_of(&channel), 0, 1).await;
    layer.send(&channel, message! { "number": 1 }).await.unwrap();
    cluster.nodes[2].ask::<()>(redis::cmd("CONFIG").arg("RESETSTAT")).await;
    let sending = async {
        loop {
            layer.send(&channel, message! { "number": 2 }).await.unwrap();
        }
    };
    tokio::select! {
        flushed = within(DEADLINE, "a flush", layer.flush()) => flushed.unwrap(),
        () = sending => {}
    }
    let scans = cluster.nodes[2].statistic("scan", "calls").await;
    assert_eq!(scans, 4, "two passes with two patterns");
}

#[tokio::test]
async fn closing_does_not_wait_for_a_cluster_that_is_down() {
    let mut cluster = Cluster::without_replicas().await;
    let layer = connect(config(&cluster)).await;
    let channels: Vec<_> = (0..20_u16).map(|number| name_in("jobs.", 6000 + number..6001 + number, 'x')).collect();
    let mut receiver = layer.receiver(&channels.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
    cluster.nodes[0].server.stop();
    // Without one of its masters, the cluster serves no slot at all.
    eventually("a cluster that is down", async || {
        let error = layer.send(&channels[0], message! { "number": 1 }).await.err()?;
        error.to_string().contains("CLUSTERDOWN").then_some(())
    })
    .await;
    let receiving =
        tokio::spawn(async move { while receiver.recv().await.is_err_and(|error| error.is_transient()) {} });
    eventually("a reader", async || layer.try_receive(&["unused"]).await.err()).await;
    within(DEADLINE, "the end of the layer", layer.close()).await.unwrap();
    within(DEADLINE, "the end of the reader", receiving).await.unwrap();
}
