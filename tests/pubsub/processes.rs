//! Which processes get a message, on one server and on several.

use channel_layer::{ChannelLayer, Config, Error, HybridLayer, MemoryLayer, PubSubLayer};

use super::tools::{config, connect, connect_with, next, number, numbered};
use crate::support::{DEADLINE, RedisServer, within};

/// A deployment on three servers. Each process has its own layer.
struct Site {
    _servers: Vec<RedisServer>,
    config: Config,
}

impl Site {
    fn start() -> Self {
        let servers: Vec<_> = (0..3).map(|_| RedisServer::start()).collect();
        let urls: Vec<_> = servers.iter().map(RedisServer::url).collect();
        Self { config: config(urls.iter().map(String::as_str)), _servers: servers }
    }

    async fn process(&self) -> PubSubLayer {
        connect_with(self.config.clone()).await
    }
}

#[tokio::test]
async fn members_in_every_process_get_a_group_message() {
    for sharded in [false, true] {
        let mut site = Site::start();
        site.config = site.config.sharded_pubsub(sharded);
        let (ada, bob) = (site.process().await, site.process().await);
        for name in 0..12 {
            let (group, [first, second]) = (format!("room{name}"), ["ada", "bob"].map(|who| format!("{who}{name}!c")));
            let mut heard = Vec::new();
            for (layer, member) in [(&ada, &first), (&bob, &second)] {
                heard.push(layer.receiver(&[&member[..member.len() - 1]]).unwrap());
                layer.group_add(&group, member).await.unwrap();
            }
            ada.group_send(&group, numbered(1)).await.unwrap();
            assert!(bob.group_send_many(&[(&group, numbered(2))]).await[0].is_ok());
            for receiver in &mut heard {
                assert_eq!((next(receiver).await, next(receiver).await), (1, 2));
            }
        }
    }
}

#[tokio::test]
async fn channels_of_every_kind_reach_the_process_that_reads_them() {
    for sharded in [false, true] {
        let mut site = Site::start();
        site.config = site.config.sharded_pubsub(sharded);
        let (sender, reader) = (site.process().await, site.process().await);
        for name in 0..12 {
            let body = reader.new_channel("body?").await.unwrap();
            for (channel, source) in [
                (format!("work{name}"), format!("work{name}")),
                (body.to_string(), body.to_string()),
                (format!("send{name}!ada"), format!("send{name}!")),
            ] {
                reader.subscribe(&[&source]).await.unwrap();
                sender.send(&channel, numbered(name)).await.unwrap();
                let delivery = within(DEADLINE, &channel, reader.receive(&[&source])).await.unwrap();
                assert_eq!((delivery.channel.as_str(), number(&delivery)), (&*channel, name));
            }
        }
    }
}

#[tokio::test]
async fn every_process_that_reads_a_normal_channel_gets_its_messages() {
    let site = Site::start();
    let processes = [site.process().await, site.process().await];
    for process in &processes {
        process.subscribe(&["news"]).await.unwrap();
    }
    processes[0].send("news", numbered(7)).await.unwrap();
    for process in &processes {
        assert_eq!(number(&within(DEADLINE, "the news", process.receive(&["news"])).await.unwrap()), 7);
    }
}

#[tokio::test]
async fn a_member_can_be_added_only_where_it_is_read() {
    let server = RedisServer::start();
    let layer = connect([&*server.url()]).await;
    for member in ["elsewhere!ada", "elsewhere?x"] {
        let refused = layer.group_add("room", member).await.unwrap_err();
        assert!(matches!(refused, Error::Unsupported { .. }), "{refused}");
    }
    let _receiver = layer.receiver(&["here!"]).unwrap();
    layer.group_add("room", "here!ada").await.unwrap();
    // Every process may read a normal channel.
    layer.group_add("room", "news").await.unwrap();
    assert_eq!(layer.group_channels("room").await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_hybrid_shares_work_inside_a_process_and_groups_between_them() {
    let site = Site::start();
    let process = async || HybridLayer::new(MemoryLayer::new(), site.process().await);
    let (ada, bob) = (process().await, process().await);
    ada.send("websocket.receive", numbered(1)).await.unwrap();
    assert!(bob.try_receive(&["websocket.receive"]).await.unwrap().is_none());
    assert!(ada.try_receive(&["websocket.receive"]).await.unwrap().is_some());

    let mut heard = bob.receiver(&["send.bob!"]).unwrap();
    bob.group_add("room", "send.bob!1").await.unwrap();
    bob.group_add("room", "robot").await.unwrap();
    ada.group_send("room", numbered(2)).await.unwrap();
    assert_eq!(next(&mut heard).await, 2);
    bob.group_send("room", numbered(3)).await.unwrap();
    assert_eq!(number(&within(DEADLINE, "the robot's message", bob.receive(&["robot"])).await.unwrap()), 3);
}
