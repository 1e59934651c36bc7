//! `FallbackLayer` on Redis: behaviour during an outage, and across its start and end.

use std::time::Duration;

use channel_layer::{
    ChannelLayer, Config, Error, Event, Fallback, FallbackLayer, Mode, PubSubLayer, RedisLayer, layer_from_config,
};
use metrics_util::debugging::DebuggingRecorder;
use tokio::time::Instant;

use crate::pubsub::tools::{
    ask, config, event, mode, next, number, numbered, order_holds, somebody_waits, stays_here_while_writes_are_paused,
};
use crate::support::{Counts, DEADLINE, Proxy, RedisServer, eventually, within};

type Layer = FallbackLayer<RedisLayer>;

async fn connect(config: Config) -> Layer {
    within(DEADLINE, "a layer", FallbackLayer::connect(config)).await.unwrap()
}

async fn redis(server: &RedisServer) -> RedisLayer {
    let connecting = RedisLayer::connect(config([&*server.url()]));
    within(DEADLINE, "a layer", connecting).await.unwrap()
}

#[tokio::test]
async fn calls_work_during_an_outage_and_reach_redis_after_it() {
    let mut server = RedisServer::start();
    let layer = connect(config([&*server.url()])).await;
    let mut events = layer.events();
    let mut receiver = layer.receiver(&["send.p!", "work"]).unwrap();
    layer.group_add("room", "send.p!1").await.unwrap();
    layer.group_send("room", numbered(1)).await.unwrap();
    assert_eq!(next(&mut receiver).await, 1);

    server.stop();
    mode(&layer, Mode::LocalOnly).await;
    event(&mut events, "the beginning", |event| matches!(event, Event::LocalOnly { shard: 0, .. })).await;
    let began = Instant::now();
    layer.group_send("room", numbered(2)).await.unwrap();
    layer.send("work", numbered(3)).await.unwrap();
    assert!(layer.send_many(&[("work", numbered(4))]).await[0].is_ok());
    assert!(layer.group_send_many(&[("room", numbered(5))]).await[0].is_ok());
    let body = layer.new_channel("body?").await.unwrap();
    layer.send(body.as_str(), numbered(6)).await.unwrap();
    assert_eq!(number(&layer.receive(&[body.as_str()]).await.unwrap()), 6);
    layer.send(body.as_str(), numbered(7)).await.unwrap();
    assert_eq!(number(&layer.try_receive(&[body.as_str()]).await.unwrap().unwrap()), 7);
    let mut got = Vec::new();
    for _ in 0..4 {
        got.push(next(&mut receiver).await);
    }
    got.sort_unstable();
    assert_eq!(got, [2, 3, 4, 5]);
    assert!(began.elapsed() < Duration::from_secs(1), "it took {:?}", began.elapsed());
    let status = layer.status();
    assert!(status.mode == Mode::LocalOnly && status.reason.is_some() && status.stayed_local == 6, "{status:?}");

    server.start_again();
    event(&mut events, "the return", |event| matches!(event, Event::Remote { shard: 0 })).await;
    assert_eq!(layer.status().mode, Mode::Remote);
    let other = redis(&server).await;
    other.group_send("room", numbered(8)).await.unwrap();
    assert_eq!(next(&mut receiver).await, 8);
}

#[tokio::test]
async fn a_layer_starts_without_redis_and_finds_it_later() {
    let mut server = RedisServer::start();
    server.stop();
    let layer = connect(config([&*server.url()])).await;
    assert_eq!(*layer.mode().borrow(), Mode::LocalOnly);
    let mut receiver = layer.receiver(&["send.p!"]).unwrap();
    layer.group_add("room", "send.p!1").await.unwrap();
    layer.group_send("room", numbered(1)).await.unwrap();
    assert_eq!(next(&mut receiver).await, 1);
    server.start_again();
    mode(&layer, Mode::Remote).await;
    redis(&server).await.group_send("room", numbered(2)).await.unwrap();
    assert_eq!(next(&mut receiver).await, 2);
}

