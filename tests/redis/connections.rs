//! Killed, cut, half-open and refused connections, and reads that another client ends.

use std::time::{Duration, Instant};

use channel_layer::{ChannelLayer, Delivery, Error, Event, Receiver, Result};
use tokio::task::JoinHandle;

use super::tools::{Layer, Site, ask, connect, event, events_so_far, number, numbered, take_number};
use crate::support::{DEADLINE, Proxy, RedisServer, eventually, shared_servers, within};

const BLOCKING: Duration = Duration::from_secs(1);
/// Time for which a read without an answer counts as alive after its blocking timeout.
const SILENCE: Duration = Duration::from_secs(2);
/// Allowance for a busy machine.
const MARGIN: Duration = Duration::from_secs(5);

/// Returns the ids of the connections that wait for messages.
async fn blocked(server: &RedisServer) -> Vec<String> {
    let list: String = ask(&mut server.connection().await, redis::cmd("CLIENT").arg("LIST")).await;
    let waiting = list.lines().filter(|line| line.contains(" cmd=blmpop") && line.contains(" flags=b"));
    waiting.map(|line| line.trim_start_matches("id=").split(' ').next().unwrap().to_owned()).collect()
}

/// Waits until one connection waits for messages. Returns its id.
async fn the_blocked(server: &RedisServer) -> String {
    eventually("a read that waits", async || {
        let mut ids = blocked(server).await;
        if ids.len() == 1 { ids.pop() } else { None }
    })
    .await
}

/// Starts a task that waits for the next message of a receiver.
fn waiting(mut receiver: Receiver) -> JoinHandle<(Result<Delivery>, Receiver)> {
    tokio::spawn(async move { (receiver.recv().await, receiver) })
}

/// Returns the number of the message that `waiting` waits for. One error of an outage may come before it.
async fn number_of(waiting: JoinHandle<(Result<Delivery>, Receiver)>) -> (i64, Receiver) {
    let (first, mut receiver) = within(DEADLINE, "a message", waiting).await.unwrap();
    let delivery = match first {
        Err(Error::Redis { .. }) => within(DEADLINE, "a message after the outage", receiver.recv()).await.unwrap(),
        other => other.unwrap(),
    };
    (number(&delivery), receiver)
}

#[tokio::test]
async fn a_killed_read_is_reported_and_restarted() {
    let server = RedisServer::start();
    let layer = Site::on(std::slice::from_ref(&server)).layer().await;
    let mut events = layer.events();
    for (channel, source) in [("n", "n"), ("l!a", "l!"), ("s?a", "s?a")] {
        let reader = waiting(layer.receiver(&[source]).unwrap());
        let id = the_blocked(&server).await;
        let () = ask(
            &mut server.connection().await,
            redis::cmd("CLIENT").arg("KILL").arg("ID").arg(&id).arg("SKIPME").arg("yes"),
        )
        .await;
        let reported =
            event(&mut events, "the interruption", |event| matches!(event, Event::ReadInterrupted { .. })).await;
        let Event::ReadInterrupted { shard: 0, channels, .. } = &reported else { panic!("{reported:?}") };
        assert_eq!(*channels, [source]);
        // After the new read has started, no message is lost.
        layer.send(channel, numbered(1)).await.unwrap();
        let (first, mut receiver) = number_of(reader).await;
        assert_eq!(first, 1);
        layer.send(channel, numbered(2)).await.unwrap();
        assert_eq!(number(&within(DEADLINE, "the next message", receiver.recv()).await.unwrap()), 2);
        receiver.close().await.unwrap();
        eventually("the end of the read", async || blocked(&server).await.is_empty().then_some(())).await;
    }
    assert!(!events_so_far(&mut events).iter().any(|event| matches!(event, Event::DataLost { .. })));
}

