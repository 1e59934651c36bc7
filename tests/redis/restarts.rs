//! Servers that restart, with or without their data.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use channel_layer::{ChannelLayer, Delivery, Error, Event, Receiver, RedisLayer};
use redis::AsyncCommands;
use tokio::task::JoinSet;

use super::tools::{Layer, Site, ask, connect, event, events_so_far, number, numbered, take_number};
use crate::support::{DEADLINE, RedisServer, eventually, within};

fn is_lost(event: &Event) -> bool {
    *event == Event::DataLost { shard: 0 }
}

fn is_up(event: &Event) -> bool {
    *event == Event::ShardUp { shard: 0 }
}

/// Receives the next message. One error of an outage may come before it.
pub(super) async fn recv_after_outage(receiver: &mut Receiver) -> Delivery {
    let first = within(DEADLINE, "a message or an error", receiver.recv()).await;
    match first {
        Err(Error::Redis { shard: 0, .. }) => within(DEADLINE, "a message", receiver.recv()).await.unwrap(),
        other => other.unwrap(),
    }
}

/// Starts readers of every kind of channel.
fn waiting_readers(layer: &Layer) -> JoinSet<(&'static str, i64)> {
    let mut waiting = JoinSet::new();
    for source in ["n", "l!", "s?a"] {
        let mut receiver = layer.receiver(&[source]).unwrap();
        waiting.spawn(async move { (source, number(&recv_after_outage(&mut receiver).await)) });
    }
    waiting
}

