//! Masters that are found through sentinels, and what happens when they fail.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use channel_layer::{ChannelLayer, Config, Error, Format, Host, PubSubLayer, RedisLayer};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::tools::{ask, connect, number, numbered, take_number};
use crate::support::{
    DEADLINE, RedisServer, Replicated, ReservedPort, eventually, random_prefix, shared_servers, within,
};

/// A failover, from the kill to the first send through another master.
const FAILOVER: Duration = Duration::from_secs(15);

/// How old an acknowledged message can be that the replicas, or a reader's connection, do not have yet.
const IN_FLIGHT: Duration = Duration::from_secs(1);

fn config(sentinels: impl IntoIterator<Item = Host>) -> Config {
    Config::new()
        .sentinels(sentinels)
        .prefix(random_prefix())
        .stats_prefix(format!("{}-meta:", random_prefix()))
        .capacity(100_000)
        .blocking_timeout(Duration::from_secs(1))
}

/// A sentinel that watches the shared servers as `one`, `two` and `three`.
fn sentinel_of_the_shared(more: &str) -> RedisServer {
    let watch =
        |(name, server): (&str, &RedisServer)| format!("sentinel monitor {name} 127.0.0.1 {} 1\n", server.port());
    let lines: String = ["two", "one", "three"].into_iter().zip(shared_servers()).map(watch).collect();
    RedisServer::sentinel(&(lines + more))
}

