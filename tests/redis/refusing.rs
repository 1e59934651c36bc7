//! Reachable servers that refuse writes, because they have no memory, were made a replica or forbid the command.

use channel_layer::{ChannelLayer, Error, Event, RedisLayer};
use futures_util::FutureExt;
use metrics_util::debugging::DebuggingRecorder;
use redis::AsyncCommands;

use super::restarts::wait_for_blocked;
use super::tools::{Site, ask, connect, event, events_so_far, number, numbered, take, take_number};
use crate::support::{Counts, DEADLINE, Proxy, RedisServer, eventually, within};

async fn limit_memory(server: &RedisServer, bytes: usize) {
    let () = ask(&mut server.connection().await, redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg(bytes)).await;
}

async fn forbid_scripts(server: &RedisServer) {
    let () = ask(&mut server.connection().await, redis::cmd("ACL").arg("SETUSER").arg("default").arg("-evalsha")).await;
}

#[tokio::test]
async fn a_layer_connects_to_a_server_without_memory_and_reads_waiting_messages() {
    let server = RedisServer::start();
    let site = Site::on(std::slice::from_ref(&server));
    let full = site.layer().await;
    full.group_add("g", "l!member").await.unwrap();
    full.group_send("g", numbered(0)).await.unwrap();
    for (n, channel) in ["l!a", "n", "s?a"].into_iter().enumerate() {
        full.send(channel, numbered(i64::try_from(n).unwrap() + 1)).await.unwrap();
    }
    full.close().await.unwrap();
    limit_memory(&server, 1).await;
    let layer = site.layer().await;
    let refused = layer.send("n", numbered(9)).await.unwrap_err();
    assert!(refused.is_transient() && !refused.may_have_run(), "{refused:?}");
    let first = take(&layer, "l!").await;
    assert_eq!(first.channel.as_str(), "l!member");
    for (n, source) in [(1, "l!"), (2, "n"), (3, "s?a")] {
        assert_eq!(take_number(&layer, source).await, n, "{source}");
    }
    limit_memory(&server, 0).await;
    layer.send("n", numbered(4)).await.unwrap();
    assert_eq!(take_number(&layer, "n").await, 4);
}

#[tokio::test]
async fn a_server_emptied_while_it_has_no_memory_stays_in_use() {
    let server = RedisServer::start();
    let site = Site::on(std::slice::from_ref(&server));
    let layer = site.layer().await;
    let mut events = layer.events();
    limit_memory(&server, 1).await;
    let mut connection = server.connection().await;
    let () = ask(&mut connection, &redis::cmd("FLUSHALL")).await;
    event(&mut events, "the loss", |event| *event == Event::DataLost { shard: 0 }).await;
    limit_memory(&server, 0).await;
    eventually("an epoch", async || connection.exists(site.key("epoch")).await.ok().filter(|there: &bool| *there))
        .await;
    layer.send("n", numbered(1)).await.unwrap();
    assert_eq!(take_number(&layer, "n").await, 1);
    assert_eq!(events_so_far(&mut events), [], "the loss is reported once, and the server was reachable throughout");
}

#[tokio::test]
async fn a_demotion_of_the_master_is_reported_to_readers() {
    for (channel, source) in [("n", "n"), ("l!a", "l!")] {
        let server = RedisServer::start();
        let site = Site::on(std::slice::from_ref(&server));
        let (layer, sender) = (site.layer().await, site.layer().await);
        let mut events = layer.events();
        let mut receiver = layer.receiver(&[source]).unwrap();
        let waiting = tokio::spawn(async move { (receiver.recv().await, receiver) });
        wait_for_blocked(&server, 1).await;
        let mut connection = server.connection().await;
        // The replica of a master that is unreachable.
        let () = ask(&mut connection, redis::cmd("REPLICAOF").arg("127.0.0.1").arg(1)).await;
        event(&mut events, "the outage", |event| matches!(event, Event::ShardDown { shard: 0, .. })).await;
        let (waited, mut receiver) = within(DEADLINE, "the error", waiting).await.unwrap();
        assert!(matches!(waited, Err(Error::Redis { shard: 0, .. })), "{waited:?}");
        let refused = within(DEADLINE, "a refusal", RedisLayer::connect(site.config())).await;
        assert!(matches!(refused, Err(Error::Redis { shard: 0, .. })), "{refused:?}");

        let () = ask(&mut connection, redis::cmd("REPLICAOF").arg("NO").arg("ONE")).await;
        event(&mut events, "the end of the outage", |event| *event == Event::ShardUp { shard: 0 }).await;
        eventually("a send", async || sender.send(channel, numbered(1)).await.ok()).await;
        assert_eq!(number(&within(DEADLINE, "a message", receiver.recv()).await.unwrap()), 1);
    }
}