#[tokio::test]
async fn a_read_that_another_client_ends_is_restarted() {
    let server = RedisServer::start();
    let layer = Site::on(std::slice::from_ref(&server)).layer().await;
    let mut events = layer.events();
    for (channel, source) in [("n", "n"), ("l!a", "l!"), ("s?a", "s?a")] {
        for how in ["TIMEOUT", "ERROR"] {
            let reader = waiting(layer.receiver(&[source]).unwrap());
            let mut ended = 0;
            while ended < 5 {
                let id = the_blocked(&server).await;
                let mut connection = server.connection().await;
                // The server answers 0 if the read has ended meanwhile.
                ended += ask::<i64>(&mut connection, redis::cmd("CLIENT").arg("UNBLOCK").arg(&id).arg(how)).await;
            }
            layer.send(channel, numbered(1)).await.unwrap();
            let (delivery, receiver) = within(DEADLINE, "a message", reader).await.unwrap();
            assert_eq!(number(&delivery.unwrap()), 1, "{source} {how}");
            receiver.close().await.unwrap();
            eventually("the end of the read", async || blocked(&server).await.is_empty().then_some(())).await;
        }
    }
    assert_eq!(events_so_far(&mut events), []);
}

#[tokio::test]
async fn killing_every_connection_loses_no_waiting_message() {
    let server = RedisServer::start();
    let site = Site::on(std::slice::from_ref(&server));
    let layer = site.layer().await;
    let mut next = 0;
    for _ in 0..5 {
        for _ in 0..20 {
            layer.send("s?a", numbered(next)).await.unwrap();
            next += 1;
        }
        let mut events = layer.events();
        let () = ask(&mut server.connection().await, redis::cmd("CLIENT").arg(&["KILL", "TYPE", "normal"])).await;
        event(&mut events, "the end of the outage", |event| *event == Event::ShardUp { shard: 0 }).await;
    }
    for n in 0..next {
        assert_eq!(take_number(&layer, "s?a").await, n);
    }
}

async fn through(proxy: &Proxy) -> Layer {
    let config = Site::at([proxy.url()]).config();
    connect(config.blocking_timeout(BLOCKING).command_timeout(BLOCKING).connect_timeout(BLOCKING)).await
}

/// Makes reads block for longer than a test waits.
fn with_long_reads(config: channel_layer::Config) -> channel_layer::Config {
    config.blocking_timeout(3 * DEADLINE).command_timeout(BLOCKING)
}

#[tokio::test]
async fn a_read_ends_with_its_connection_however_long_it_blocks() {
    let server = RedisServer::start();
    let proxy = Proxy::before(&server.url()).await;
    let site = Site::at([proxy.url()]);
    let layer = connect(with_long_reads(site.config())).await;
    let direct = connect(site.config().hosts([server.url()])).await;
    let mut events = layer.events();
    for (channel, source) in [("n", "n"), ("l!a", "l!"), ("s?a", "s?a")] {
        let reader = waiting(layer.receiver(&[source]).unwrap());
        let frozen = the_blocked(&server).await;
        proxy.freeze();
        event(&mut events, "the loss of the connection", |event| matches!(event, Event::ShardDown { .. })).await;
        eventually("another read instead", async || {
            let blocked = blocked(&server).await;
            (blocked.len() == 1 && blocked[0] != frozen).then_some(())
        })
        .await;
        direct.send(channel, numbered(1)).await.unwrap();
        let (delivery, receiver) = within(DEADLINE, "a message", reader).await.unwrap();
        assert_eq!(number(&delivery.unwrap()), 1, "{source}");
        receiver.close().await.unwrap();
    }
    let interrupted = |event: &Event| matches!(event, Event::ReadInterrupted { .. });
    assert!(!events_so_far(&mut events).iter().any(interrupted), "nothing was lost");
}

#[tokio::test]
async fn a_layer_with_half_open_connections_closes_however_long_reads_block() {
    let server = RedisServer::start();
    let proxy = Proxy::before(&server.url()).await;
    let layer = connect(with_long_reads(Site::at([proxy.url()]).config())).await;
    let reader = waiting(layer.receiver(&["l!"]).unwrap());
    the_blocked(&server).await;
    proxy.freeze();
    proxy.refuse_new();
    within(DEADLINE, "the end of closing", layer.close()).await.unwrap();
    let (ended, _) = within(DEADLINE, "the end of the wait", reader).await.unwrap();
    assert!(matches!(ended, Err(Error::Closed | Error::Redis { .. })), "{ended:?}");
}

