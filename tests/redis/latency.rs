//! A connection with a high latency changes only the time of calls. Over a connection that transfers no data, calls end
//! in time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use channel_layer::health::Status;
use channel_layer::{ChannelLayer, Error, Event, FallbackLayer, Mode, PubSubLayer, RedisLayer};
use futures_util::future::join_all;

use super::tools::{number, numbered};
use crate::pubsub::tools::config;
use crate::support::{DEADLINE, Proxy, RedisServer, within};

/// Delay in each direction.
const DELAY: Duration = Duration::from_millis(150);
/// Number of messages that are sent one after the other, which takes many round trips.
const IN_A_ROW: i64 = 10;
/// Number of messages that are sent at the same time, which takes few round trips.
const AT_ONCE: i64 = 1000;

/// Allowance for a busy machine.
const MARGIN: Duration = Duration::from_millis(2500);

/// Sends messages from `far`, which has the slow connection, to `near` and back, one after the other and many at once.
async fn talks(far: Arc<dyn ChannelLayer>, near: Arc<dyn ChannelLayer>) {
    let mut events = far.events();
    for (sender, reader, channel) in [(&far, &near, "near!"), (&near, &far, "far!")] {
        let mut receiver = reader.receiver(&[channel]).unwrap();
        let member = format!("{channel}1");
        reader.group_add(channel.trim_end_matches('!'), &member).await.unwrap();
        let began = Instant::now();
        let sending = async {
            for n in 0..IN_A_ROW {
                sender.group_send(channel.trim_end_matches('!'), numbered(n)).await.unwrap();
            }
            let rest: Vec<_> = (IN_A_ROW..AT_ONCE).map(|n| (&*member, numbered(n))).collect();
            assert!(sender.send_many(&rest).await.into_iter().all(|result| result.is_ok()));
            join_all((AT_ONCE..2 * AT_ONCE).map(|n| sender.send(&member, numbered(n)))).await
        };
        let reading = async {
            for n in 0..2 * AT_ONCE {
                assert_eq!(number(&receiver.recv().await.unwrap()), n);
            }
        };
        let (sent, ()) = within(DEADLINE, "all messages", async { tokio::join!(sending, reading) }).await;
        assert!(sent.into_iter().all(|result| result.is_ok()));
        // One round trip per message would take ten minutes.
        assert!(began.elapsed() > DELAY && began.elapsed() < DEADLINE);
        assert!(within(DEADLINE, "an empty channel", reader.try_receive(&[channel])).await.unwrap().is_none());
        receiver.close().await.unwrap();
    }
    assert_eq!(*far.mode().borrow(), Mode::Remote);
    let lost = std::iter::from_fn(|| events.try_recv().ok()).find(|event| {
        matches!(event, Event::ShardDown { .. } | Event::SubscriptionLost { .. } | Event::ReadInterrupted { .. })
    });
    assert_eq!(lost, None);
    let health = within(DEADLINE, "health", far.health()).await;
    let shard = &health.shards[0];
    let travelled = shard.probe.as_ref().unwrap().round_trip;
    assert_eq!(health.status, Status::Healthy);
    assert!(shard.latency.min(travelled) >= Some(2 * DELAY), "{shard:?}");
}

#[tokio::test]
async fn published_messages_arrive_in_order_and_once() {
    let server = RedisServer::start();
    let proxy = Proxy::before(&server.url()).await;
    proxy.delay(DELAY);
    let config = |url: &str| config([url]).command_timeout(DEADLINE);
    let far = PubSubLayer::connect(config(&proxy.url())).await.unwrap();
    let near = PubSubLayer::connect(config(&server.url())).await.unwrap();
    talks(Arc::new(far), Arc::new(near)).await;
}

#[tokio::test]
async fn stored_messages_arrive_in_order_and_once() {
    let server = RedisServer::start();
    let proxy = Proxy::before(&server.url()).await;
    proxy.delay(DELAY);
    let config = |url: &str| config([url]).command_timeout(DEADLINE);
    let far = RedisLayer::connect(config(&proxy.url())).await.unwrap();
    let near = RedisLayer::connect(config(&server.url())).await.unwrap();
    talks(Arc::new(far), Arc::new(near)).await;
}

#[tokio::test]
async fn a_try_receive_over_a_half_open_connection_ends_with_the_command_timeout() {
    let server = RedisServer::start();
    let proxy = Proxy::before(&server.url()).await;
    let config = config([&*proxy.url()]);
    let timeout = Duration::from_secs(3);
    let stored = RedisLayer::connect(config.clone().command_timeout(timeout)).await.unwrap();
    let pubsub = PubSubLayer::connect(config.clone().command_timeout(timeout)).await.unwrap();
    let fallback = FallbackLayer::connect(config.command_timeout(timeout)).await.unwrap();
    // A layer that stores messages reports the outage. The others find no message in the process.
    let layers: [(Arc<dyn ChannelLayer>, bool); 3] =
        [(Arc::new(stored), true), (Arc::new(pubsub), false), (Arc::new(fallback), false)];
    for (layer, _) in &layers {
        layer.try_receive(&["n", "l!", "s?a"]).await.unwrap();
    }
    proxy.freeze();
    proxy.refuse_new();
    for (layer, fails) in layers {
        // The first call detects the outage. Later calls return at once.
        for most in [2 * timeout + MARGIN, MARGIN] {
            let received = within(most, "the end of the call", layer.try_receive(&["n", "l!", "new?a"])).await;
            if fails {
                assert!(matches!(received, Err(Error::Redis { shard: 0, .. })), "{received:?}");
            } else {
                assert_eq!(received.unwrap(), None);
            }
        }
    }
}
