//! `PubSubLayer`: with each of its protocols, on one and on three servers, on a cluster, and without Redis.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use channel_layer::{
    ChannelLayer, ChannelName, Config, Delivery, Event, Message, Mode, PubSubLayer, Receiver, Result, Statistics,
};
use tokio::sync::{broadcast, watch};

use super::super::guarantees::Promise;
use super::super::tools::Layer;
use super::redis::on;
use super::{Backend, Options};
use crate::support::{Cluster, DEADLINE, RedisServer};

const LACKS: &[Promise] =
    &[Promise::AtMostOnce, Promise::Capacity, Promise::NoSilentLoss, Promise::Drain, Promise::OnePlacePerProcess];
const LACKS_ON_SEVERAL: &[Promise] = &[
    Promise::AtMostOnce,
    Promise::Order,
    Promise::Capacity,
    Promise::NoSilentLoss,
    Promise::Drain,
    Promise::OnePlacePerProcess,
];

/// [`PubSubLayer`] on a dedicated server, because channels have no prefix and would collide with those of other tests.
/// Its other instance is the same layer: the suite reads in the process that sends. Other tests cover several
/// processes.
pub struct PubSub(Arc<Open>);

/// The same on three servers.
pub struct PubSubOnSeveral(Arc<Open>);

/// The same with `SPUBLISH` and with keys.
pub struct PubSubSharded(Arc<Open>);

/// The same without a running server.
pub struct PubSubAlone(Arc<Open>);

/// The same on a dedicated cluster, with `PUBLISH`.
pub struct PubSubCluster(Arc<Open>);

/// The same on a dedicated cluster, with `SPUBLISH`.
pub struct PubSubClusterSharded(Arc<Open>);

/// The methods of all these backends, whose instances are one layer.
macro_rules! delegate {
    () => {
        fn layer(&self) -> Layer {
            self.0.clone()
        }

        async fn peer(&self) -> Layer {
            self.layer()
        }

        async fn arrived(&self) {
            self.0.arrived().await;
        }
    };
}

impl Backend for PubSub {
    const COLUMN: &'static str = "PubSubLayer";
    const LACKS: &'static [Promise] = LACKS;

    async fn start(options: Options) -> Self {
        Self(Open::start(vec![RedisServer::start()], options.config()).await)
    }

    delegate!();
}

impl Backend for PubSubOnSeveral {
    const COLUMN: &'static str = "PubSubLayer on several servers";
    const LACKS: &'static [Promise] = LACKS_ON_SEVERAL;

    async fn start(options: Options) -> Self {
        Self(Open::start((0..3).map(|_| RedisServer::start()).collect(), options.config()).await)
    }

    delegate!();
}

impl Backend for PubSubSharded {
    const COLUMN: &'static str = "PubSubLayer";
    const LACKS: &'static [Promise] = LACKS;

    async fn start(options: Options) -> Self {
        let config = options.config().symmetric_encryption_keys(["a key"]).sharded_pubsub(true);
        Self(Open::start(vec![RedisServer::start()], config).await)
    }

    delegate!();
}

impl Backend for PubSubAlone {
    const COLUMN: &'static str = "PubSubLayer";
    const LACKS: &'static [Promise] = LACKS;

    async fn start(options: Options) -> Self {
        let mut server = RedisServer::start();
        server.stop();
        Self(Open::start(vec![server], options.config()).await)
    }

    delegate!();
}

impl Backend for PubSubCluster {
    const COLUMN: &'static str = "PubSubLayer";
    const LACKS: &'static [Promise] = LACKS;

    async fn start(options: Options) -> Self {
        Self(Open::on_cluster(options.config()).await)
    }

    delegate!();
}

impl Backend for PubSubClusterSharded {
    const COLUMN: &'static str = "PubSubLayer on several servers";
    const LACKS: &'static [Promise] = LACKS_ON_SEVERAL;

    async fn start(options: Options) -> Self {
        Self(Open::on_cluster(options.config().sharded_pubsub(true)).await)
    }

