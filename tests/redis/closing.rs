//! Closing a layer while others send through it and read from it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use channel_layer::{ChannelLayer, Error};
use futures_util::FutureExt;
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::tools::{Layer, Site, ask, connect, number, numbered, take_numbers};
use crate::support::{DEADLINE, FORMATS, RedisServer, TestedFormat, eventually, shared_servers, within};

const SOURCES: [&str; 4] = ["work", "single?x", "local!", "members!"];

/// Numbers, from many tasks.
type Numbers = Arc<Mutex<Vec<i64>>>;

/// Sends through `layer` until it closes, and records the sent numbers.
async fn send(layer: Layer, next: Arc<AtomicI64>, sent: Numbers) {
    loop {
        let n = next.fetch_add(1, Ordering::Relaxed);
        let result = match n % 4 {
            0 => layer.send("work", numbered(n)).await,
            1 => layer.send("single?x", numbered(n)).await,
            2 => layer.send("local!a", numbered(n)).await,
            _ => layer.group_send("g", numbered(n)).await,
        };
        match result {
            Ok(()) => sent.lock().push(n),
            Err(Error::Closed) => return,
            Err(other) => panic!("{other:?}"),
        }
    }
}

/// Reads through `layer` until it closes, and records the received numbers.
async fn read(layer: Layer, source: &'static str, by_receiver: bool, got: Numbers) {
    if !by_receiver {
        loop {
            match layer.receive(&[source]).await {
                Ok(delivery) => got.lock().push(number(&delivery)),
                Err(Error::Closed) => return,
                Err(other) => panic!("{other:?}"),
            }
        }
    }
    let mut receiver = layer.receiver(&[source]).unwrap();
    let mut deliveries = Vec::new();
    loop {
        match receiver.recv_many(&mut deliveries, 10).await {
            Ok(_) => got.lock().extend(deliveries.drain(..).map(|delivery| number(&delivery))),
            Err(Error::Closed) => return,
            Err(other) => panic!("{other:?}"),
        }
    }
}

