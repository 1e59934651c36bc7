//! Messages of dropped calls: each that is not sent counts once, under the reason that fits.

use std::collections::BTreeMap;
use std::time::Duration;

use channel_layer::worker::DelayServer;
use channel_layer::{ChannelLayer, Config, Event, HybridLayer, MemoryLayer, RedisLayer, message};
use futures_util::FutureExt;
use metrics_util::debugging::DebuggingRecorder;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::tools::{Site, ask, connect, event, numbered, take_number, take_numbers};
use crate::support::{Counts, DEADLINE, Proxy, RedisServer, eventually, interrupted, within};

#[tokio::test]
async fn a_message_that_may_have_arrived_counts_as_unconfirmed() {
    let recorder = DebuggingRecorder::new();
    let mut counts = Counts::of(&recorder);
    let _local = metrics::set_default_local_recorder(&recorder);
    let server = RedisServer::start();
    let proxy = Proxy::before(&server.url()).await;
    let site = Site::at([proxy.url()]);
    let layer = site.layer().await;
    let mut events = layer.events();
    proxy.lose_answer_to(site.list("n").as_bytes());
    assert!(interrupted(1, DEADLINE, layer.send("n", numbered(1))).await.is_none(), "the answer is not there yet");
    eventually("the count", async || {
        (counts.all_dropped() == BTreeMap::from([("unconfirmed".to_owned(), 1)])).then_some(())
    })
    .await;
    event(&mut events, "the end of the outage", |event| matches!(event, Event::ShardUp { .. })).await;
    layer.group_add("g", "n").await.unwrap();
    proxy.lose_answer_to(site.list("n").as_bytes());
    let sent = within(DEADLINE, "an answer", layer.group_send("g", numbered(2))).await;
    assert!(sent.as_ref().is_err_and(channel_layer::Error::may_have_run), "{sent:?}");
    assert_eq!(counts.all_dropped(), BTreeMap::from([("unconfirmed".to_owned(), 2)]));
}

#[tokio::test]
async fn a_delay_server_that_stops_during_an_outage_counts_each_message_once() {
    let recorder = DebuggingRecorder::new();
    let mut counts = Counts::of(&recorder);
    let _local = metrics::set_default_local_recorder(&recorder);
    let mut servers = [RedisServer::start(), RedisServer::start()];
    let site = Site::on(&servers);
    let layer = connect(site.config().retry_attempts(100)).await;
    let pinned = site.pinned_channels(&layer, &servers).await;
    let mut events = layer.events();
    servers[1].stop();
    event(&mut events, "the first outage", |event| matches!(event, Event::ShardDown { shard: 1, .. })).await;
    let stopping = CancellationToken::new();
    let running = tokio::spawn(DelayServer::new(layer.clone()).run(stopping.clone().cancelled_owned()));
    // More waiting messages than one call requeues, one whose send waits for its server, and one that arrives after all
    // of these have been taken.
    let delayed = |channel: &str, delay: i64| message! { "channel": channel, "delay": delay, "content": numbered(1) };
    let waiting = 1_001;
    let mut messages = vec![("asgi.delay", delayed("later", 3_600_000)); waiting];
    messages.extend([("asgi.delay", delayed(&pinned[1], 0)), ("asgi.delay", delayed(&pinned[0], 50))]);
    assert!(layer.send_many(&messages).await.iter().all(Result::is_ok));
    assert_eq!(take_number(&layer, &pinned[0]).await, 1);
    servers[0].stop();
    event(&mut events, "the second outage", |event| matches!(event, Event::ShardDown { shard: 0, .. })).await;
    stopping.cancel();
    within(2 * DEADLINE, "the end of the delay server", running).await.unwrap().unwrap();
    layer.close().await.unwrap();
    assert_eq!(counts.all_dropped(), BTreeMap::from([("shard_down".to_owned(), waiting as u64 + 1)]));
}

/// Waits until `expected` messages have been counted, by reason.
async fn counted(counts: &mut Counts, expected: &[(&str, u64)]) {
    let expected: BTreeMap<_, _> =
        expected.iter().map(|(reason, messages)| ((*reason).to_owned(), *messages)).collect();
    eventually("the counts", async || (counts.all_dropped() == expected).then_some(())).await;
}

