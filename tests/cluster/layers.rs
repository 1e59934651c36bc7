//! What is built on a layer, on a cluster.

use channel_layer::{ChannelLayer, Event, FallbackLayer, Mode, RedisLayer};

use super::tools::{config, connect, name_in};
use crate::hub::{App, hears, says};
use crate::pubsub::tools::{event, mode, next, numbered};
use crate::support::{Cluster, shared_cluster};

#[tokio::test]
async fn a_layer_falls_back_while_a_master_without_a_replica_is_down() {
    let mut cluster = Cluster::without_replicas().await;
    let config = config(&cluster);
    let layer = FallbackLayer::<RedisLayer>::new(connect(config.clone()).await, &config).unwrap();
    let channel = name_in("send.", 0..5000, '!');
    let (member, mut events) = (format!("{channel}ada"), layer.events());
    let mut receiver = layer.receiver(&[&channel]).unwrap();
    layer.group_add("room", &member).await.unwrap();
    layer.group_send("room", numbered(1)).await.unwrap();
    assert_eq!(next(&mut receiver).await, 1);

    cluster.nodes[0].server.stop();
    mode(&layer, Mode::LocalOnly).await;
    layer.group_send("room", numbered(2)).await.unwrap();
    layer.send(&member, numbered(3)).await.unwrap();
    assert_eq!([next(&mut receiver).await, next(&mut receiver).await], [2, 3]);

    cluster.nodes[0].server.start_again();
    event(&mut events, "the return", |event| matches!(event, Event::Remote { .. })).await;
    connect(config).await.group_send("room", numbered(4)).await.unwrap();
    assert_eq!(next(&mut receiver).await, 4);
}

#[tokio::test]
async fn a_hub_reaches_the_clients_of_all_processes() {
    let config = config(shared_cluster());
    let [one, other] = [App::on(connect(config.clone()).await).await, App::on(connect(config).await).await];
    let ((mut ada, _), (mut bob, client)) = (one.enter("lobby").await, other.enter("lobby").await);
    client.set_user(Some("bob")).await.unwrap();
    says(&mut ada, "hello").await;
    for socket in [&mut ada, &mut bob] {
        assert_eq!(hears(socket).await, "hello");
    }
    one.hub.send_to_user("bob", "user").await.unwrap();
    one.hub.send_to(client.id(), "client").await.unwrap();
    assert_eq!([hears(&mut bob).await, hears(&mut bob).await], ["user", "client"]);
}
