//! Retries of commands, and TCP keepalive.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use channel_layer::django::{AsgiRedisLayer, ChannelsRedisLayer};
use channel_layer::{ChannelLayer, Config, Delivery, Error, Event, Format, Receiver, message};
use metrics_util::debugging::DebuggingRecorder;
use redis::AsyncCommands;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::restarts::{recv_after_outage, wait_for_blocked};
use super::tools::{Layer, Site, ask, connect, event, number, numbered, take_number, take_numbers};
use crate::support::{Counts, DEADLINE, Proxy, RedisServer, eventually, interrupted, python_formats, within};

const SHORT: Duration = Duration::from_millis(500);

#[tokio::test]
async fn a_command_that_cannot_have_run_waits_for_the_server_if_retries_are_configured() {
    let mut server = RedisServer::durable();
    let site = Site::on(std::slice::from_ref(&server));
    let patient = connect(site.config().retry_attempts(30).retry_backoff(Duration::from_millis(50))).await;
    let hasty = connect(site.config()).await;
    server.stop();
    eventually("layers that have noticed", async || {
        (hasty.send("s?a", numbered(0)).await.is_err() && hasty.channel_statistics("s?a").await.is_err()).then_some(())
    })
    .await;
    let sent = tokio::spawn(async move {
        // The first send may have been in flight when the server stopped.
        let _ = patient.send("s?a", numbered(1)).await;
        (patient.send("s?b", numbered(2)).await, patient)
    });
    let began = Instant::now();
    let refused = hasty.send("s?b", numbered(3)).await;
    assert!(matches!(refused, Err(Error::Redis { shard: 0, .. })), "{refused:?}");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    server.start_again();
    let (sent, patient) = within(DEADLINE, "a send that waited", sent).await.unwrap();
    sent.unwrap();
    assert_eq!(take_number(&patient, "s?b").await, 2);
}

#[tokio::test]
async fn a_message_to_a_normal_channel_waits_until_one_of_the_servers_is_back() {
    for count in [1, 2] {
        let mut servers: Vec<_> = (0..count).map(|_| RedisServer::durable()).collect();
        let site = Site::on(&servers);
        let layer = connect(site.config().retry_attempts(100).retry_backoff(Duration::from_millis(50))).await;
        let mut events = layer.events();
        for (index, server) in servers.iter_mut().enumerate() {
            server.stop();
            event(
                &mut events,
                "the outage",
                |event| matches!(event, Event::ShardDown { shard, .. } if *shard == index),
            )
            .await;
        }
        let mut sends = Box::pin(futures_util::future::join_all((0..4).map(|n| layer.send("n", numbered(n)))));
        assert!(timeout(SHORT, &mut sends).await.is_err(), "they wait");
        servers[0].start_again();
        for sent in within(DEADLINE, "the sends that wait", sends).await {
            sent.unwrap();
        }
        let stored: i64 = servers[0].connection().await.llen(site.list("n")).await.unwrap();
        assert_eq!(stored, 4, "{count} servers");
    }
}

#[tokio::test]
async fn a_message_goes_on_to_another_server_while_an_earlier_one_of_its_call_waits() {
    let mut servers = [RedisServer::start(), RedisServer::start(), RedisServer::start()];
    let site = Site::on(&servers);
    let layer = connect(site.config().retry_attempts(100)).await;
    let pinned = site.pinned_channels(&layer, &servers).await;
    let mut events = layer.events();
    servers[1].stop();
    event(&mut events, "the outage", |event| matches!(event, Event::ShardDown { .. })).await;
    let () = ask(&mut servers[0].connection().await, redis::cmd("CONFIG").arg(&["SET", "maxmemory", "1"])).await;
    let messages = [(&*pinned[1], numbered(0)), ("n", numbered(1)), ("n", numbered(2)), ("n", numbered(3))];
    let connection = servers[2].connection().await;
    let others_are_sent = eventually("the other messages", async || {
        let stored: i64 = connection.clone().llen(site.list("n")).await.unwrap();
        (stored == 3).then_some(())
    });
    tokio::select! {
        sent = layer.send_many(&messages) => panic!("the first message waits: {sent:?}"),
        () = others_are_sent => {}
    }
}

