//! Servers and connections that fail: the layer reports its state, delivers messages inside the process, and recovers
//! by itself.

use std::time::Duration;

use channel_layer::{ChannelLayer, Config, Error, Event, Fallback, Mode, PubSubLayer, Receiver};
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use tokio::time::Instant;

use super::tools::{
    RECOVERY, ask, config, connect_with, event, mode, next, numbered, order_holds, stays_here_while_writes_are_paused,
    up_to,
};
use crate::support::{Counts, DEADLINE, Proxy, RedisServer, eventually, within};

/// Two processes, each with a member of one group. Faults concern the connections of `ada`.
struct Pair {
    ada: PubSubLayer,
    bob: PubSubLayer,
    received_by_ada: Receiver,
    received_by_bob: Receiver,
}

impl Pair {
    async fn start(for_ada: Config, for_bob: Config) -> Self {
        let (ada, bob) = (connect_with(for_ada).await, connect_with(for_bob).await);
        let received_by_ada = ada.receiver(&["send.ada!"]).unwrap();
        let received_by_bob = bob.receiver(&["send.bob!"]).unwrap();
        ada.group_add("room", "send.ada!1").await.unwrap();
        bob.group_add("room", "send.bob!1").await.unwrap();
        Self { ada, bob, received_by_ada, received_by_bob }
    }

    /// Checks that the messages of each reach both.
    async fn talk(&mut self, number: i64) {
        for layer in [&self.ada, &self.bob] {
            layer.group_send("room", numbered(number)).await.unwrap();
            assert_eq!(up_to(&mut self.received_by_ada, number).await.last(), Some(&number));
            assert_eq!(up_to(&mut self.received_by_bob, number).await.last(), Some(&number));
        }
    }
}

#[tokio::test]
async fn a_killed_subscription_is_restored() {
    let server = RedisServer::start();
    let mut pair = Pair::start(config([&*server.url()]), config([&*server.url()])).await;
    pair.talk(1).await;
    for round in 2..5 {
        let mut events = [pair.ada.events(), pair.bob.events()];
        ask(&server.url(), "CLIENT KILL TYPE pubsub").await;
        for events in &mut events {
            event(events, "the loss", |event| matches!(event, Event::SubscriptionLost { shard: 0, .. })).await;
            event(events, "the end of the loss", |event| matches!(event, Event::SubscriptionRestored { shard: 0 }))
                .await;
        }
        for layer in [&pair.ada, &pair.bob] {
            mode(layer, Mode::Remote).await;
        }
        pair.talk(round).await;
    }
}

#[tokio::test]
async fn messages_stay_in_the_process_during_an_outage() {
    let mut server = RedisServer::start();
    let mut pair = Pair::start(config([&*server.url()]), config([&*server.url()])).await;
    pair.talk(1).await;
    let mut events = pair.ada.events();
    server.stop();
    mode(&pair.ada, Mode::LocalOnly).await;
    mode(&pair.bob, Mode::LocalOnly).await;
    event(&mut events, "the fallback", |event| matches!(event, Event::LocalOnly { shard: 0, .. })).await;
    let status = pair.ada.status().remove(0);
    assert!(status.mode == Mode::LocalOnly && status.reason.is_some(), "{status:?}");

    // No call waits for a server that is down.
    let began = Instant::now();
    for number in 10..60 {
        pair.ada.group_send("room", numbered(number)).await.unwrap();
        assert_eq!(next(&mut pair.received_by_ada).await, number);
    }
    // Members join and leave during the outage.
    let mut late = pair.ada.receiver(&["late!"]).unwrap();
    pair.ada.group_add("room", "late!1").await.unwrap();
    pair.ada.group_discard("room", "send.ada!1").await.unwrap();
    pair.ada.send("late!2", numbered(60)).await.unwrap();
    pair.ada.group_send("room", numbered(61)).await.unwrap();
    assert_eq!((next(&mut late).await, next(&mut late).await), (60, 61));
    assert!(began.elapsed() < Duration::from_secs(1), "55 calls took {:?}", began.elapsed());
    assert_eq!(pair.ada.status()[0].stayed_local, 52);

    server.start_again();
    event(&mut events, "the return to the server", |event| matches!(event, Event::Remote { shard: 0 })).await;
    mode(&pair.bob, Mode::Remote).await;
    assert_eq!(pair.ada.status()[0].mode, Mode::Remote);
    // The layer subscribes to the present channels and groups. Messages of the outage are not repeated.
    pair.bob.group_send("room", numbered(70)).await.unwrap();
    assert_eq!(next(&mut late).await, 70);
    assert_eq!(next(&mut pair.received_by_bob).await, 70);
    assert!(pair.ada.try_receive(&["send.ada!"]).await.unwrap().is_none());
}

