//! Several processes of one hub. Each app has its own layer on the same servers, as another process would.

use std::sync::Arc;
use std::time::Duration;

use channel_layer::hub::{HubError, Mode};
use channel_layer::{
    CapacityRule, ChannelLayer, Config, Event, Hub, HybridLayer, MemoryLayer, PubSubLayer, RedisLayer,
};
use tokio::time::timeout;

use super::{A_WHILE, App, hears, hears_until, says};
use crate::support::{RedisServer, eventually, random_prefix, shared_servers};

fn config(server: &RedisServer, prefix: &str) -> Config {
    Config::new().hosts([server.url()]).prefix(prefix).channel_capacity(CapacityRule::glob("hub.*", 10_000))
}

pub async fn redis(server: &RedisServer, prefix: &str) -> Arc<dyn ChannelLayer> {
    Arc::new(RedisLayer::connect(config(server, prefix)).await.unwrap())
}

async fn two() -> [App; 2] {
    let (server, prefix) = (&shared_servers()[0], random_prefix());
    [App::on(redis(server, &prefix).await).await, App::on(redis(server, &prefix).await).await]
}

#[tokio::test]
async fn a_message_reaches_a_room_in_all_processes_once() {
    let [one, other] = two().await;
    let ((mut ada, _), (mut bob, _)) = (one.enter("lobby").await, other.enter("lobby").await);
    says(&mut ada, "hello").await;
    says(&mut bob, "hi").await;
    for socket in [&mut ada, &mut bob] {
        let mut heard = [hears(socket).await, hears(socket).await];
        heard.sort();
        assert_eq!(heard, ["hello", "hi"]);
    }
    one.hub.broadcast("lobby", "end").await.unwrap();
    for socket in [&mut ada, &mut bob] {
        assert_eq!(hears(socket).await, "end", "nothing came twice");
    }
}

#[tokio::test]
async fn a_hub_works_on_every_layer_between_processes() {
    let server = &shared_servers()[0];
    for pub_sub in [true, false] {
        let (prefix, mut apps) = (random_prefix(), Vec::new());
        for _ in 0..2 {
            let layer: Arc<dyn ChannelLayer> = if pub_sub {
                Arc::new(PubSubLayer::connect(config(server, &prefix)).await.unwrap())
            } else {
                let remote = RedisLayer::connect(config(server, &prefix)).await.unwrap();
                Arc::new(HybridLayer::new(MemoryLayer::new(), remote))
            };
            apps.push(App::on(layer).await);
        }
        let ((mut ada, _), (mut bob, client)) = (apps[0].enter("lobby").await, apps[1].enter("lobby").await);
        client.set_user(Some("bob")).await.unwrap();
        says(&mut ada, "room").await;
        for socket in [&mut ada, &mut bob] {
            assert_eq!(hears(socket).await, "room");
        }
        apps[0].hub.send_to_user("bob", "user").await.unwrap();
        apps[0].hub.send_to(client.id(), "client").await.unwrap();
        apps[0].hub.broadcast_all("all").await.unwrap();
        assert_eq!([hears(&mut bob).await, hears(&mut bob).await, hears(&mut bob).await], ["user", "client", "all"]);
        assert_eq!(hears(&mut ada).await, "all", "nothing came twice");
        assert_eq!(apps[0].hub.status().mode, Mode::Together);
    }
}

#[tokio::test]
async fn users_single_clients_and_all_are_reached_in_other_processes() {
    let [one, other] = two().await;
    let (mut socket, client) = other.enter("caf%C3%A9%20!").await;
    client.set_user(Some("ada@example.org")).await.unwrap();
    one.hub.send_to_user("ada@example.org", "user").await.unwrap();
    one.hub.send_to(&client.id().to_string().parse().unwrap(), vec![1, 2]).await.unwrap();
    one.hub.send_to(client.id(), "client").await.unwrap();
    for sent in one.hub.broadcast_many([("cafe !", "lost"), ("café !", "room")]).await {
        assert_eq!(sent.unwrap(), 0);
    }
    one.hub.broadcast_all("all").await.unwrap();
    assert_eq!(hears(&mut socket).await, "user");
    let bytes = futures_util::StreamExt::next(&mut socket).await.unwrap().unwrap();
    assert_eq!(bytes.into_data(), vec![1, 2]);
    assert_eq!(
        [hears(&mut socket).await, hears(&mut socket).await, hears(&mut socket).await],
        ["client", "room", "all"]
    );
}