#[tokio::test]
async fn a_read_on_a_half_open_connection_ends_and_is_restarted() {
    let server = RedisServer::start();
    let proxy = Proxy::before(&server.url()).await;
    let site = Site::at([proxy.url()]);
    let times = |config: channel_layer::Config| config.blocking_timeout(BLOCKING).command_timeout(BLOCKING);
    let layer = connect(times(site.config())).await;
    let direct = connect(times(site.config()).hosts([server.url()])).await;
    for (channel, source) in [("n", "n"), ("l!a", "l!"), ("s?a", "s?a")] {
        let reader = waiting(layer.receiver(&[source]).unwrap());
        the_blocked(&server).await;
        let began = Instant::now();
        proxy.freeze();
        // The server ends the read in time, and its answer does not arrive.
        eventually("the end of the read", async || blocked(&server).await.is_empty().then_some(())).await;
        direct.send(channel, numbered(1)).await.unwrap();
        let (first, receiver) = within(DEADLINE, "a message or an error", reader).await.unwrap();
        let delivered = match first {
            Ok(delivery) => (number(&delivery), receiver),
            Err(Error::Redis { shard: 0, .. }) => number_of(waiting(receiver)).await,
            Err(other) => panic!("{other:?}"),
        };
        assert_eq!(delivered.0, 1);
        assert!(began.elapsed() < BLOCKING + SILENCE + MARGIN, "{source}: {:?}", began.elapsed());
        delivered.1.close().await.unwrap();
    }
}

#[tokio::test]
async fn an_outage_of_a_half_open_connection_is_reported_once() {
    let server = RedisServer::start();
    let proxy = Proxy::before(&server.url()).await;
    let layer = through(&proxy).await;
    let mut receiver = layer.receiver(&["s?a"]).unwrap();
    let reader = tokio::spawn(async move {
        let mut errors = 0;
        loop {
            match receiver.recv().await {
                Ok(delivery) => return (number(&delivery), errors),
                Err(_) => errors += 1,
            }
        }
    });
    the_blocked(&server).await;
    let mut events = layer.events();
    proxy.freeze();
    proxy.refuse_new();
    event(&mut events, "the outage", |event| matches!(event, Event::ShardDown { .. })).await;
    eventually("the end of the read", async || blocked(&server).await.is_empty().then_some(())).await;
    // Long enough for the reader to detect the outage and to retry.
    tokio::time::sleep(BLOCKING + SILENCE).await;
    proxy.admit();
    event(&mut events, "the end of the outage", |event| *event == Event::ShardUp { shard: 0 }).await;
    layer.send("s?a", numbered(1)).await.unwrap();
    let (first, errors) = within(DEADLINE, "a message", reader).await.unwrap();
    assert_eq!((first, errors), (1, 1));
}

#[tokio::test]
async fn a_send_on_a_half_open_connection_fails_in_time_and_later_sends_succeed() {
    let server = RedisServer::start();
    let proxy = Proxy::before(&server.url()).await;
    let layer = through(&proxy).await;
    layer.send("s?a", numbered(0)).await.unwrap();
    let mut events = layer.events();
    proxy.freeze();
    let began = Instant::now();
    let sent = within(DEADLINE, "an answer", layer.send("s?a", numbered(1))).await;
    assert!(matches!(sent, Err(Error::Redis { shard: 0, .. })), "{sent:?}");
    assert!(began.elapsed() < BLOCKING + MARGIN, "{:?}", began.elapsed());
    event(&mut events, "the end of the outage", |event| *event == Event::ShardUp { shard: 0 }).await;
    layer.send("s?a", numbered(2)).await.unwrap();
    assert_eq!([take_number(&layer, "s?a").await, take_number(&layer, "s?a").await], [0, 2]);
}

