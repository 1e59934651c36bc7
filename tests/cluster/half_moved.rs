//! Slots whose migration does not end, and clusters that serve nothing.

use std::time::Duration;

use channel_layer::{ChannelLayer, message};

use super::tools::{config, connect, name_in, slot_of};
use crate::support::{Cluster, DEADLINE, eventually, within};

/// Longer than any test waits for something.
const LONG: Duration = Duration::from_mins(2);

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
    let cluster = Cluster::without_replicas().await;
    let config = config(&cluster).command_timeout(LONG);
    let (writer, reader) = (connect(config.clone()).await, connect(config).await);
    let (group, channel, other) =
        (name_in("room", 0..5000, 'x'), name_in("send.", 6000..9000, '!'), name_in("jobs.", 6000..9000, 'x'));
    writer.group_add(&group, &format!("{channel}ada")).await.unwrap();
    writer.group_send(&group, message! { "number": 1 }).await.unwrap();
    cluster.begin_move(slot_of(&group), 0, 1).await;
    let mut keys: Vec<String> = cluster.nodes[0].cluster(&["GETKEYSINSLOT", &slot_of(&group).to_string(), "100"]).await;
    keys.retain(|key| !key.contains(":group:"));
    cluster.migrate(&keys, 0, 1).await;
    let mut receiver = reader.receiver(&[&channel, &other]).unwrap();
    let sending = async {
        eventually("a read of the message of the group", async || {
            (writer.channel_statistics(&channel).await.unwrap().messages_pending == 0).then_some(())
        })
        .await;
        writer.send(&other, message! { "number": 2 }).await.unwrap();
    };
    let (delivery, ()) = tokio::join!(within(DEADLINE, "a message on another channel", receiver.recv()), sending);
    assert_eq!(delivery.unwrap().message.int("number"), Some(2));
    cluster.move_keys(slot_of(&group), 0, 1).await;
    cluster.end_move(slot_of(&group), 1, &[0]).await;
    let delivery = within(DEADLINE, "the message of the group", receiver.recv()).await.unwrap();
    assert_eq!(delivery.message.int("number"), Some(1));
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