async fn close_at_work(servers: &[RedisServer]) {
    for round in 0..8 {
        let site = Site::on(servers);
        let (closing, next_layer) = (connect(site.config()).await, connect(site.config()).await);
        closing.group_add("g", "members!a").await.unwrap();
        let (sent, got) = (Numbers::default(), Numbers::default());
        let next = Arc::new(AtomicI64::new(0));
        let mut tasks = JoinSet::new();
        for _ in 0..16 {
            tasks.spawn(send(closing.clone(), next.clone(), sent.clone()));
        }
        for (place, source) in SOURCES.into_iter().enumerate() {
            // In some rounds a channel has no reader.
            if place != round % 5 {
                tasks.spawn(read(closing.clone(), source, (place + round) % 2 == 0, got.clone()));
            }
        }
        eventually("work", async || (got.lock().len() > 200).then_some(())).await;
        within(DEADLINE, "the end of closing", closing.close()).await.unwrap();
        within(DEADLINE, "the end of all work", tasks.join_all()).await;
        let mut all = std::mem::take(&mut *got.lock());
        for source in SOURCES {
            all.extend(take_numbers(&next_layer, source).await);
        }
        all.sort_unstable();
        let mut sent = std::mem::take(&mut *sent.lock());
        sent.sort_unstable();
        let missing: Vec<_> = sent.iter().filter(|n| all.binary_search(n).is_err()).collect();
        let strange: Vec<_> = all.iter().filter(|n| sent.binary_search(n).is_err()).collect();
        assert!(missing.is_empty() && strange.is_empty(), "missing {missing:?}, never sent {strange:?}");
        assert_eq!(all.len(), sent.len(), "some came twice");
        next_layer.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_under_load_neither_loses_nor_duplicates_messages_on_one_shard() {
    close_at_work(&shared_servers()[..1]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_under_load_neither_loses_nor_duplicates_messages_on_three_shards() {
    close_at_work(shared_servers()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_a_reader_keeps_the_order_for_the_next() {
    let site = Site::on(shared_servers());
    let sender = connect(site.config()).await;
    let sending = tokio::spawn(async move {
        for n in 0..2000 {
            sender.send("order!a", numbered(n)).await.unwrap();
        }
    });
    let mut expected = 0;
    while expected < 2000 {
        let layer = connect(site.config()).await;
        let mut receiver = layer.receiver(&["order!"]).unwrap();
        for _ in 0..100.min(2000 - expected) {
            let delivery = within(DEADLINE, "a message", receiver.recv()).await.unwrap();
            assert_eq!(number(&delivery), expected);
            expected += 1;
        }
        within(DEADLINE, "the end of closing", layer.close()).await.unwrap();
    }
    sending.await.unwrap();
}

#[tokio::test]
async fn a_dropped_layer_puts_back_in_the_background() {
    let site = Site::on(shared_servers());
    let other = connect(site.config()).await;
    let dropped = connect(site.config()).await;
    for n in 0..10 {
        dropped.send("s?a", numbered(n)).await.unwrap();
    }
    let mut receiver = dropped.receiver(&["s?a"]).unwrap();
    assert_eq!(number(&within(DEADLINE, "a message", receiver.recv()).await.unwrap()), 0);
    drop((receiver, dropped));
    for n in 1..10 {
        assert_eq!(super::tools::take_number(&other, "s?a").await, n);
    }
}

#[tokio::test]
async fn closing_ends_if_the_server_permanently_refuses_put_backs() {
    let server = RedisServer::start();
    let layer = Site::on(std::slice::from_ref(&server)).layer().await;
    for n in 0..5 {
        layer.send("refused!a", numbered(n)).await.unwrap();
    }
    let mut receiver = layer.receiver(&["refused!"]).unwrap();
    within(DEADLINE, "the first message", receiver.recv()).await.unwrap();
    let () = ask(&mut server.connection().await, redis::cmd("ACL").arg("SETUSER").arg("default").arg("-evalsha")).await;
    let closed = within(DEADLINE, "the end of the receiver", receiver.close()).await;
    assert!(matches!(closed, Err(Error::Redis { .. })), "{closed:?}");
}

#[tokio::test]
async fn closing_waits_for_a_group_send_in_flight() {
    let server = RedisServer::start();
    let mut connection = server.connection().await;
    let site = Site::on(std::slice::from_ref(&server));
    let layer = site.layer().await;
    layer.group_add("g", "p!a").await.unwrap();
    // From the second send on the routes are known, and messages bypass the send queues.
    for n in 0..3 {
        layer.group_send("g", numbered(n)).await.unwrap();
    }
    let () = ask(&mut connection, redis::cmd("CLIENT").arg("PAUSE").arg(60_000).arg("WRITE")).await;
    let mut sending = Box::pin(layer.group_send("g", numbered(3)));
    assert!(timeout(Duration::from_millis(100), &mut sending).await.is_err(), "no answer comes");
    let mut closing = Box::pin(layer.close());
    assert!(timeout(Duration::from_millis(300), &mut closing).await.is_err(), "it waits");
    let () = ask(&mut connection, redis::cmd("CLIENT").arg("UNPAUSE")).await;
    let (sent, closed) = within(DEADLINE, "both", async { tokio::join!(sending, closing) }).await;
    sent.unwrap();
    closed.unwrap();
    let again = site.layer().await;
    assert_eq!(take_numbers(&again, "p!").await, [0, 1, 2, 3]);
}

#[tokio::test]
async fn closing_waits_for_a_message_of_send_many_that_moves_to_another_server() {
    let servers = [RedisServer::start(), RedisServer::start()];
    let site = Site::on(&servers);
    // Each server may hold two messages of the channel, and the first server has two.
    let layer = connect(site.config().capacity(4)).await;
    let filling = connect(site.config().hosts([servers[0].url()])).await;
    for n in 0..2 {
        filling.send("n", numbered(n)).await.unwrap();
    }
    let mut connection = servers[0].connection().await;
    let () = ask(&mut connection, redis::cmd("CLIENT").arg("PAUSE").arg(60_000).arg("WRITE")).await;
    // One of the two messages waits for the first server, which will refuse it.
    let messages = [("n", numbered(2)), ("n", numbered(3))];
    let mut sending = Box::pin(layer.send_many(&messages));
    assert!(timeout(Duration::from_millis(100), &mut sending).await.is_err(), "no answer comes");
    let mut closing = Box::pin(layer.close());
    assert!(timeout(Duration::from_millis(300), &mut closing).await.is_err(), "it waits");
    let () = ask(&mut connection, redis::cmd("CLIENT").arg("UNPAUSE")).await;
    let (sent, closed) = within(DEADLINE, "both", async { tokio::join!(sending, closing) }).await;
    assert!(sent.iter().all(Result::is_ok), "{sent:?}");
    closed.unwrap();
    let next_layer = site.layer().await;
    let mut all = take_numbers(&next_layer, "n").await;
    all.sort_unstable();
    assert_eq!(all, [0, 1, 2, 3]);
}

#[tokio::test]
async fn closing_does_not_wait_for_a_call_that_is_not_polled() {
    let server = RedisServer::start();
    let mut connection = server.connection().await;
    let site = Site::on(std::slice::from_ref(&server));
    let layer = connect(site.config().command_timeout(Duration::from_secs(1))).await;
    layer.group_add("g", "p!a").await.unwrap();
    let () = ask(&mut connection, redis::cmd("CLIENT").arg("PAUSE").arg(60_000).arg("WRITE")).await;
    let mut sending = Box::pin(layer.group_send("g", numbered(0)));
    assert!(timeout(Duration::from_millis(100), &mut sending).await.is_err(), "no answer comes");
    within(DEADLINE, "the end of closing", layer.close()).await.unwrap();
    drop(sending);
}

#[tokio::test]
async fn a_group_send_that_is_not_polled_delays_neither_other_sends_nor_close() {
    let server = RedisServer::start();
    let mut connection = server.connection().await;
    let config = Site::on(std::slice::from_ref(&server)).config();
    let layer = connect(config.command_timeout(Duration::from_secs(1))).await;
    layer.group_add("g", "p!a").await.unwrap();
    for n in 0..3 {
        // From the second send on the layer knows the route, and sends past the queue of the channel.
        layer.group_send("g", numbered(n)).await.unwrap();
    }
    let mut pause = redis::cmd("CLIENT");
    pause.arg("PAUSE").arg(60_000).arg("WRITE");
    let () = ask(&mut connection, &pause).await;
    let mut sending = Box::pin(layer.group_send("g", numbered(3)));
    assert!(sending.as_mut().now_or_never().is_none(), "no answer comes while writes are paused");
    let () = ask(&mut connection, redis::cmd("CLIENT").arg("UNPAUSE")).await;
    within(DEADLINE, "a send on the same queue", layer.send("p!b", numbered(4))).await.unwrap();
    let mut receiver = layer.receiver(&["p!"]).unwrap();
    for n in 0..5 {
        assert_eq!(number(&within(DEADLINE, "a message", receiver.recv()).await.unwrap()), n);
    }
    within(DEADLINE, "the end of closing", layer.close()).await.unwrap();
    drop(sending);
}

#[tokio::test]
async fn nothing_is_sent_after_close_was_called_even_if_its_future_was_dropped() {
    let site = Site::on(&shared_servers()[..1]);
    let layer = site.layer().await;
    drop(Box::pin(layer.close()).as_mut().now_or_never());
    let sent = layer.send("s?a", numbered(0)).await;
    assert!(matches!(sent, Err(Error::Closed)), "{sent:?}");
    let sent = layer.send_many(&[("s?a", numbered(1))]).await;
    assert!(matches!(sent[..], [Err(Error::Closed)]), "{sent:?}");
}

#[tokio::test]
async fn a_closed_layer_keeps_no_connection() {
    let server = RedisServer::start();
    let mut connection = server.connection().await;
    let mut layers = Vec::new();
    for TestedFormat { format, .. } in FORMATS {
        let config = Site::on(std::slice::from_ref(&server)).config().format(format);
        let layer = channel_layer::connect(config).await.unwrap();
        let mut receiver = layer.receiver(&["l!"]).unwrap();
        layer.group_add("g", "l!a").await.unwrap();
        layer.group_send("g", numbered(1)).await.unwrap();
        assert_eq!(number(&within(DEADLINE, "a message", receiver.recv()).await.unwrap()), 1);
        within(DEADLINE, "the end of closing", layer.close()).await.unwrap();
        layers.push((layer, receiver));
    }
    eventually("the end of all connections but one", async || {
        let clients: String = ask(&mut connection, redis::cmd("INFO").arg("clients")).await;
        clients.contains("connected_clients:1\r\n").then_some(())
    })
    .await;
}

#[tokio::test]
async fn closing_does_not_fail_because_of_an_earlier_loss() {
    for closes_the_layer in [false, true] {
        let server = RedisServer::start();
        let mut connection = server.connection().await;
        let site = Site::on(std::slice::from_ref(&server));
        let layer = site.layer().await;
        for n in 0..5 {
            layer.send("s?a", numbered(n)).await.unwrap();
        }
        let mut receiver = layer.receiver(&["s?a"]).unwrap();
        assert_eq!(number(&within(DEADLINE, "the first", receiver.recv()).await.unwrap()), 0);
        // The unread message is put back, and the answer is an error that leaves open whether the command ran.
        let () = ask(&mut connection, redis::cmd("SET").arg(site.list("s?a")).arg("no list")).await;
        eventually("an attempt to put back", async || {
            let errors: String = ask(&mut connection, redis::cmd("INFO").arg("errorstats")).await;
            errors.contains("errorstat_WRONGTYPE").then_some(())
        })
        .await;
        let () = ask(&mut connection, redis::cmd("DEL").arg(site.list("s?a"))).await;
        layer.send("s?a", numbered(5)).await.unwrap();
        assert_eq!(number(&within(DEADLINE, "the next", receiver.recv()).await.unwrap()), 5);
        if !closes_the_layer {
            within(DEADLINE, "the end of the receiver", receiver.close()).await.unwrap();
        }
        within(DEADLINE, "the end of closing", layer.close()).await.unwrap();
    }
}