#[tokio::test]
async fn a_cut_connection_is_replaced() {
    let server = RedisServer::start();
    let proxy = Proxy::before(&server.url()).await;
    let layer = through(&proxy).await;
    for n in 0..5 {
        let mut events = layer.events();
        let reader = waiting(layer.receiver(&["s?a"]).unwrap());
        the_blocked(&server).await;
        proxy.cut();
        event(&mut events, "the end of the outage", |event| *event == Event::ShardUp { shard: 0 }).await;
        layer.send("s?a", numbered(n)).await.unwrap();
        let (got, receiver) = number_of(reader).await;
        assert_eq!(got, n);
        receiver.close().await.unwrap();
    }
}

#[tokio::test]
async fn refused_connections_are_retried() {
    let server = RedisServer::start();
    let proxy = Proxy::before(&server.url()).await;
    let layer = through(&proxy).await;
    let mut events = layer.events();
    proxy.refuse();
    event(&mut events, "the outage", |event| matches!(event, Event::ShardDown { shard: 0, .. })).await;
    let sent = within(Duration::from_secs(5), "a refusal", layer.send("n", numbered(0))).await;
    assert!(matches!(sent, Err(Error::Redis { shard: 0, .. })), "{sent:?}");
    proxy.admit();
    event(&mut events, "the end of the outage", |event| *event == Event::ShardUp { shard: 0 }).await;
    layer.send("n", numbered(1)).await.unwrap();
    assert_eq!(take_number(&layer, "n").await, 1);
}

#[tokio::test]
async fn a_stopped_server_is_detected_in_time_and_used_again_when_it_continues() {
    let mut server = RedisServer::start();
    let site = Site::on(std::slice::from_ref(&server));
    let layer = connect(site.config().command_timeout(BLOCKING).blocking_timeout(BLOCKING)).await;
    let mut events = layer.events();
    let reader = waiting(layer.receiver(&["s?a"]).unwrap());
    the_blocked(&server).await;
    server.freeze();
    let began = Instant::now();
    let sent = within(DEADLINE, "an answer", layer.send("n", numbered(0))).await;
    assert!(matches!(sent, Err(Error::Redis { shard: 0, .. })), "{sent:?}");
    let (waited, mut receiver) = within(DEADLINE, "the error", reader).await.unwrap();
    assert!(matches!(waited, Err(Error::Redis { shard: 0, .. })), "{waited:?}");
    assert!(began.elapsed() < BLOCKING + SILENCE + MARGIN, "{:?}", began.elapsed());
    server.thaw();
    event(&mut events, "the end of the outage", |event| *event == Event::ShardUp { shard: 0 }).await;
    layer.send("s?a", numbered(1)).await.unwrap();
    assert_eq!(number(&within(DEADLINE, "a message", receiver.recv()).await.unwrap()), 1);
}

#[tokio::test]
async fn readers_without_callers_release_their_connections() {
    let site = Site::on(&shared_servers()[..1]);
    let layer = connect(site.config().pool_size(2).connect_timeout(Duration::from_millis(500))).await;
    for n in 0..20 {
        let channel = format!("answer?{n}");
        layer.send(&channel, numbered(n)).await.unwrap();
        assert_eq!(take_number(&layer, &channel).await, n);
    }
}

#[tokio::test]
async fn a_host_name_that_resolves_to_another_master_is_followed() {
    let (old, new) = (RedisServer::start(), RedisServer::start());
    let proxy = Proxy::before(&old.url()).await;
    let site = Site::at([proxy.url()]);
    let (writer, reader) = (site.layer().await, site.layer().await);
    let reading = waiting(reader.receiver(&["l!"]).unwrap());
    the_blocked(&old).await;
    // A failover by DNS: the name gets another address, and the old master becomes a replica of the new one.
    proxy.lead_to(&new.url());
    let port = new.port().to_string();
    let () = ask(&mut old.connection().await, redis::cmd("REPLICAOF").arg(&["127.0.0.1", &port])).await;
    eventually("a send through the new master", async || writer.send("l!a", numbered(1)).await.ok()).await;
    assert_eq!(number_of(reading).await.0, 1);
}