fn said(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Sends numbers to one channel, one after the other; gives when each was acknowledged.
fn sending(
    layer: Arc<RedisLayer>,
    channel: &'static str,
    stop: CancellationToken,
) -> JoinHandle<BTreeMap<i64, Instant>> {
    tokio::spawn(async move {
        let mut acknowledged = BTreeMap::new();
        for n in 0.. {
            if stop.is_cancelled() {
                break;
            }
            match layer.send(channel, numbered(n)).await {
                Ok(()) => drop(acknowledged.insert(n, Instant::now())),
                // There is no master; who sends for a living waits a little.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
        acknowledged
    })
}

/// Receives until told to stop and nothing is left; gives everything in the order of arrival.
fn receiving(layer: Arc<RedisLayer>, channel: &'static str, stop: CancellationToken) -> JoinHandle<Vec<i64>> {
    tokio::spawn(async move {
        let mut numbers = Vec::new();
        let mut receiver = layer.receiver(&[channel]).unwrap();
        while let Some(result) = stop.run_until_cancelled(receiver.recv()).await {
            numbers.extend(result.iter().map(number));
        }
        receiver.close().await.unwrap();
        while let Some(delivery) = layer.try_receive(&[channel]).await.unwrap() {
            numbers.push(number(&delivery));
        }
        numbers
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_master_is_replaced_under_load_without_loss_of_what_was_settled() {
    let mut service = Replicated::start().await;
    let config = config(service.sentinel_hosts()).services(["messages"]);
    let (writer, reader) = (connect(config.clone()).await, connect(config).await);
    let channels = [("n", "n"), ("l!a", "l!"), ("s?a", "s?a")];
    let (stop_sending, stop_receiving) = (CancellationToken::new(), CancellationToken::new());
    let senders = channels.map(|(to, _)| sending(writer.clone(), to, stop_sending.clone()));
    let receivers = channels.map(|(_, from)| receiving(reader.clone(), from, stop_receiving.clone()));
    // Replication is under way and messages flow.
    eventually("some load", async || (writer.global_statistics().await.unwrap().messages_count > 500).then_some(()))
        .await;

    service.servers[0].stop();
    let killed = Instant::now();
    within(FAILOVER, "sends through another master", async {
        loop {
            // The old master does not come back, so that only another one can take it.
            if writer.send("probe?a", numbered(0)).await.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    // The reader may not have noticed yet, and says so once.
    let read = eventually("reads from another master", async || reader.receive(&["probe?a"]).await.ok()).await;
    assert_eq!(number(&read), 0);
    for (to, _) in channels {
        let sent = async || Some(writer.channel_statistics(to).await.ok()?.messages_count);
        let before = eventually("figures of the new master", &sent).await;
        let more = async || sent().await.filter(|count| *count > before);
        eventually("load through the new master", more).await;
    }

    stop_sending.cancel();
    let mut sent = Vec::new();
    for sender in senders {
        sent.push(within(DEADLINE, "a sender", sender).await.unwrap());
    }
    stop_receiving.cancel();
    for (((to, _), acknowledged), receiver) in channels.into_iter().zip(sent).zip(receivers) {
        let received = within(DEADLINE, "a receiver", receiver).await.unwrap();
        let once: BTreeSet<_> = received.iter().copied().collect();
        assert_eq!(once.len(), received.len(), "{to}: something came twice");
        assert!(received.is_sorted(), "{to}: something came out of order");
        let lost: Vec<_> = acknowledged.iter().filter(|(n, _)| !once.contains(n)).map(|(_, at)| *at).collect();
        assert!(
            lost.iter().all(|at| *at < killed && killed.duration_since(*at) < IN_FLIGHT),
            "{to}: {} lost, not all of them in flight",
            lost.len()
        );
        let later = acknowledged.values().filter(|at| **at > killed).count();
        assert!(later > 0, "{to}: nothing was sent through the new master");
    }
}

#[tokio::test]
async fn a_master_that_is_demoted_while_connections_hold_is_left_within_the_refresh_interval() {
    let service = Replicated::start().await;
    let config = config(service.sentinel_hosts()).sentinel_refresh_interval(Duration::from_millis(200));
    let layer = connect(config).await;
    layer.send("s?a", numbered(0)).await.unwrap();
    let mut sentinel = service.sentinels[0].connection().await;
    // The sentinel needs to have chosen a replica that is up to date.
    eventually("a failover by hand", async || {
        let asked = redis::cmd("SENTINEL").arg(&["FAILOVER", "messages"]).query_async::<()>(&mut sentinel).await;
        asked.is_ok().then_some(())
    })
    .await;
    let old = service.servers[0].port().to_string();
    eventually("another master", async || {
        let address: (String, String) =
            ask(&mut sentinel, redis::cmd("SENTINEL").arg(&["GET-MASTER-ADDR-BY-NAME", "messages"])).await;
        (address.1 != old).then_some(())
    })
    .await;
    eventually("a send through it", async || layer.send("s?a", numbered(1)).await.ok()).await;
    assert_eq!([take_number(&layer, "s?a").await, take_number(&layer, "s?a").await], [0, 1]);
}

#[tokio::test]
async fn what_is_published_follows_a_failover() {
    let mut service = Replicated::start().await;
    let config = config(service.sentinel_hosts()).services(["messages"]).return_after(Duration::ZERO);
    let connect = async || PubSubLayer::connect(config.clone()).await.unwrap();
    let (reader, writer) = (connect().await, connect().await);
    let mut receiver = reader.receiver(&["l!"]).unwrap();
    reader.group_add("g", "l!a").await.unwrap();
    writer.group_send("g", numbered(0)).await.unwrap();
    assert_eq!(number(&within(DEADLINE, "a message", receiver.recv()).await.unwrap()), 0);
    service.servers[0].stop();
    let publishing = async {
        loop {
            writer.group_send("g", numbered(1)).await.unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let delivered = async {
        tokio::select! {
            delivery = receiver.recv() => number(&delivery.unwrap()),
            () = publishing => unreachable!("it goes on for ever"),
        }
    };
    assert_eq!(within(FAILOVER, "a message through another master", delivered).await, 1);
}

#[tokio::test]
async fn layers_in_the_formats_of_python_follow_a_failover() {
    let mut service = Replicated::start().await;
    let config = config(service.sentinel_hosts()).services(["messages"]);
    let mut layers = Vec::new();
    for format in [Format::ChannelsRedis, Format::AsgiRedis] {
        let config = config.clone().prefix(random_prefix()).format(format);
        let layer = channel_layer::connect(config).await.unwrap();
        layer.group_add("g", "l!a").await.unwrap();
        layer.group_send("g", numbered(0)).await.unwrap();
        assert_eq!(number(&within(DEADLINE, "a message", layer.receive(&["l!"])).await.unwrap()), 0);
        layers.push(layer);
    }
    // A replica has the groups.
    let replicas = service.servers[1..].len();
    let held: usize = ask(&mut service.servers[0].connection().await, redis::cmd("WAIT").arg(replicas).arg(5000)).await;
    assert_eq!(held, replicas);
    service.servers[0].stop();
    for layer in layers {
        within(FAILOVER, "a send through another master", async {
            while layer.group_send("g", numbered(1)).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        // The reader may not have noticed yet, and says so once.
        let read = eventually("a read from another master", async || layer.receive(&["l!"]).await.ok()).await;
        assert_eq!(number(&read), 1);
    }
}

#[tokio::test]
async fn without_names_all_services_are_used_and_sharding_goes_by_name() {
    let sentinel = sentinel_of_the_shared("");
    let all = config([Host::from(sentinel.url())]);
    let named = all.clone().services(["three", "one", "two"]);
    let (all, named) = (connect(all).await, connect(named).await);
    for n in 0..30 {
        let channel = format!("s?{n}");
        all.send(&channel, numbered(n)).await.unwrap();
        assert_eq!(take_number(&named, &channel).await, n);
    }
    // They really are spread.
    let mut keys = 0;
    for n in 0..30 {
        all.send(&format!("kept?{n}"), numbered(n)).await.unwrap();
    }
    for server in shared_servers() {
        let found: Vec<String> = ask(&mut server.connection().await, redis::cmd("KEYS").arg("*:channel:{kept?*")).await;
        assert!(found.len() < 30, "one server holds everything");
        keys += found.len();
    }
    assert!(keys >= 30);
}

#[tokio::test]
async fn sentinels_that_are_away_do_not_matter_while_one_is_there() {
    let sentinel = sentinel_of_the_shared("");
    let nobody = ReservedPort::new();
    let away = || Host::from(("127.0.0.1", nobody.number()));
    let layer = connect(config([away(), Host::from(sentinel.url()), away()]).services(["one"])).await;
    layer.send("s?a", numbered(1)).await.unwrap();
    assert_eq!(take_number(&layer, "s?a").await, 1);
}

#[tokio::test]
async fn a_sentinel_has_a_password_of_its_own() {
    let sentinel = sentinel_of_the_shared("");
    let mut connection = sentinel.connection().await;
    let () =
        ask(&mut connection, redis::cmd("ACL").arg(&["SETUSER", "default", "on", "resetpass", ">the-right-one"])).await;
    let with = |login: &str| config([Host::from(format!("redis://{login}127.0.0.1:{}", sentinel.port()))]);
    let layer = connect(with(":the-right-one@").services(["one"])).await;
    layer.send("s?a", numbered(1)).await.unwrap();
    for (login, reason) in [("", "NOAUTH"), (":my-secret@", "WRONGPASS"), ("somebody:my-secret@", "WRONGPASS")] {
        for config in [with(login), with(login).services(["one"])] {
            let error = RedisLayer::connect(config).await.expect_err("it is refused");
            let said = said(&error);
            assert!(matches!(error, Error::Redis { shard: 0, .. }), "{said}");
            assert!(said.contains("no sentinel answered: redis://127.0.0.1:"), "{said}");
            assert!(said.contains(reason) || said.to_lowercase().contains("auth"), "{said}");
            assert!(!said.contains("my-secret") && !said.contains("the-right-one"), "{said}");
        }
    }
}

#[tokio::test]
async fn what_sentinels_do_not_know_is_an_error_that_names_it() {
    let sentinel = sentinel_of_the_shared("");
    let error = RedisLayer::connect(config([Host::from(sentinel.url())]).services(["four"])).await;
    assert!(said(&error.expect_err("there is none")).contains("no sentinel knows service four"));
    let empty = RedisServer::sentinel("");
    let error = RedisLayer::connect(config([Host::from(empty.url())])).await;
    assert!(said(&error.expect_err("there is none")).contains("the sentinels know no service"));
}

#[tokio::test]
async fn a_replica_that_sentinels_take_for_the_master_is_refused() {
    let master = &shared_servers()[0];
    let replica = RedisServer::with(&["--replicaof", "127.0.0.1", &master.port().to_string()]);
    // It asks nobody for another opinion, and has found out nothing yet.
    let line =
        format!("sentinel monitor one 127.0.0.1 {} 2\nsentinel down-after-milliseconds one 600000\n", replica.port());
    let sentinel = RedisServer::sentinel(&line);
    let error = RedisLayer::connect(config([Host::from(sentinel.url())]).services(["one"])).await;
    let said = said(&error.expect_err("it is refused"));
    assert!(said.contains("is no master, but slave"), "{said}");
}