    delegate!();
}

/// A layer that opens channels before messages are sent to them. The suite sends before it reads, and pub/sub keeps
/// nothing for a reader that comes later.
struct Open {
    layer: PubSubLayer,
    /// They end with the layer.
    _servers: Vec<RedisServer>,
    _cluster: Option<Cluster>,
}

impl Open {
    async fn start(servers: Vec<RedisServer>, config: Config) -> Arc<Self> {
        let layer = PubSubLayer::connect(on(&servers, config)).await.unwrap();
        Arc::new(Self { layer, _servers: servers, _cluster: None })
    }

    async fn on_cluster(config: Config) -> Arc<Self> {
        let cluster = Cluster::without_replicas().await;
        // One seed leads to the other nodes.
        let config = config.cluster(true).hosts(cluster.urls(0..1)).connect_timeout(DEADLINE);
        let layer = PubSubLayer::connect(config).await.unwrap();
        Arc::new(Self { layer, _servers: Vec::new(), _cluster: Some(cluster) })
    }

    /// A read attempt on any channel waits for messages on their way to all of them.
    async fn arrived(&self) {
        self.layer.try_receive(&["any"]).await.unwrap();
    }

    async fn open(&self, channel: &str) {
        if let Ok(name) = ChannelName::parse_target(channel) {
            // The call itself reports an invalid name.
            self.layer.subscribe(&[name.non_local()]).await.ok();
        }
    }
}

#[async_trait]
impl ChannelLayer for Open {
    async fn send(&self, channel: &str, message: Message) -> Result<()> {
        self.open(channel).await;
        self.layer.send(channel, message).await
    }

    async fn send_many(&self, messages: &[(&str, Message)]) -> Vec<Result<()>> {
        for (channel, _) in messages {
            self.open(channel).await;
        }
        self.layer.send_many(messages).await
    }

    async fn receive(&self, channels: &[&str]) -> Result<Delivery> {
        self.layer.receive(channels).await
    }

    async fn try_receive(&self, channels: &[&str]) -> Result<Option<Delivery>> {
        self.layer.try_receive(channels).await
    }

    fn receiver(&self, channels: &[&str]) -> Result<Receiver> {
        self.layer.receiver(channels)
    }

    async fn new_channel(&self, pattern: &str) -> Result<ChannelName> {
        self.layer.new_channel(pattern).await
    }

    async fn group_add(&self, group: &str, channel: &str) -> Result<()> {
        self.open(channel).await;
        self.layer.group_add(group, channel).await
    }

    async fn group_add_for(&self, group: &str, channel: &str, lasts: Duration) -> Result<()> {
        self.open(channel).await;
        self.layer.group_add_for(group, channel, lasts).await
    }

    async fn group_discard(&self, group: &str, channel: &str) -> Result<()> {
        self.layer.group_discard(group, channel).await
    }

    async fn group_channels(&self, group: &str) -> Result<Vec<ChannelName>> {
        self.layer.group_channels(group).await
    }

    async fn group_send(&self, group: &str, message: Message) -> Result<()> {
        self.layer.group_send(group, message).await
    }

    async fn group_send_many(&self, messages: &[(&str, Message)]) -> Vec<Result<()>> {
        self.layer.group_send_many(messages).await
    }

    async fn flush(&self) -> Result<()> {
        self.layer.flush().await
    }

    async fn global_statistics(&self) -> Result<Statistics> {
        self.layer.global_statistics().await
    }

    async fn channel_statistics(&self, channel: &str) -> Result<Statistics> {
        self.layer.channel_statistics(channel).await
    }

    async fn close(&self) -> Result<()> {
        self.layer.close().await
    }

    fn group_expiry(&self) -> Duration {
        self.layer.group_expiry()
    }

    fn events(&self) -> broadcast::Receiver<Event> {
        self.layer.events()
    }

    fn mode(&self) -> watch::Receiver<Mode> {
        self.layer.mode()
    }
}