/// Longest time until readers recover after a server stops answering, with the default timeouts.
const BACK: Duration = Duration::from_secs(8);

#[tokio::test]
async fn a_server_that_stops_answering_is_detected_soon() {
    let server = RedisServer::start();
    let proxy = Proxy::before(&server.url()).await;
    let site = Site::at([proxy.url()]);
    let config = channel_layer::Config::new().host(proxy.url()).prefix(&site.prefix);
    let layer = connect(config.clone()).await;
    let direct = connect(config.hosts([server.url()])).await;
    let reader = waiting(layer.receiver(&["s?a"]).unwrap());
    // The read ends on the server before the connection counts as lost, and its answer does not arrive.
    eventually("a read that has waited for two seconds", async || {
        let list: String = ask(&mut server.connection().await, redis::cmd("CLIENT").arg("LIST")).await;
        list.lines().any(|line| line.contains(" cmd=blmpop") && line.contains(" idle=2 ")).then_some(())
    })
    .await;
    proxy.freeze();
    let silent = Instant::now();
    let sender = layer.clone();
    let sending = tokio::spawn(async move {
        while sender.send("n", numbered(0)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        silent.elapsed()
    });
    eventually("the end of the read", async || blocked(&server).await.is_empty().then_some(())).await;
    direct.send("s?a", numbered(1)).await.unwrap();
    let (first, mut receiver) = within(DEADLINE, "a message or an error", reader).await.unwrap();
    let delivery = match first {
        Err(Error::Redis { .. }) => within(DEADLINE, "a message", receiver.recv()).await,
        other => other,
    };
    assert_eq!(number(&delivery.unwrap()), 1);
    assert!(silent.elapsed() < BACK, "{:?}", silent.elapsed());
    let sent = within(DEADLINE, "a send", sending).await.unwrap();
    assert!(sent < BACK, "{sent:?}");
}

#[tokio::test]
async fn a_read_that_the_new_server_does_not_know_counts_as_lost() {
    let (old, new) = (RedisServer::start(), RedisServer::start());
    // These connections raise the ids of the old server, so that the new server can reach the id of the read.
    let mut before = Vec::new();
    for _ in 0..50 {
        before.push(old.connection().await);
    }
    let proxy = Proxy::before(&old.url()).await;
    let site = Site::at([proxy.url()]);
    let config = site.config().blocking_timeout(DEADLINE).command_timeout(BLOCKING);
    let layer = connect(config.clone()).await;
    let mut events = layer.events();
    let reader = waiting(layer.receiver(&["s?a"]).unwrap());
    let id: i64 = the_blocked(&old).await.parse().unwrap();
    let mut stranger = new.connection().await;
    while ask::<i64>(&mut stranger, redis::cmd("CLIENT").arg("ID")).await < id {
        before.push(std::mem::replace(&mut stranger, new.connection().await));
    }
    assert_eq!(
        ask::<i64>(&mut stranger, redis::cmd("CLIENT").arg("ID")).await,
        id,
        "a server numbers its connections in order"
    );
    let blocked_stranger = tokio::spawn(async move {
        let mut wait = redis::cmd("BLMPOP");
        wait.arg(0).arg(1).arg("strange").arg("LEFT");
        wait.query_async::<Option<(String, Vec<i64>)>>(&mut stranger).await
    });
    assert_eq!(the_blocked(&new).await, id.to_string());

    proxy.lead_to(&new.url());
    proxy.freeze();
    // The server pops the message for a connection that transfers no data.
    let direct = connect(config.hosts([old.url()])).await;
    direct.send("s?a", numbered(1)).await.unwrap();
    eventually("the end of the read", async || blocked(&old).await.is_empty().then_some(())).await;
    event(&mut events, "the loss", |event| matches!(event, Event::ReadInterrupted { .. })).await;
    assert!(!blocked_stranger.is_finished(), "the read of another client was ended");
    layer.send("s?a", numbered(2)).await.unwrap();
    assert_eq!(number_of(reader).await.0, 2);
}