#[tokio::test]
async fn a_wrong_login_at_the_start_is_an_error_and_no_outage() {
    let server = RedisServer::start();
    ask(&server.url(), "CONFIG SET requirepass secret").await;
    for wrong in [server.url(), server.url().replace("redis://", "redis://:other@")] {
        let config = config([&*wrong]).fallback(Fallback::Local);
        for refused in [
            FallbackLayer::connect(config.clone()).await.map(drop).unwrap_err(),
            PubSubLayer::connect(config).await.map(drop).unwrap_err(),
        ] {
            assert!(matches!(refused, Error::Redis { shard: 0, .. }), "{refused:?}");
        }
    }
}

#[tokio::test]
async fn readers_without_a_connection_are_no_outage() {
    let server = RedisServer::start();
    let layer = connect(config([&*server.url()]).pool_size(1).connect_timeout(Duration::from_millis(300))).await;
    let mut first = layer.receiver(&["first?a"]).unwrap();
    let waiting = tokio::spawn(async move { first.recv().await });
    somebody_waits(&server.url()).await;
    let mut second = layer.receiver(&["second?a"]).unwrap();
    // One of the receivers has no connection, and its read fails.
    let told = within(DEADLINE, "the want of a connection", second.recv()).await.unwrap_err();
    assert!(told.to_string().contains("pool_size"), "{told:?}");
    assert_eq!(layer.status().mode, Mode::Remote);
    waiting.abort();
}

#[tokio::test]
async fn no_call_waits_for_retries_during_an_outage() {
    let mut server = RedisServer::start();
    let patient = config([&*server.url()]).retry_attempts(5).retry_backoff(Duration::from_secs(1));
    let layer = connect(patient).await;
    server.stop();
    mode(&layer, Mode::LocalOnly).await;
    layer.send("work", numbered(1)).await.unwrap();
    let began = Instant::now();
    assert_eq!(number(&layer.try_receive(&["work"]).await.unwrap().unwrap()), 1);
    assert!(layer.try_receive(&["work"]).await.unwrap().is_none());
    assert!(!layer.health().await.shards.is_empty());
    assert!(began.elapsed() < Duration::from_millis(900), "it took {:?}", began.elapsed());
}

#[tokio::test]
async fn a_deployment_enables_the_fallback_by_an_option() {
    let mut server = RedisServer::start();
    server.stop();
    let config = config([&*server.url()]).fallback(Fallback::Local);
    let layer = within(DEADLINE, "a layer", layer_from_config(config)).await.unwrap();
    layer.send("work", numbered(1)).await.unwrap();
    assert_eq!(number(&layer.receive(&["work"]).await.unwrap()), 1);
    let health = layer.health().await;
    assert!(health.fallback_mode, "{health:?}");
    server.start_again();
    mode(&*layer, Mode::Remote).await;
    assert!(!layer.health().await.fallback_mode);
}

#[tokio::test]
async fn memberships_survive_an_outage() {
    let mut server = RedisServer::durable();
    let layer = connect(config([&*server.url()])).await;
    for member in ["send.p!stays", "send.p!goes"] {
        layer.group_add("room", member).await.unwrap();
    }
    server.stop();
    mode(&layer, Mode::LocalOnly).await;
    layer.group_discard("room", "send.p!goes").await.unwrap();
    layer.group_add("room", "send.p!comes").await.unwrap();
    let members = async |layer: &dyn ChannelLayer| {
        let mut members: Vec<_> = layer.group_channels("room").await.unwrap().iter().map(ToString::to_string).collect();
        members.sort();
        members
    };
    let expected = ["send.p!comes", "send.p!stays"];
    assert_eq!(members(&layer).await, expected);
    server.start_again();
    mode(&layer, Mode::Remote).await;
    assert_eq!(members(&redis(&server).await).await, expected);
    // The same after the server returns empty.
    redis(&server).await.flush().await.unwrap();
    ask(&server.url(), "FLUSHALL").await;
    let other = redis(&server).await;
    let again = async || (members(&other).await == expected).then_some(());
    eventually("the memberships of before", again).await;
}