#[tokio::test]
async fn messages_that_another_server_accepts_do_not_wait_for_an_unreachable_one() {
    let servers = [RedisServer::start(), RedisServer::start()];
    let proxy = Proxy::before(&servers[1].url()).await;
    let config = Site::at([servers[0].url(), proxy.url()]).config().capacity(1000).command_timeout(SHORT);
    let layer = connect(config.retry_attempts(100)).await;
    // The outcome of the send in flight is unknown, and the next send waits in the same queue.
    proxy.refuse_new();
    proxy.freeze();
    let sends = (0..40).map(|n| layer.send("n", numbered(n)));
    let sent = within(DEADLINE, "all sends", futures_util::future::join_all(sends)).await;
    let failed = sent.iter().filter(|sent| sent.is_err()).count();
    assert_eq!(failed, 1, "{sent:?}");
}

#[tokio::test]
async fn messages_that_another_server_accepts_do_not_wait_behind_a_refused_one() {
    let servers = [RedisServer::start(), RedisServer::start()];
    let site = Site::on(&servers);
    let layer = connect(site.config().capacity(1000).retry_attempts(100)).await;
    let pinned = site.pinned_channels(&layer, &servers).await;
    let mut connection = servers[0].connection().await;
    let () = ask(&mut connection, redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg(1)).await;
    let mut refused = Box::pin(layer.send(&pinned[0], numbered(0)));
    assert!(timeout(SHORT, &mut refused).await.is_err(), "it waits");
    // Some of these channels use the same queue.
    let names: Vec<_> = (0..40).map(|n| format!("n{}", n % 8)).collect();
    let sends = names.iter().map(|name| layer.send(name, numbered(0)));
    for sent in within(DEADLINE, "all sends", futures_util::future::join_all(sends)).await {
        sent.unwrap();
    }
    let () = ask(&mut connection, redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg(0)).await;
    within(DEADLINE, "the message that was refused", refused).await.unwrap();
}

#[tokio::test]
async fn messages_without_a_caller_do_not_wait_for_an_unreachable_server_and_are_counted() {
    let recorder = DebuggingRecorder::new();
    let mut counts = Counts::of(&recorder);
    let _local = metrics::set_default_local_recorder(&recorder);
    let mut server = RedisServer::start();
    let config = Site::on(std::slice::from_ref(&server)).config();
    let layer = patient_without(&mut server, config).await;
    for n in 0..100 {
        assert!(interrupted(1, DEADLINE, layer.send("s?a", numbered(n))).await.is_none(), "it waits");
    }
    let mut last = Box::pin(layer.send("s?a", numbered(100)));
    assert!(interrupted(1, DEADLINE, &mut last).await.is_none(), "it waits");
    server.start_again();
    within(DEADLINE, "the send that is waited for", last).await.unwrap();
    assert_eq!(take_numbers(&layer, "s?a").await, [100]);
    assert_eq!(counts.dropped("shard_down"), 100);
}

#[tokio::test]
async fn each_message_of_a_dropped_call_that_is_not_sent_counts_once() {
    let recorder = DebuggingRecorder::new();
    let mut counts = Counts::of(&recorder);
    let _local = metrics::set_default_local_recorder(&recorder);
    let mut servers = [RedisServer::start(), RedisServer::start()];
    let site = Site::on(&servers);
    let layer = connect(site.config().retry_attempts(100).capacity(1)).await;
    let pinned = site.pinned_channels(&layer, &servers).await;
    let mut events = layer.events();
    servers[1].stop();
    event(&mut events, "the outage", |event| matches!(event, Event::ShardDown { .. })).await;
    let sent_before = counts.counter("channel_layer_sent_total");
    let messages = [(&*pinned[1], numbered(1)), (&*pinned[0], numbered(2)), (&*pinned[0], numbered(3))];
    let mut sending = Box::pin(layer.send_many(&messages));
    assert!(interrupted(1, DEADLINE, &mut sending).await.is_none(), "the first message waits");
    eventually("the second message", async || (counts.counter("channel_layer_sent_total") > sent_before).then_some(()))
        .await;
    assert_eq!(counts.all_dropped(), BTreeMap::new(), "the call may still report them");
    drop(sending);
    let expected = BTreeMap::from([("full".to_owned(), 1), ("shard_down".to_owned(), 1)]);
    eventually("the counts of the others", async || (counts.all_dropped() == expected).then_some(())).await;
}

