//! The messages of one sender arrive in order, however many others send.

use std::sync::Arc;
use std::time::Duration;

use channel_layer::ChannelLayer;
use tokio::task::JoinSet;

use super::tools::{connect, next, number, numbered};
use crate::support::{DEADLINE, Proxy, RedisServer, within};

#[tokio::test]
async fn a_new_member_gets_no_earlier_message_of_a_group_that_its_process_has_just_left() {
    let server = RedisServer::start();
    let proxy = Proxy::before(&server.url()).await;
    let (sender, layer) = (connect([&*server.url()]).await, connect([&*proxy.url()]).await);
    let mut receiver = layer.receiver(&["send.p!"]).unwrap();
    layer.group_add("room", "send.p!before").await.unwrap();
    // The subscriptions of the process reach the server late, and messages reach the process late.
    proxy.delay(Duration::from_millis(200));
    layer.group_discard("room", "send.p!before").await.unwrap();
    sender.group_send("room", numbered(1)).await.unwrap();
    layer.group_add("room", "send.p!after").await.unwrap();
    sender.group_send("room", numbered(2)).await.unwrap();
    assert_eq!(next(&mut receiver).await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_messages_of_each_of_many_senders_stay_in_order() {
    const SENDERS: i64 = 16;
    const MESSAGES: i64 = 300;
    let server = RedisServer::start();
    let (layer, reader) = (Arc::new(connect([&*server.url()]).await), connect([&*server.url()]).await);
    let mut receiver = reader.receiver(&["send.p!"]).unwrap();
    for member in 0..SENDERS {
        reader.group_add(&format!("room{member}"), &format!("send.p!{member}")).await.unwrap();
    }
    let mut senders = JoinSet::new();
    for sender in 0..SENDERS {
        let layer = layer.clone();
        senders.spawn(async move {
            let (room, channel) = (format!("room{sender}"), format!("send.p!{sender}"));
            for at in 0..MESSAGES {
                if at % 2 == 0 {
                    layer.group_send(&room, numbered(at)).await.unwrap();
                } else {
                    layer.send(&channel, numbered(at)).await.unwrap();
                }
            }
        });
    }
    let mut taken = Vec::new();
    while taken.len() < usize::try_from(SENDERS * MESSAGES).unwrap() {
        within(DEADLINE, "the next messages", receiver.recv_many(&mut taken, 100)).await.unwrap();
    }
    for sender in 0..SENDERS {
        let channel = format!("send.p!{sender}");
        let of_one: Vec<_> = taken.iter().filter(|delivery| delivery.channel == *channel).map(number).collect();
        assert_eq!(of_one, (0..MESSAGES).collect::<Vec<_>>(), "{channel}");
    }
}