#[tokio::test]
async fn a_permanent_refusal_of_a_server_is_not_transient() {
    let server = RedisServer::start();
    let site = Site::on(std::slice::from_ref(&server));
    let layer = site.layer().await;
    let mut connection = server.connection().await;
    for key in [site.list("n"), site.key("group:{g}")] {
        let () = connection.set(key, "somebody else's").await.unwrap();
    }
    let errors = [layer.send("n", numbered(1)).await.unwrap_err(), layer.group_add("g", "n").await.unwrap_err()];
    // The user may run only the commands that the layer needs.
    let user = ["SETUSER", "default", "nocommands", "+time", "+get", "+ping"];
    let () = ask(&mut connection, redis::cmd("ACL").arg(&user)).await;
    let forbidden = layer.send("m", numbered(1)).await.unwrap_err();
    assert!(!forbidden.may_have_run(), "{forbidden:?}");
    for error in errors.iter().chain([&forbidden]) {
        assert!(matches!(error, Error::Redis { shard: 0, .. }) && !error.is_transient(), "{error:?}");
    }
}

#[tokio::test]
async fn a_permanent_refusal_is_not_retried() {
    let server = RedisServer::start();
    let layer = connect(Site::on(std::slice::from_ref(&server)).config().retry_attempts(100)).await;
    forbid_scripts(&server).await;
    let sent = within(DEADLINE, "the refusal", layer.send("s?a", numbered(0))).await.unwrap_err();
    assert!(sent.to_string().contains("NOPERM") && !sent.is_transient() && !sent.may_have_run(), "{sent:?}");
}

#[tokio::test]
async fn a_receiver_that_waits_gets_messages_whose_put_back_is_refused_meanwhile() {
    let server = RedisServer::start();
    let proxy = Proxy::before(&server.url()).await;
    let site = Site::at([proxy.url()]);
    let layer = site.layer().await;
    for n in 0..3 {
        layer.send("s?a", numbered(n)).await.unwrap();
    }
    let mut receiver = layer.receiver(&["s?a"]).unwrap();
    assert_eq!(number(&within(DEADLINE, "the first message", receiver.recv()).await.unwrap()), 0);
    forbid_scripts(&server).await;
    // The reader puts the others back when it is idle, and the refusal is held up.
    proxy.freeze_after(site.list("s?a").as_bytes());
    proxy.frozen().await;
    let mut receiving = Box::pin(async move { receiver.recv().await });
    assert!(receiving.as_mut().now_or_never().is_none(), "the messages are on their way back");
    // Only a wake-up polls the future of a task again.
    let receiving = tokio::spawn(receiving);
    tokio::task::yield_now().await;
    proxy.thaw();
    let delivery = within(DEADLINE, "the second message", receiving).await.unwrap().unwrap();
    assert_eq!(number(&delivery), 1);
}

#[tokio::test]
async fn the_parts_of_a_group_send_count_if_others_were_sent_and_not_if_the_call_can_be_repeated() {
    let recorder = DebuggingRecorder::new();
    let mut counts = Counts::of(&recorder);
    let _recording = metrics::set_default_local_recorder(&recorder);
    let servers = [RedisServer::start(), RedisServer::start()];
    let site = Site::on(&servers);
    let layer = site.layer().await;
    let pinned = site.pinned_channels(&layer, &servers).await;
    for (group, members) in [("both", &pinned[..]), ("first", &pinned[..1])] {
        for member in members {
            layer.group_add(group, member).await.unwrap();
        }
    }
    limit_memory(&servers[0], 1).await;
    let refused = layer.group_send("first", numbered(1)).await.unwrap_err();
    assert!(!refused.may_have_run(), "{refused:?}");
    let refused = layer.group_send_many(&[("first", numbered(1))]).await.remove(0).unwrap_err();
    assert!(!refused.may_have_run(), "{refused:?}");
    assert_eq!(counts.all_dropped().values().sum::<u64>(), 0);
    let refused = layer.group_send("both", numbered(2)).await.unwrap_err();
    assert!(refused.may_have_run(), "{refused:?}");
    assert_eq!(counts.dropped("shard_down"), 1);
    let refused = layer.group_send_many(&[("both", numbered(3))]).await.remove(0).unwrap_err();
    assert!(refused.may_have_run(), "{refused:?}");
    assert_eq!(counts.dropped("shard_down"), 2);
}