/// Returns a layer that retries for minutes and has detected that its server is unreachable.
async fn patient_without(server: &mut RedisServer, config: Config) -> Layer {
    let layer = connect(config.retry_attempts(100).retry_backoff(Duration::from_millis(50))).await;
    let mut events = layer.events();
    server.stop();
    event(&mut events, "the outage", |event| matches!(event, Event::ShardDown { .. })).await;
    layer
}

#[tokio::test]
async fn large_messages_wait_for_the_server_too_and_keep_their_order() {
    let mut server = RedisServer::start();
    let config = Site::on(std::slice::from_ref(&server)).config();
    let layer = patient_without(&mut server, config).await;
    let mut senders = Vec::new();
    let large = |number| message! { "number": number, "body": vec![b'x'; 40_000] };
    for message in [large(0), numbered(1), large(2), numbered(3)] {
        let mut sending = Box::pin(layer.send("s?a", message));
        assert!(interrupted(1, DEADLINE, &mut sending).await.is_none(), "it waits");
        senders.push(sending);
    }
    server.start_again();
    for sending in senders {
        within(DEADLINE, "a send that waited", sending).await.unwrap();
    }
    assert_eq!(take_numbers(&layer, "s?a").await, [0, 1, 2, 3]);
}

#[tokio::test]
async fn a_message_opens_after_waiting_for_its_server_for_longer_than_its_expiry() {
    let mut server = RedisServer::start();
    let config = Site::on(std::slice::from_ref(&server)).config();
    let config = config.symmetric_encryption_keys(["secret"]).expiry(Duration::from_secs(2));
    let layer = patient_without(&mut server, config).await;
    let mut sending = Box::pin(layer.send("s?a", numbered(1)));
    assert!(interrupted(1, DEADLINE, &mut sending).await.is_none(), "it waits");
    // The expiry, and the additional 10 s for which a body opens.
    tokio::time::sleep(Duration::from_secs(13)).await;
    server.start_again();
    let (sent, received) =
        within(DEADLINE, "the message", async { tokio::join!(sending, recv_after_outage_of(&layer, "s?a")) }).await;
    sent.unwrap();
    assert_eq!(received, 1);
}

#[tokio::test]
async fn a_message_that_waited_for_a_server_never_reached_before_opens() {
    let mut servers = [RedisServer::start(), RedisServer::start()];
    let site = Site::on(&servers);
    let pinned = site.pinned_channels(&*site.layer().await, &servers).await;
    servers[1].stop();
    let config = site.config().symmetric_encryption_keys(["secret"]).retry_attempts(100);
    let layer = connect(config.retry_backoff(Duration::from_millis(50))).await;
    let mut sending = Box::pin(layer.send(&pinned[1], numbered(1)));
    assert!(interrupted(1, DEADLINE, &mut sending).await.is_none(), "it waits");
    servers[1].start_again();
    within(DEADLINE, "a send that waited", sending).await.unwrap();
    assert_eq!(take_number(&layer, &pinned[1]).await, 1);
}