#[tokio::test]
async fn messages_of_each_sender_arrive_in_order_in_every_process() {
    let apps = two().await;
    let ((mut ada, _), (mut bob, _)) = (apps[0].enter("lobby").await, apps[1].enter("lobby").await);
    let senders = [0, 0, 1, 1].into_iter().enumerate().map(|(sender, app)| {
        let hub = apps[app].hub.clone();
        tokio::spawn(async move {
            for number in 0..100 {
                hub.broadcast("lobby", format!("{sender} {number}")).await.unwrap();
            }
            hub.broadcast("lobby", "end").await.unwrap();
        })
    });
    let senders: Vec<_> = senders.collect();
    for socket in [&mut ada, &mut bob] {
        let mut heard = Vec::new();
        for _ in 0..4 {
            heard.extend(hears_until(socket, "end").await);
        }
        for sender in 0..4 {
            let numbers = heard.iter().filter_map(|text| text.strip_prefix(&format!("{sender} ")));
            assert!(numbers.eq((0..100).map(|number| number.to_string())), "{heard:?}");
        }
    }
    for sender in senders {
        sender.await.unwrap();
    }
}

#[tokio::test]
async fn one_process_alone_sends_nothing_through_the_layer() {
    let layer: Arc<dyn ChannelLayer> = redis(&shared_servers()[0], &random_prefix()).await;
    let app = App::on(layer.clone()).await;
    let (mut socket, _) = app.enter("lobby").await;
    eventually("the hub to know that it is alone", async || (app.hub.status().mode == Mode::Alone).then_some(())).await;
    let before = layer.global_statistics().await.unwrap().messages_count;
    for _ in 0..50 {
        app.hub.broadcast("lobby", "hello").await.unwrap();
    }
    app.hub.broadcast("empty", "lost").await.unwrap();
    app.hub.broadcast("lobby", "end").await.unwrap();
    assert_eq!(hears_until(&mut socket, "end").await.len(), 50);
    assert_eq!(layer.global_statistics().await.unwrap().messages_count, before);
}

#[tokio::test]
async fn a_client_that_joins_in_a_new_process_misses_nothing() {
    let layers: Vec<Arc<dyn ChannelLayer>> = {
        let memory: Arc<dyn ChannelLayer> = Arc::new(MemoryLayer::new());
        let (server, prefix) = (&shared_servers()[0], random_prefix());
        vec![memory.clone(), memory, redis(server, &prefix).await, redis(server, &prefix).await]
    };
    for pair in layers.chunks(2) {
        let first = App::on(pair[0].clone()).await;
        for round in 0..5 {
            eventually("the first to be alone", async || (first.hub.status().mode == Mode::Alone).then_some(())).await;
            let second = App::on(pair[1].clone()).await;
            let (mut socket, _) = second.enter("lobby").await;
            // This is the first message after the join.
            first.hub.broadcast("lobby", format!("{round}")).await.unwrap();
            assert_eq!(hears(&mut socket).await, format!("{round}"));
            drop(socket);
            second.hub.close(Duration::ZERO).await;
        }
    }
}

#[tokio::test]
async fn hubs_with_different_names_are_separate() {
    let layer: Arc<dyn ChannelLayer> = Arc::new(MemoryLayer::new());
    let (one, other) =
        (App::with(Hub::builder(layer.clone()).name("one")).await, App::with(Hub::builder(layer).name("other")).await);
    let ((mut ada, _), (mut bob, _)) = (one.enter("lobby").await, other.enter("lobby").await);
    one.hub.broadcast("lobby", "one").await.unwrap();
    one.hub.broadcast_all("one").await.unwrap();
    assert_eq!([hears(&mut ada).await, hears(&mut ada).await], ["one", "one"]);
    assert!(timeout(A_WHILE, hears(&mut bob)).await.is_err());
}