pub(super) async fn wait_for_blocked(server: &RedisServer, clients: usize) {
    let mut connection = server.connection().await;
    eventually(&format!("{clients} blocked reads"), async || {
        let info: String = ask(&mut connection, redis::cmd("INFO").arg("clients")).await;
        info.contains(&format!("blocked_clients:{clients}\r\n")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_empty_server_is_reported_and_used_again() {
    let mut server = RedisServer::start();
    let site = Site::on(std::slice::from_ref(&server));
    let (layer, peer) = (site.layer().await, site.layer().await);
    layer.group_add("g", "l!a").await.unwrap();
    layer.group_send("g", numbered(0)).await.unwrap();
    assert_eq!(take_number(&layer, "l!").await, 0);
    layer.send("lost?a", numbered(0)).await.unwrap();
    let mut waiting = waiting_readers(&layer);
    wait_for_blocked(&server, 3).await;
    let (mut events, mut peers) = (layer.events(), peer.events());
    server.restart();
    event(&mut events, "the loss", is_lost).await;
    event(&mut peers, "the loss at the other layer", is_lost).await;
    assert!(layer.group_channels("g").await.unwrap().is_empty());
    for (n, channel) in ["n", "l!a", "s?a"].into_iter().enumerate() {
        peer.send(channel, numbered(i64::try_from(n).unwrap())).await.unwrap();
    }
    let mut got = Vec::new();
    while let Some(next) = within(DEADLINE, "all readers", waiting.join_next()).await {
        got.push(next.unwrap());
    }
    got.sort_unstable();
    assert_eq!(got, [("l!", 1), ("n", 0), ("s?a", 2)]);
    layer.group_add("g", "l!b").await.unwrap();
    peer.group_send("g", numbered(5)).await.unwrap();
    let delivery = super::tools::take(&layer, "l!").await;
    assert_eq!((delivery.channel.as_str(), number(&delivery)), ("l!b", 5));
    assert!(layer.try_receive(&["l!", "n", "s?a", "lost?a"]).await.unwrap().is_none());
    assert!(!events_so_far(&mut events).iter().any(is_lost), "the loss was reported twice");
}

#[tokio::test]
async fn a_restarted_server_with_its_data_loses_nothing() {
    let mut server = RedisServer::durable();
    let site = Site::on(std::slice::from_ref(&server));
    let layer = site.layer().await;
    layer.group_add("g", "l!a").await.unwrap();
    for n in 0..5 {
        for channel in ["n", "l!a", "s?a"] {
            layer.send(channel, numbered(n)).await.unwrap();
        }
    }
    layer.group_send("g", numbered(5)).await.unwrap();
    let mut events = layer.events();
    server.restart();
    event(&mut events, "the end of the outage", is_up).await;
    assert_eq!(layer.group_channels("g").await.unwrap().len(), 1);
    for n in 0..5 {
        for source in ["n", "l!", "s?a"] {
            assert_eq!(take_number(&layer, source).await, n, "{source}");
        }
    }
    assert_eq!(take_number(&layer, "l!").await, 5);
    layer.group_send("g", numbered(6)).await.unwrap();
    assert_eq!(take_number(&layer, "l!").await, 6);
    assert!(!events_so_far(&mut events).iter().any(is_lost));
}

#[tokio::test]
async fn a_server_emptied_under_the_layer_is_reported_and_still_used() {
    let server = RedisServer::start();
    let site = Site::on(std::slice::from_ref(&server));
    let (layer, peer) = (site.layer().await, site.layer().await);
    let mut events = [layer.events(), peer.events()];
    layer.group_add("g", "l!a").await.unwrap();
    layer.group_add("g", "l!b").await.unwrap();
    peer.group_send("g", numbered(0)).await.unwrap();
    for _ in 0..2 {
        assert_eq!(take_number(&layer, "l!").await, 0);
    }
    let mut waiting = waiting_readers(&layer);
    wait_for_blocked(&server, 3).await;
    let () = ask(&mut server.connection().await, &redis::cmd("FLUSHALL")).await;
    for (n, channel) in ["n", "l!a", "s?a"].into_iter().enumerate() {
        peer.send(channel, numbered(i64::try_from(n).unwrap())).await.unwrap();
    }
    while let Some(next) = within(DEADLINE, "all readers", waiting.join_next()).await {
        next.unwrap();
    }
    for events in &mut events {
        event(events, "the loss", is_lost).await;
    }
    peer.group_send("g", numbered(1)).await.unwrap();
    // A former member that has not joined again is no member, even if readers have it in their cache.
    layer.group_add("g", "l!b").await.unwrap();
    peer.group_send("g", numbered(2)).await.unwrap();
    let delivery = super::tools::take(&layer, "l!").await;
    assert_eq!((delivery.channel.as_str(), number(&delivery)), ("l!b", 2));
    assert!(layer.try_receive(&["l!"]).await.unwrap().is_none());
    for events in &mut events {
        assert!(!events_so_far(events).iter().any(is_lost), "the loss was reported twice");
    }
    let epoch: Option<String> = server.connection().await.get(site.key("epoch")).await.unwrap();
    assert!(epoch.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_forgets_its_scripts_loses_nothing() {
    const MESSAGES: i64 = 1000;
    const FLUSHES: usize = 20;
    let server = RedisServer::start();
    let site = Site::on(std::slice::from_ref(&server));
    let layer = site.layer().await;
    layer.group_add("g", "members!a").await.unwrap();
    let mut senders = JoinSet::new();
    let sent: Vec<_> = (0..6).map(|_| Arc::new(AtomicI64::new(0))).collect();
    for (place, sent) in sent.iter().enumerate() {
        let (layer, sent) = (layer.clone(), sent.clone());
        senders.spawn(async move {
            for n in 0..MESSAGES {
                layer.send(&format!("s?{place}"), numbered(n)).await.unwrap();
                if place == 0 {
                    layer.group_send("g", numbered(n)).await.unwrap();
                    layer.group_add("g", "members!a").await.unwrap();
                }
                sent.store(n + 1, Ordering::Relaxed);
            }
        });
    }
    let flusher = async {
        let mut connection = server.connection().await;
        for _ in 0..FLUSHES {
            let () = ask(&mut connection, redis::cmd("SCRIPT").arg("FLUSH")).await;
            // The next flush happens after every sender has sent again.
            let before: Vec<_> = sent.iter().map(|sent| sent.load(Ordering::Relaxed)).collect();
            eventually("progress of all senders", async || {
                let moved = sent.iter().zip(&before).all(|(sent, before)| {
                    let now = sent.load(Ordering::Relaxed);
                    now > before + 2 || now == MESSAGES
                });
                moved.then_some(())
            })
            .await;
        }
    };
    flusher.await;
    within(DEADLINE * 2, "all senders", senders.join_all()).await;
    for place in 0..6 {
        let mut receiver = layer.receiver(&[&format!("s?{place}")]).unwrap();
        for n in 0..MESSAGES {
            assert_eq!(number(&within(DEADLINE, "a message", receiver.recv()).await.unwrap()), n);
        }
    }
    let mut receiver = layer.receiver(&["members!"]).unwrap();
    for n in 0..MESSAGES {
        assert_eq!(number(&within(DEADLINE, "a message", receiver.recv()).await.unwrap()), n);
    }
    // A put-back runs a script too.
    for n in 0..3 {
        layer.send("s?0", numbered(n)).await.unwrap();
    }
    let mut receiver = layer.receiver(&["s?0"]).unwrap();
    within(DEADLINE, "the first", receiver.recv()).await.unwrap();
    let () = ask(&mut server.connection().await, redis::cmd("SCRIPT").arg("FLUSH")).await;
    receiver.close().await.unwrap();
    assert_eq!([take_number(&layer, "s?0").await, take_number(&layer, "s?0").await], [1, 2]);
}

#[tokio::test]
async fn sends_during_an_outage_fail_at_once_and_work_after_it() {
    let mut server = RedisServer::start();
    let site = Site::on(std::slice::from_ref(&server));
    let layer = connect(site.config().command_timeout(Duration::from_millis(500))).await;
    let mut events = layer.events();
    server.stop();
    event(&mut events, "the outage", |event| matches!(event, Event::ShardDown { shard: 0, .. })).await;
    for channel in ["n", "l!a", "s?a"] {
        let sent = within(Duration::from_secs(5), "a refusal", layer.send(channel, numbered(0))).await;
        assert!(matches!(&sent, Err(error @ Error::Redis { shard: 0, .. }) if error.is_transient()), "{sent:?}");
    }
    let calls = async {
        [
            layer.group_add("g", "n").await,
            layer.group_discard("g", "n").await,
            layer.group_send("g", numbered(0)).await,
            layer.flush().await,
            layer.global_statistics().await.map(|_| ()),
            layer.channel_statistics("n").await.map(|_| ()),
            layer.group_channels("g").await.map(|_| ()),
            layer.new_channel("x?").await.map(|_| ()),
            layer.try_receive(&["n"]).await.map(|_| ()),
            layer.receive(&["n"]).await.map(|_| ()),
            layer.receive(&["s?a"]).await.map(|_| ()),
        ]
    };
    for result in within(DEADLINE, "refusals", calls).await {
        assert!(matches!(result, Err(Error::Redis { shard: 0, .. })), "{result:?}");
    }
    server.start_again();
    event(&mut events, "the end of the outage", is_up).await;
    for channel in ["n", "l!a", "s?a"] {
        layer.send(channel, numbered(1)).await.unwrap();
    }
    let mut receiver = layer.receiver(&["n"]).unwrap();
    assert_eq!(number(&recv_after_outage(&mut receiver).await), 1);
}

/// Returns a receiver that has delivered the first of five messages and holds the others, and its stopped server.
async fn holding_through_an_outage(server: &mut RedisServer, layer: &Layer) -> Receiver {
    for n in 0..5 {
        layer.send("s?a", numbered(n)).await.unwrap();
    }
    let mut receiver = layer.receiver(&["s?a"]).unwrap();
    assert_eq!(number(&within(DEADLINE, "the first", receiver.recv()).await.unwrap()), 0);
    let mut events = layer.events();
    server.stop();
    event(&mut events, "the outage", |event| matches!(event, Event::ShardDown { shard: 0, .. })).await;
    receiver
}

#[tokio::test]
async fn the_next_reader_gets_messages_held_during_an_outage_before_newer_ones() {
    let mut server = RedisServer::start();
    let layer = Site::on(std::slice::from_ref(&server)).layer().await;
    drop(holding_through_an_outage(&mut server, &layer).await);
    let mut next = layer.receiver(&["s?a"]).unwrap();
    for n in 1..3 {
        assert_eq!(number(&recv_after_outage(&mut next).await), n);
    }
    drop(next);
    let mut events = layer.events();
    server.start_again();
    event(&mut events, "the end of the outage", is_up).await;
    layer.send("s?a", numbered(5)).await.unwrap();
    for n in 3..6 {
        let delivery = within(DEADLINE, "a message", layer.receive(&["s?a"])).await.unwrap();
        assert_eq!(number(&delivery), n);
    }
}

#[tokio::test]
async fn the_messages_of_a_dropped_receiver_are_put_back_however_long_the_outage() {
    let mut server = RedisServer::start();
    let site = Site::on(std::slice::from_ref(&server));
    let layer = site.layer().await;
    drop(holding_through_an_outage(&mut server, &layer).await);
    // Longer than `close` would wait.
    tokio::time::sleep(Duration::from_secs(6)).await;
    server.start_again();
    let other = eventually("the server", async || RedisLayer::connect(site.config()).await.ok()).await;
    for n in 1..5 {
        assert_eq!(take_number(&other, "s?a").await, n);
    }
}

#[tokio::test]
async fn closing_during_an_outage_ends() {
    let mut server = RedisServer::start();
    let site = Site::on(std::slice::from_ref(&server));
    let layer = connect(site.config().command_timeout(Duration::from_millis(500))).await;
    for n in 0..5 {
        layer.send("s?a", numbered(n)).await.unwrap();
    }
    let mut receiver = layer.receiver(&["s?a"]).unwrap();
    assert_eq!(number(&within(DEADLINE, "the first", receiver.recv()).await.unwrap()), 0);
    let mut waiting = layer.receiver(&["n"]).unwrap();
    let waiting = tokio::spawn(async move { waiting.recv().await });
    wait_for_blocked(&server, 1).await;
    server.stop();
    let closed = within(DEADLINE, "the end of closing", layer.close()).await;
    assert!(matches!(closed, Err(Error::Redis { shard: 0, .. })), "four messages could not be put back: {closed:?}");
    let waited = within(DEADLINE, "the end of the wait", waiting).await.unwrap();
    assert!(matches!(waited, Err(Error::Closed | Error::Redis { .. })), "{waited:?}");
}