#[tokio::test]
async fn a_message_of_python_that_waits_for_its_server_is_encrypted_when_it_is_sent() {
    for format in python_formats() {
        let mut server = RedisServer::start();
        let config = Site::on(std::slice::from_ref(&server)).config().format(format);
        let config = config.symmetric_encryption_keys(["secret"]).retry_attempts(100);
        server.stop();
        let layer = connect_or_wait(config.retry_backoff(Duration::from_millis(50)), format).await;
        let mut sending = Box::pin(layer.send("s?a", numbered(1)));
        assert!(interrupted(1, DEADLINE, &mut sending).await.is_none(), "it waits");
        server.start_again();
        within(DEADLINE, "a send that waited", sending).await.unwrap();
        assert_eq!(number(&within(DEADLINE, "the message", layer.receive(&["s?a"])).await.unwrap()), 1, "{format:?}");
    }
}

/// A layer in one of Python's formats, whether or not its server is reachable.
async fn connect_or_wait(config: Config, format: Format) -> Arc<dyn ChannelLayer> {
    match format {
        Format::ChannelsRedis => Arc::new(ChannelsRedisLayer::connect_or_wait(config).await.unwrap()),
        Format::AsgiRedis => Arc::new(AsgiRedisLayer::connect_or_wait(config).await.unwrap()),
        other => panic!("name the layer of {other:?} here"),
    }
}

#[tokio::test]
async fn layers_in_the_formats_of_python_wait_for_the_server_as_well() {
    for format in python_formats() {
        let mut server = RedisServer::durable();
        let config = Site::on(std::slice::from_ref(&server)).config().format(format);
        let config = config.retry_attempts(30).retry_backoff(Duration::from_millis(50));
        let layer = channel_layer::connect(config).await.unwrap();
        let mut events = layer.events();
        server.stop();
        event(&mut events, "the outage", |event| matches!(event, Event::ShardDown { .. })).await;
        let waiting = layer.clone();
        let sent = tokio::spawn(async move { waiting.send("s?b", numbered(2)).await });
        server.start_again();
        within(DEADLINE, "a send that waited", sent).await.unwrap().unwrap();
        assert_eq!(number(&within(DEADLINE, "the message", layer.receive(&["s?b"])).await.unwrap()), 2);
    }
}

#[tokio::test]
async fn retries_end_after_the_configured_attempts() {
    let mut server = RedisServer::start();
    let site = Site::on(std::slice::from_ref(&server));
    let layer = connect(site.config().retry_attempts(3).retry_backoff(Duration::from_millis(20))).await;
    server.stop();
    let _ = layer.send("s?a", numbered(0)).await;
    let sent = within(DEADLINE, "the end of the attempts", layer.send("s?a", numbered(1))).await;
    assert!(matches!(sent, Err(Error::Redis { shard: 0, .. })), "{sent:?}");
}

#[tokio::test]
async fn a_lookup_of_members_whose_answer_is_lost_is_retried_or_reports_that_nothing_was_sent() {
    for (format, attempts) in [Format::Native, Format::ChannelsRedis].into_iter().flat_map(|f| [(f, 0), (f, 10)]) {
        let server = RedisServer::start();
        let proxy = Proxy::before(&server.url()).await;
        let config = Site::at([proxy.url()]).config().format(format).retry_attempts(attempts);
        let layer = channel_layer::connect(config).await.unwrap();
        layer.group_add("looked-up", "p!a").await.unwrap();
        for many in [false, true] {
            let mut events = layer.events();
            proxy.lose_answer_to(b"looked-up");
            let sending = async {
                if many {
                    layer.group_send_many(&[("looked-up", numbered(0))]).await.remove(0)
                } else {
                    layer.group_send("looked-up", numbered(0)).await
                }
            };
            let sent = within(DEADLINE, "the end of the send", sending).await;
            if attempts > 0 {
                sent.unwrap();
                let delivery = within(DEADLINE, "the message", layer.receive(&["p!"])).await.unwrap();
                assert_eq!(number(&delivery), 0, "{format:?}");
            } else {
                let error = sent.unwrap_err();
                assert!(error.is_transient() && !error.may_have_run(), "{format:?}, {many}: {error:?}");
                event(&mut events, "the next connection", |event| matches!(event, Event::ShardUp { .. })).await;
            }
        }
    }
}