#[tokio::test]
async fn a_room_without_clients_leaves_its_group() {
    let layer: Arc<dyn ChannelLayer> = Arc::new(MemoryLayer::new());
    let app = App::on(layer.clone()).await;
    let (socket, client) = app.enter("lobby").await;
    let members = async || layer.group_channels("hub.main.room.is.lobby").await.unwrap().len();
    assert_eq!(members().await, 1);
    client.leave("lobby");
    eventually("the group to be left", async || (members().await == 0).then_some(())).await;
    client.join("lobby").await.unwrap();
    assert_eq!(members().await, 1);
    drop(socket);
    app.hub.close(Duration::ZERO).await;
    assert_eq!(members().await, 0);
    assert!(layer.group_channels("hub.main.all").await.unwrap().is_empty());
}

#[tokio::test]
async fn memberships_are_renewed_before_they_expire() {
    let expiry = Duration::from_millis(1_500);
    let layer = MemoryLayer::with_config(&Config::new().group_expiry(expiry)).unwrap();
    let layer: Arc<dyn ChannelLayer> = Arc::new(layer);
    let (one, other) = (App::on(layer.clone()).await, App::on(layer).await);
    let (mut socket, _) = other.enter("lobby").await;
    let began = tokio::time::Instant::now();
    while began.elapsed() < 3 * expiry {
        one.hub.broadcast("lobby", "hello").await.unwrap();
        assert_eq!(hears(&mut socket).await, "hello");
        tokio::time::sleep(A_WHILE).await;
    }
}

#[tokio::test]
async fn a_failed_group_is_retried_while_others_change() {
    let (server, prefix) = (&shared_servers()[0], random_prefix());
    let config = config(server, &prefix).group_expiry(Duration::from_secs(3));
    let layer: Arc<dyn ChannelLayer> = Arc::new(RedisLayer::connect(config).await.unwrap());
    let app = App::on(layer.clone()).await;
    let ((_socket, _), (_other, busy)) = (app.enter("lobby").await, app.enter("nowhere").await);
    let churning = tokio::spawn(async move {
        loop {
            busy.join("elsewhere").await.unwrap();
            busy.leave("elsewhere");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let mut redis = server.connection().await;
    let key = format!("{prefix}:group:{{hub.main.room.is.lobby}}");
    // A renewal fails while other groups change.
    let _: () = redis::pipe().del(&key).set(&key, "no group").query_async(&mut redis).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let _: () = redis::pipe().del(&key).query_async(&mut redis).await.unwrap();
    eventually("the membership to return", async || {
        layer.group_channels("hub.main.room.is.lobby").await.ok().filter(|members| !members.is_empty()).map(|_| ())
    })
    .await;
    assert!(!churning.is_finished(), "the other group no longer changes");
    churning.abort();
}

#[tokio::test]
async fn groups_are_added_again_after_a_loss_of_data() {
    let mut server = RedisServer::start();
    let prefix = random_prefix();
    let layers = [redis(&server, &prefix).await, redis(&server, &prefix).await];
    let mut events = layers[1].events();
    let apps = [App::on(layers[0].clone()).await, App::on(layers[1].clone()).await];
    let (mut socket, client) = apps[1].enter("lobby").await;
    client.set_user(Some("ada")).await.unwrap();
    server.stop();
    let refused = apps[0].hub.broadcast("lobby", "lost").await;
    assert!(matches!(refused, Err(HubError::Layer(_))), "{refused:?}");
    apps[1].hub.broadcast("lobby", "here").await.unwrap_err();
    assert_eq!(hears(&mut socket).await, "here", "clients of the same process need no layer");
    server.start_again();
    let lost = async { while !matches!(events.recv().await, Ok(Event::DataLost { .. })) {} };
    crate::support::within(crate::support::DEADLINE, "the report of the loss", lost).await;
    eventually("the groups to return", async || {
        let _ = apps[0].hub.broadcast("lobby", "back").await;
        timeout(A_WHILE, hears(&mut socket)).await.ok().filter(|heard| heard == "back")
    })
    .await;
}
