//! Errors of calls that several layers or servers carry out together report whether any part ran.

use channel_layer::{ChannelLayer, Config, Error, Fallback, FallbackLayer, HybridLayer, Mode, PubSubLayer, RedisLayer};

use crate::pubsub::tools::{ask, config, mode, next, number, numbered};
use crate::support::{DEADLINE, RedisServer, within};

async fn redis(config: Config) -> RedisLayer {
    within(DEADLINE, "a layer", RedisLayer::connect(config)).await.unwrap()
}

/// Checks that `error` comes from a server and from a call that may have taken effect.
fn may_have_run(error: Error) {
    assert!(matches!(error, Error::Redis { .. }) && error.may_have_run(), "{error:?}");
}

async fn keys(server: &RedisServer, pattern: &str) -> usize {
    let keys: Vec<String> = redis::from_redis_value(ask(&server.url(), &format!("KEYS {pattern}")).await).unwrap();
    keys.len()
}

#[tokio::test]
async fn a_group_send_that_only_the_remote_layer_delivers_may_have_run() {
    let (mut near, far) = (RedisServer::start(), RedisServer::start());
    let layer = HybridLayer::new(redis(config([&*near.url()])).await, redis(config([&*far.url()])).await);
    layer.group_add("room", "work").await.unwrap();
    layer.group_add("room", "send.p!1").await.unwrap();
    near.stop();
    may_have_run(layer.group_send("room", numbered(1)).await.unwrap_err());
    let mut receiver = layer.receiver(&["send.p!"]).unwrap();
    assert_eq!(next(&mut receiver).await, 1);
    for result in layer.group_send_many(&[("room", numbered(2)), ("room", numbered(3))]).await {
        may_have_run(result.unwrap_err());
    }
    assert_eq!((next(&mut receiver).await, next(&mut receiver).await), (2, 3));
}

#[tokio::test]
async fn a_group_send_that_only_the_local_layer_delivers_may_have_run() {
    let (near, far) = (RedisServer::start(), RedisServer::start());
    let layer = HybridLayer::new(redis(config([&*near.url()])).await, redis(config([&*far.url()])).await);
    layer.group_add("room", "work").await.unwrap();
    layer.group_add("room", "send.p!1").await.unwrap();
    // The members can be read, and no message can be sent to those on the remote layer.
    ask(&far.url(), "CONFIG SET maxmemory 1").await;
    may_have_run(layer.group_send("room", numbered(1)).await.unwrap_err());
    assert_eq!(number(&layer.try_receive(&["work"]).await.unwrap().unwrap()), 1);
}

#[tokio::test]
async fn a_flush_that_empties_one_of_two_layers_may_have_run() {
    let (mut near, far) = (RedisServer::start(), RedisServer::start());
    let layer = HybridLayer::new(redis(config([&*near.url()])).await, redis(config([&*far.url()])).await);
    layer.send("send.p!1", numbered(1)).await.unwrap();
    near.stop();
    may_have_run(layer.flush().await.unwrap_err());
    assert!(layer.try_receive(&["send.p!"]).await.unwrap().is_none());
}

#[tokio::test]
async fn a_flush_that_empties_one_of_two_servers_empties_it_and_may_have_run() {
    let (first, mut second) = (RedisServer::start(), RedisServer::start());
    let urls = [first.url(), second.url()];
    let layer = redis(config(urls.iter().map(String::as_str))).await;
    for room in 0..20 {
        layer.group_add(&format!("room{room}"), "send.p!1").await.unwrap();
    }
    assert!(keys(&first, "*room*").await > 0);
    second.stop();
    may_have_run(layer.flush().await.unwrap_err());
    assert_eq!(keys(&first, "*room*").await, 0);
}

#[tokio::test]
async fn a_membership_that_the_server_refuses_is_made_in_neither_layer() {
    let mut server = RedisServer::start();
    let layer = FallbackLayer::connect(config([&*server.url()])).await.unwrap();
    layer.group_add("room", "send.p!stays").await.unwrap();
    ask(&server.url(), "CONFIG SET maxmemory 1").await;
    let refused = layer.group_add("room", "send.p!refused").await.unwrap_err();
    assert!(refused.is_transient() && !refused.may_have_run(), "{refused:?}");
    ask(&server.url(), "ACL SETUSER default -zrem -evalsha -eval").await;
    layer.group_discard("room", "send.p!stays").await.unwrap_err();
    server.stop();
    mode(&layer, Mode::LocalOnly).await;
    assert_eq!(layer.group_channels("room").await.unwrap(), ["send.p!stays"]);
}

#[tokio::test]
async fn what_is_opened_here_although_the_server_is_away_may_have_run() {
    let mut server = RedisServer::start();
    let failing = config([&*server.url()]).fallback(Fallback::Fail);
    let layer = within(DEADLINE, "a layer", PubSubLayer::connect(failing)).await.unwrap();
    let mut receiver = layer.receiver(&["send.p!"]).unwrap();
    server.stop();
    mode(&layer, Mode::Down).await;
    receiver.recv().await.unwrap_err();
    may_have_run(layer.group_add("room", "send.p!1").await.unwrap_err());
    may_have_run(layer.subscribe(&["work"]).await.unwrap_err());
    server.start_again();
    mode(&layer, Mode::Remote).await;
    layer.group_send("room", numbered(1)).await.unwrap();
    assert_eq!(next(&mut receiver).await, 1);
    layer.send("work", numbered(2)).await.unwrap();
    assert_eq!(number(&within(DEADLINE, "the message", layer.receive(&["work"])).await.unwrap()), 2);
}