#[tokio::test]
async fn a_half_open_connection_is_detected() {
    let server = RedisServer::start();
    let proxy = Proxy::before(&server.url()).await;
    let mut pair = Pair::start(config([&*proxy.url()]), config([&*server.url()])).await;
    pair.talk(1).await;
    let mut events = pair.ada.events();
    proxy.freeze();
    let noticed = event(&mut events, "the loss", |event| matches!(event, Event::SubscriptionLost { .. }));
    within(RECOVERY, "the detection of a silent connection", noticed).await;
    event(&mut events, "the end of the loss", |event| matches!(event, Event::Remote { .. })).await;
    pair.talk(2).await;
}

#[tokio::test]
async fn all_connections_follow_a_host_name_to_another_server() {
    let (old, new) = (RedisServer::start(), RedisServer::start());
    let proxy = Proxy::before(&old.url()).await;
    let mut pair = Pair::start(config([&*proxy.url()]), config([&*new.url()])).await;
    proxy.lead_to(&new.url());
    // Open connections are kept until one breaks.
    pair.ada.group_send("room", numbered(0)).await.unwrap();
    assert_eq!(next(&mut pair.received_by_ada).await, 0);
    let mut events = pair.ada.events();
    ask(&old.url(), "CLIENT KILL TYPE pubsub").await;
    event(&mut events, "the loss", |event| matches!(event, Event::LocalOnly { .. })).await;
    event(&mut events, "the other server", |event| matches!(event, Event::ShardUp { .. })).await;
    mode(&pair.ada, Mode::Remote).await;
    pair.talk(1).await;
}

#[tokio::test]
async fn a_send_without_an_answer_succeeds_and_is_not_repeated() {
    let server = RedisServer::start();
    let proxy = Proxy::before(&server.url()).await;
    let mut pair = Pair::start(config([&*proxy.url()]), config([&*server.url()])).await;
    pair.talk(1).await;
    // Commands reach the server, and its answers are lost.
    proxy.deafen();
    let sent = within(DEADLINE, "the end of the send", pair.ada.group_send("room", numbered(2)));
    sent.await.unwrap();
    assert_eq!(next(&mut pair.received_by_bob).await, 2);
    mode(&pair.ada, Mode::LocalOnly).await;
    proxy.cut();
    mode(&pair.ada, Mode::Remote).await;
    pair.ada.group_send("room", numbered(3)).await.unwrap();
    assert_eq!(next(&mut pair.received_by_bob).await, 3, "message 2 came twice");
    assert_eq!(next(&mut pair.received_by_ada).await, 3);
}

#[tokio::test]
async fn a_subscription_that_redis_closes_for_falling_behind_is_restored() {
    let server = RedisServer::with(&["--client-output-buffer-limit", "pubsub 64kb 64kb 0"]);
    let proxy = Proxy::before(&server.url()).await;
    let mut pair = Pair::start(config([&*proxy.url()]), config([&*server.url()])).await;
    pair.talk(1).await;
    let mut events = pair.ada.events();
    proxy.stall();
    let large = numbered(2).with("text", "x".repeat(1 << 20));
    for _ in 0..30 {
        pair.bob.group_send("room", large.clone()).await.unwrap();
    }
    event(&mut events, "the loss", |event| matches!(event, Event::SubscriptionLost { .. })).await;
    proxy.resume();
    mode(&pair.ada, Mode::Remote).await;
    eventually("the connection of bob", async || (pair.bob.status()[0].mode == Mode::Remote).then_some(())).await;
    pair.talk(3).await;
}

#[tokio::test]
async fn a_layer_starts_without_redis_and_finds_it_later() {
    let mut server = RedisServer::start();
    server.stop();
    let mut pair = Pair::start(config([&*server.url()]), config([&*server.url()])).await;
    assert_eq!(*pair.ada.mode().borrow(), Mode::LocalOnly);
    pair.ada.group_send("room", numbered(1)).await.unwrap();
    assert_eq!(next(&mut pair.received_by_ada).await, 1);
    server.start_again();
    for layer in [&pair.ada, &pair.bob] {
        mode(layer, Mode::Remote).await;
    }
    pair.talk(2).await;
}

#[tokio::test]
async fn messages_go_to_a_returned_server_after_return_after() {
    let mut server = RedisServer::start();
    let return_after = Duration::from_secs(2);
    let layer = connect_with(config([&*server.url()]).return_after(return_after)).await;
    let mut events = layer.events();
    server.stop();
    event(&mut events, "the loss", |event| matches!(event, Event::LocalOnly { .. })).await;
    // An outage of less than a second does not count as one.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    server.start_again();
    event(&mut events, "the server", |event| matches!(event, Event::ShardUp { .. })).await;
    let up = Instant::now();
    event(&mut events, "the return to the server", |event| matches!(event, Event::Remote { .. })).await;
    assert!(up.elapsed() > return_after / 2, "after {:?}", up.elapsed());
}