#[tokio::test]
async fn idle_connections_are_probed_by_the_kernel() {
    let server = RedisServer::with(&["--tcp-keepalive", "0"]);
    let layer = connect(Site::on(std::slice::from_ref(&server)).config()).await;
    layer.send("n", numbered(0)).await.unwrap();
    take_number(&layer, "n").await;
    // Local address, remote address, state, queues, and then the timer: 02 stands for keepalive (proc(5)).
    let port = format!(":{:04X}", server.port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let ours: Vec<_> = rows.filter(|row| row.len() > 5 && row[2].ends_with(&port) && row[3] == "01").collect();
    assert!(ours.len() >= 2, "the shared connection and one that reads are open");
    for row in ours {
        assert!(row[5].starts_with("02:"), "no keepalive on {row:?}");
    }
}

/// Receives the number of the next message. One error of an outage may come before it.
async fn recv_after_outage_of(layer: &Layer, channel: &str) -> i64 {
    let mut receiver = layer.receiver(&[channel]).unwrap();
    number(&recv_after_outage(&mut receiver).await)
}

/// Returns a layer that retries for minutes, holds four messages and waits for others.
async fn patient_and_at_work(server: &RedisServer) -> (Layer, Receiver, JoinHandle<channel_layer::Result<Delivery>>) {
    let config = Site::on(std::slice::from_ref(server)).config().retry_attempts(30);
    let layer = connect(config.command_timeout(SHORT).blocking_timeout(SHORT)).await;
    for n in 0..5 {
        layer.send("s?a", numbered(n)).await.unwrap();
    }
    let mut holding = layer.receiver(&["s?a"]).unwrap();
    assert_eq!(number(&within(DEADLINE, "the first", holding.recv()).await.unwrap()), 0);
    let mut waiting = layer.receiver(&["n"]).unwrap();
    let waiting = tokio::spawn(async move { waiting.recv().await });
    wait_for_blocked(server, 1).await;
    (layer, holding, waiting)
}

#[tokio::test]
async fn closing_does_not_wait_for_an_unreachable_server_whatever_the_attempts() {
    for freezes in [false, true] {
        let mut server = RedisServer::start();
        let (layer, _holding, waiting) = patient_and_at_work(&server).await;
        let mut events = layer.events();
        if freezes {
            server.freeze();
        } else {
            server.stop();
        }
        let sending = layer.clone();
        let sending = tokio::spawn(async move {
            // The first send may have been in flight when the server stopped.
            let _ = sending.send("s?b", numbered(0)).await;
            sending.send("s?b", numbered(1)).await
        });
        event(&mut events, "the outage", |event| matches!(event, Event::ShardDown { .. })).await;
        let closed = within(DEADLINE, "the end of closing", layer.close()).await;
        assert!(
            matches!(closed, Err(Error::Redis { shard: 0, .. })),
            "four messages could not be put back: {closed:?}"
        );
        within(DEADLINE, "the end of the wait", waiting).await.unwrap().unwrap_err();
        within(DEADLINE, "the end of the send", sending).await.unwrap().unwrap_err();
        if freezes {
            server.thaw();
        }
    }
}

#[tokio::test]
async fn the_next_reader_does_not_wait_for_impossible_put_backs_whatever_the_attempts() {
    let mut server = RedisServer::start();
    let (layer, holding, _waiting) = patient_and_at_work(&server).await;
    let mut events = layer.events();
    server.stop();
    event(&mut events, "the outage", |event| matches!(event, Event::ShardDown { .. })).await;
    drop(holding);
    // Long enough for the put-back to start.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut next = layer.receiver(&["s?a"]).unwrap();
    for n in 1..5 {
        assert_eq!(number(&recv_after_outage(&mut next).await), n);
    }
}