#[tokio::test]
async fn a_hybrid_layer_counts_the_results_that_wait_for_the_other_layer() {
    let recorder = DebuggingRecorder::new();
    let mut counts = Counts::of(&recorder);
    let _recording = metrics::set_default_local_recorder(&recorder);
    let mut server = RedisServer::start();
    let remote = connect(Site::on(std::slice::from_ref(&server)).config().retry_attempts(100)).await;
    let mut events = remote.events();
    let local = MemoryLayer::with_config(&Config::new().capacity(1)).unwrap();
    let layer = HybridLayer::<_, RedisLayer>::new(local, remote);
    server.stop();
    event(&mut events, "the outage", |event| matches!(event, Event::ShardDown { .. })).await;
    let messages = [("n", numbered(0)), ("n", numbered(1)), ("s?a", numbered(2))];
    assert!(interrupted(1, DEADLINE, layer.send_many(&messages)).await.is_none(), "the last message waits");
    assert_eq!(counts.dropped("full"), 1, "the second message");
    server.start_again();
    counted(&mut counts, &[("full", 1), ("shard_down", 1)]).await;
}

#[tokio::test]
async fn a_hybrid_layer_counts_the_members_on_normal_channels_that_a_dropped_group_send_misses() {
    let recorder = DebuggingRecorder::new();
    let mut counts = Counts::of(&recorder);
    let _recording = metrics::set_default_local_recorder(&recorder);
    let server = RedisServer::start();
    let remote = Site::on(std::slice::from_ref(&server)).layer().await;
    let layer = HybridLayer::<_, RedisLayer>::new(MemoryLayer::new(), remote);
    for member in ["n", "m", "p!a"] {
        layer.group_add("g", member).await.unwrap();
    }
    // The lookups are answered, and the message to the member on the remote layer is not.
    let mut pause = redis::cmd("CLIENT");
    pause.arg("PAUSE").arg(60_000).arg("WRITE");
    let () = ask(&mut server.connection().await, &pause).await;
    let mut sending = Box::pin(layer.group_send("g", numbered(1)));
    assert!(timeout(Duration::from_millis(200), &mut sending).await.is_err(), "no answer comes");
    drop(sending);
    counted(&mut counts, &[("shard_down", 2)]).await;
}

#[tokio::test]
async fn a_group_send_that_is_dropped_before_its_members_are_known_counts_once() {
    let recorder = DebuggingRecorder::new();
    let mut counts = Counts::of(&recorder);
    let _recording = metrics::set_default_local_recorder(&recorder);
    let server = RedisServer::start();
    let proxy = Proxy::before(&server.url()).await;
    let layer = Site::at([proxy.url()]).layer().await;
    layer.group_add("g", "p!a").await.unwrap();
    proxy.freeze();
    assert!(layer.group_send("g", numbered(0)).now_or_never().is_none(), "no answer comes");
    assert_eq!(counts.dropped("shard_down"), 1);
    assert!(layer.group_send_many(&[("g", numbered(1)), ("g", numbered(2))]).now_or_never().is_none());
    assert_eq!(counts.dropped("shard_down"), 3);
    proxy.thaw();
    assert_eq!(take_numbers(&layer, "p!").await, [] as [i64; 0]);
}

#[tokio::test]
async fn a_dropped_group_send_to_members_that_have_changed_counts_once() {
    let recorder = DebuggingRecorder::new();
    let mut counts = Counts::of(&recorder);
    let _recording = metrics::set_default_local_recorder(&recorder);
    let server = RedisServer::start();
    let proxy = Proxy::before(&server.url()).await;
    let site = Site::at([proxy.url()]);
    let (layer, other) = (site.layer().await, connect(site.config().hosts([server.url()])).await);
    layer.group_add("g", "p!a").await.unwrap();
    // The layer then sends to the members that it knows.
    for n in 0..3 {
        layer.group_send("g", numbered(n)).await.unwrap();
    }
    for (n, changes) in [(3, false), (4, true)] {
        if changes {
            other.group_add("g", "q!a").await.unwrap();
        }
        proxy.freeze();
        assert!(layer.group_send("g", numbered(n)).now_or_never().is_none(), "no answer comes");
        proxy.thaw();
        // The queue of the channel waits for the group message.
        layer.send("p!a", numbered(10 + n)).await.unwrap();
    }
    counted(&mut counts, &[("shard_down", 1)]).await;
    assert_eq!(take_numbers(&layer, "p!").await, [0, 1, 2, 3, 13, 14]);
}