#[tokio::test]
async fn a_layer_returns_at_once_when_only_connections_broke() {
    let server = RedisServer::start();
    for kinds in [&["normal"][..], &["pubsub"], &["normal", "pubsub"]] {
        // After an outage, a server would have to answer for longer than any test waits.
        let strict = || config([&*server.url()]).return_after(Duration::from_hours(1));
        let mut pair = Pair::start(strict(), strict()).await;
        pair.talk(1).await;
        let mut events = [pair.ada.events(), pair.bob.events()];
        for kind in kinds {
            ask(&server.url(), &format!("CLIENT KILL TYPE {kind}")).await;
        }
        for events in &mut events {
            event(events, "the loss", |event| matches!(event, Event::LocalOnly { .. })).await;
            let again = event(events, "the end of the loss", |event| matches!(event, Event::Remote { .. }));
            within(Duration::from_secs(2), "the end of the loss", again).await;
        }
        for layer in [&pair.ada, &pair.bob] {
            mode(layer, Mode::Remote).await;
        }
        pair.talk(2).await;
    }
}

#[tokio::test]
async fn each_server_falls_back_on_its_own() {
    let (mut first, second) = (RedisServer::start(), RedisServer::start());
    let urls = [first.url(), second.url()];
    let mut pair = Pair::start(config(urls.iter().map(String::as_str)), config(urls.iter().map(String::as_str))).await;
    first.stop();
    mode(&pair.ada, Mode::LocalOnly).await;
    mode(&pair.bob, Mode::LocalOnly).await;
    let modes: Vec<_> = pair.ada.status().into_iter().map(|status| status.mode).collect();
    assert_eq!(modes, [Mode::LocalOnly, Mode::Remote]);
    // Some of the groups are on each server. Messages to groups on the second server still reach the other process.
    let (mut both, mut alone) = (0, 0);
    for room in 0..20 {
        let room = format!("room{room}");
        pair.ada.group_add(&room, "send.ada!1").await.unwrap();
        pair.bob.group_add(&room, "send.bob!1").await.unwrap();
        pair.ada.group_send(&room, numbered(room.len().try_into().unwrap())).await.unwrap();
        next(&mut pair.received_by_ada).await;
        match pair.bob.try_receive(&["send.bob!"]).await.unwrap() {
            Some(_) => both += 1,
            None => alone += 1,
        }
    }
    assert!(both > 0 && alone > 0, "{both} and {alone}");
    assert_eq!(pair.ada.status()[0].stayed_local, alone);
    first.start_again();
    mode(&pair.ada, Mode::Remote).await;
}

#[tokio::test(flavor = "current_thread")]
async fn the_order_of_a_sender_holds_when_redis_goes_and_comes() {
    let recorder = DebuggingRecorder::new();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let mut server = RedisServer::start();
    let layer = connect_with(config([&*server.url()])).await;
    let mut receiver = layer.receiver(&["send.p!"]).unwrap();
    layer.group_add("room", "send.p!1").await.unwrap();
    let send = async |message| layer.group_send("room", message).await.unwrap();
    order_holds(&layer, &mut receiver, &mut server, Counts::of(&recorder), send).await;
}

#[tokio::test]
async fn a_layer_without_a_fallback_fails_at_once_and_recovers() {
    let mut server = RedisServer::start();
    let failing = || config([&*server.url()]).fallback(Fallback::Fail);
    let mut pair = Pair::start(failing(), failing()).await;
    pair.talk(1).await;
    server.stop();
    mode(&pair.ada, Mode::Down).await;
    let outage = within(DEADLINE, "the outage", pair.received_by_ada.recv()).await.unwrap_err();
    assert!(matches!(outage, Error::Redis { shard: 0, .. }), "{outage:?}");
    let began = Instant::now();
    for result in [
        pair.ada.group_send("room", numbered(2)).await,
        pair.ada.send("work", numbered(2)).await,
        pair.ada.group_add("other", "send.ada!1").await,
        pair.ada.subscribe(&["other"]).await,
    ] {
        assert!(matches!(result, Err(Error::Redis { shard: 0, .. })), "{result:?}");
    }
    assert!(began.elapsed() < Duration::from_secs(1));
    server.start_again();
    for layer in [&pair.ada, &pair.bob] {
        mode(layer, Mode::Remote).await;
    }
    pair.talk(3).await;

    server.stop();
    let refused = PubSubLayer::connect(config([&*server.url()]).fallback(Fallback::Fail)).await.unwrap_err();
    assert!(matches!(refused, Error::Redis { .. }), "{refused:?}");
}