#[tokio::test(flavor = "current_thread")]
async fn the_order_of_a_sender_holds_when_redis_goes_and_comes() {
    let recorder = DebuggingRecorder::new();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let mut server = RedisServer::start();
    let layer = connect(config([&*server.url()])).await;
    let mut receiver = layer.receiver(&["send.p!"]).unwrap();
    let send = async |message| layer.send("send.p!1", message).await.unwrap();
    order_holds(&layer, &mut receiver, &mut server, Counts::of(&recorder), send).await;
}

#[tokio::test]
async fn messages_on_a_server_are_delivered_after_its_return() {
    let mut server = RedisServer::durable();
    let layer = connect(config([&*server.url()])).await;
    layer.send("send.p!1", numbered(1)).await.unwrap();
    server.stop();
    mode(&layer, Mode::LocalOnly).await;
    layer.send("send.p!1", numbered(2)).await.unwrap();
    let mut receiver = layer.receiver(&["send.p!"]).unwrap();
    assert_eq!(next(&mut receiver).await, 2);
    server.start_again();
    assert_eq!(next(&mut receiver).await, 1);
}

#[tokio::test(flavor = "current_thread")]
async fn a_send_that_may_have_arrived_is_not_repeated() {
    let recorder = DebuggingRecorder::new();
    let mut counts = Counts::of(&recorder);
    let _guard = metrics::set_default_local_recorder(&recorder);
    let server = RedisServer::start();
    let proxy = Proxy::before(&server.url()).await;
    let layer = connect(config([&*proxy.url()])).await;
    layer.group_add("room", "send.p!1").await.unwrap();
    // Requests reach the server, and no answer comes back.
    proxy.deafen();
    within(DEADLINE, "an answer to a send", layer.send("send.p!1", numbered(1))).await.unwrap();
    assert_eq!(*layer.mode().borrow(), Mode::LocalOnly);
    assert_eq!(counts.dropped("unconfirmed"), 1);
    mode(&layer, Mode::Remote).await;
    layer.send("send.p!1", numbered(2)).await.unwrap();
    let mut receiver = layer.receiver(&["send.p!"]).unwrap();
    assert_eq!((next(&mut receiver).await, next(&mut receiver).await), (1, 2));
    receiver.close().await.unwrap();
    assert!(layer.try_receive(&["send.p!"]).await.unwrap().is_none());
}

#[tokio::test(flavor = "current_thread")]
async fn a_group_message_that_may_have_arrived_counts_once() {
    let recorder = DebuggingRecorder::new();
    let mut counts = Counts::of(&recorder);
    let _guard = metrics::set_default_local_recorder(&recorder);
    let server = RedisServer::start();
    let proxy = Proxy::before(&server.url()).await;
    let layer = connect(config([&*proxy.url()])).await;
    layer.group_add("room", "send.p!1").await.unwrap();
    // The layer then knows the members, and needs no answer before it sends.
    for n in 0..3 {
        layer.group_send("room", numbered(n)).await.unwrap();
    }
    proxy.deafen();
    within(DEADLINE, "an answer to a send", layer.group_send("room", numbered(3))).await.unwrap();
    assert_eq!(*layer.mode().borrow(), Mode::LocalOnly);
    assert_eq!(counts.all_dropped().values().sum::<u64>(), 1, "{:?}", counts.all_dropped());
}

#[tokio::test]
async fn a_half_open_connection_is_noticed() {
    let server = RedisServer::start();
    let proxy = Proxy::before(&server.url()).await;
    let layer = connect(config([&*proxy.url()])).await;
    let mut events = layer.events();
    proxy.freeze();
    event(&mut events, "the loss", |event| matches!(event, Event::LocalOnly { .. })).await;
    event(&mut events, "its end", |event| matches!(event, Event::Remote { .. })).await;
    layer.send("work", numbered(1)).await.unwrap();
    assert_eq!(number(&within(DEADLINE, "the message", redis(&server).await.receive(&["work"])).await.unwrap()), 1);
}

