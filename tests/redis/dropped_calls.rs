//! Messages of dropped calls: each that is not sent counts once, under the reason that fits.

use std::collections::BTreeMap;

use channel_layer::worker::DelayServer;
use channel_layer::{ChannelLayer, Event, message};
use metrics_util::debugging::DebuggingRecorder;
use tokio_util::sync::CancellationToken;

use super::tools::{Site, connect, event, numbered, take_number};
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
    // More waiting messages than one call requeues, one whose send waits for its server, and one that arrives after all of these
    // have been taken.
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