/// Makes the server accept only this connection and the one of a layer for commands, and kills all subscriptions.
async fn refuse_subscriptions(connection: &mut redis::aio::MultiplexedConnection) {
    let () = redis::cmd("CONFIG").arg(&["SET", "maxclients", "2"]).query_async(connection).await.unwrap();
    let _: i64 = redis::cmd("CLIENT").arg(&["KILL", "TYPE", "pubsub"]).query_async(connection).await.unwrap();
}

#[tokio::test]
async fn a_layer_without_its_subscription_publishes_nothing() {
    let server = RedisServer::start();
    let layer = connect_with(config([&*server.url()]).fallback(Fallback::Fail)).await;
    let mut receiver = layer.receiver(&["send.ada!"]).unwrap();
    layer.group_add("room", "send.ada!1").await.unwrap();
    let mut connection = server.connection().await;
    refuse_subscriptions(&mut connection).await;
    mode(&layer, Mode::Down).await;
    // The server answers, but this process would not receive its own message.
    let refused = layer.group_send("room", numbered(1)).await.unwrap_err();
    assert!(matches!(refused, Error::Redis { shard: 0, .. }), "{refused:?}");
    let () = redis::cmd("CONFIG").arg(&["SET", "maxclients", "100"]).query_async(&mut connection).await.unwrap();
    mode(&layer, Mode::Remote).await;
    layer.group_send("room", numbered(2)).await.unwrap();
    assert_eq!(next(&mut receiver).await, 2);
}

#[tokio::test]
async fn a_failed_subscription_is_reported_while_the_server_answers() {
    let server = RedisServer::start();
    let layer = connect_with(config([&*server.url()])).await;
    layer.subscribe(&["work"]).await.unwrap();
    let mut connection = server.connection().await;
    refuse_subscriptions(&mut connection).await;
    mode(&layer, Mode::LocalOnly).await;
    let health = layer.health().await;
    assert!(health.fallback_mode && health.is_ready(), "{health:?}");
    assert!(health.shards[0].reason.is_some(), "{health:?}");
}

/// The server delays commands that write or publish and answers all others, as in a planned failover.
#[tokio::test]
async fn messages_stay_in_the_process_while_the_server_pauses_writes() {
    let server = RedisServer::start();
    let layer = connect_with(config([&*server.url()])).await;
    let mut receiver = layer.receiver(&["work"]).unwrap();
    layer.subscribe(&["work"]).await.unwrap();
    stays_here_while_writes_are_paused(&layer, &mut receiver, &server.url()).await;
}

#[tokio::test(flavor = "current_thread")]
async fn publishing_records_metrics_and_a_first_connection_is_no_reconnect() {
    let recorder = DebuggingRecorder::new();
    let snapshots = recorder.snapshotter();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let mut server = RedisServer::start();
    server.stop();
    let layer = connect_with(config([&*server.url()])).await;
    server.start_again();
    mode(&layer, Mode::Remote).await;
    layer.send("work", numbered(1)).await.unwrap();
    let metrics: Vec<_> = snapshots.snapshot().into_vec().into_iter().map(|(key, _, _, value)| (key, value)).collect();
    let value = |name: &str| metrics.iter().find(|(key, _)| key.key().name() == name).map(|(_, value)| value);
    assert!(
        matches!(value("channel_layer_round_trip_seconds"), Some(DebugValue::Histogram(seconds)) if !seconds.is_empty())
    );
    // The connection was not lost: there was none before.
    assert!(matches!(value("channel_layer_reconnects_total"), None | Some(DebugValue::Counter(0))));
    assert_eq!(value("channel_layer_local_only"), Some(&DebugValue::Gauge(0.0.into())));
}

#[tokio::test(flavor = "current_thread")]
async fn each_loss_of_a_server_or_of_a_subscription_is_counted_once() {
    let recorder = DebuggingRecorder::new();
    let mut counts = Counts::of(&recorder);
    let _guard = metrics::set_default_local_recorder(&recorder);
    let mut server = RedisServer::start();
    let layer = connect_with(config([&*server.url()])).await;
    // Without a subscription the layer has no connection of the type that is killed.
    layer.subscribe(&["work"]).await.unwrap();
    let mut events = layer.events();
    for alone in [true, false, true] {
        if alone {
            ask(&server.url(), "CLIENT KILL TYPE pubsub").await;
        } else {
            server.restart();
        }
        event(&mut events, "the loss", |event| matches!(event, Event::LocalOnly { .. })).await;
        event(&mut events, "the end of the loss", |event| matches!(event, Event::Remote { .. })).await;
    }
    assert_eq!(counts.counter("channel_layer_reconnects_total"), 3);
}