#[tokio::test]
async fn a_server_must_answer_for_a_while_before_it_is_used() {
    let mut server = RedisServer::start();
    let return_after = Duration::from_secs(2);
    let layer = connect(config([&*server.url()]).return_after(return_after)).await;
    let mut events = layer.events();
    server.stop();
    event(&mut events, "the loss", |event| matches!(event, Event::LocalOnly { .. })).await;
    // A server that is back within a second does not count as having been down.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    server.start_again();
    event(&mut events, "the server", |event| matches!(event, Event::ShardUp { .. })).await;
    let up = Instant::now();
    event(&mut events, "the return", |event| matches!(event, Event::Remote { .. })).await;
    assert!(up.elapsed() > return_after / 2, "after {:?}", up.elapsed());
}

#[tokio::test]
async fn broken_connections_do_not_delay_the_return() {
    let server = RedisServer::start();
    // After an outage the server would have to answer for longer than any test waits.
    let layer = connect(config([&*server.url()]).return_after(Duration::from_hours(1))).await;
    let mut events = layer.events();
    ask(&server.url(), "CLIENT KILL TYPE normal").await;
    event(&mut events, "the loss", |event| matches!(event, Event::LocalOnly { .. })).await;
    let again = event(&mut events, "its end", |event| matches!(event, Event::Remote { .. }));
    within(Duration::from_secs(2), "the end of the loss", again).await;
    layer.send("work", numbered(1)).await.unwrap();
    assert_eq!(number(&redis(&server).await.try_receive(&["work"]).await.unwrap().unwrap()), 1);
}

/// Commands that write wait, and all others are answered, as in a planned failover.
#[tokio::test]
async fn a_server_that_is_paused_for_writes_is_not_used() {
    let server = RedisServer::start();
    let layer = connect(config([&*server.url()])).await;
    let mut receiver = layer.receiver(&["work"]).unwrap();
    stays_here_while_writes_are_paused(&layer, &mut receiver, &server.url()).await;
}

#[tokio::test]
async fn a_server_that_refuses_messages_is_no_lasting_outage() {
    let mut server = RedisServer::start();
    let layer = connect(config([&*server.url()])).await;
    server.stop();
    mode(&layer, Mode::LocalOnly).await;
    server.start_again();
    ask(&server.url(), "CONFIG SET maxmemory 1").await;
    mode(&layer, Mode::Remote).await;
    let refused = layer.send("work", numbered(1)).await.unwrap_err();
    assert!(matches!(refused, Error::Redis { shard: 0, .. }), "{refused:?}");
}

#[tokio::test]
async fn a_flush_that_cannot_reach_the_server_fails() {
    let mut server = RedisServer::start();
    let layer = connect(config([&*server.url()])).await;
    server.stop();
    mode(&layer, Mode::LocalOnly).await;
    layer.send("work", numbered(1)).await.unwrap();
    let error = layer.flush().await.unwrap_err();
    assert!(error.is_transient() && error.may_have_run(), "{error:?}");
    assert!(layer.try_receive(&["work"]).await.unwrap().is_none(), "this process is empty all the same");
}

#[tokio::test]
async fn a_layer_with_several_servers_falls_back_as_a_whole() {
    let (mut first, second) = (RedisServer::start(), RedisServer::start());
    let urls = [first.url(), second.url()];
    let layer = connect(config(urls.iter().map(String::as_str))).await;
    let mut receiver = layer.receiver(&["send.p!"]).unwrap();
    first.stop();
    mode(&layer, Mode::LocalOnly).await;
    for room in 0..20 {
        let room = format!("room{room}");
        layer.group_add(&room, "send.p!1").await.unwrap();
        layer.group_send(&room, numbered(1)).await.unwrap();
        assert_eq!(next(&mut receiver).await, 1);
    }
    first.start_again();
    mode(&layer, Mode::Remote).await;
    for room in 0..20 {
        layer.group_send(&format!("room{room}"), numbered(2)).await.unwrap();
        assert_eq!(next(&mut receiver).await, 2);
    }
}
