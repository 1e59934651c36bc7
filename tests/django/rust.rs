//! `RustLayer`: the side in Rust.

use std::sync::Arc;

use async_trait::async_trait;
use channel_layer::django::{AsgiRedisLayer, ChannelsRedisLayer};
use channel_layer::{ChannelLayer, Config, Message, PubSubLayer};

use super::side::Side;
use super::site::Package;
use crate::support::{DEADLINE, random_prefix, within};

/// A Rust layer in one of Python's formats.
pub struct RustLayer {
    pub layer: Arc<dyn ChannelLayer>,
    naming: Naming,
}

/// How to create the name of a process-local channel that Python can also send to.
enum Naming {
    /// Any valid name.
    Free,
    /// [`ChannelLayer::new_channel`].
    ByLayer,
    /// [`PubSubLayer::new_specific_channel`].
    ByPubSub(Arc<PubSubLayer>),
}

impl RustLayer {
    pub async fn open(package: Package, config: Config) -> Self {
        let (layer, naming): (Arc<dyn ChannelLayer>, _) = match package {
            Package::AsgiRedis => (Arc::new(AsgiRedisLayer::connect(config).await.unwrap()), Naming::Free),
            Package::ChannelsRedis => (Arc::new(ChannelsRedisLayer::connect(config).await.unwrap()), Naming::ByLayer),
            Package::PubSub => {
                let layer = Arc::new(PubSubLayer::connect(config).await.unwrap());
                (layer.clone(), Naming::ByPubSub(layer))
            }
        };
        Self { layer, naming }
    }
}

#[async_trait]
impl Side for RustLayer {
    async fn send(&self, channel: &str, message: &Message) {
        self.layer.send(channel, message.clone()).await.unwrap();
    }

    async fn receive(&self, channel: &str) -> (String, Message) {
        let (what, sources) = (format!("a message on {channel}"), [source(channel)]);
        let delivery = within(DEADLINE, &what, self.layer.receive(&sources)).await.unwrap();
        (delivery.channel.to_string(), delivery.message)
    }

    async fn new_local_channel(&self) -> String {
        match &self.naming {
            Naming::Free => format!("{}!{}", random_prefix(), random_prefix()),
            Naming::ByLayer => self.layer.new_channel("specific").await.unwrap().to_string(),
            Naming::ByPubSub(layer) => layer.new_specific_channel("specific.").await.unwrap().to_string(),
        }
    }

    async fn new_single_reader_channel(&self) -> String {
        self.layer.new_channel("http.request.body?").await.unwrap().to_string()
    }

    async fn group_add(&self, group: &str, channel: &str) {
        self.layer.group_add(group, channel).await.unwrap();
    }

    async fn group_discard(&self, group: &str, channel: &str) {
        self.layer.group_discard(group, channel).await.unwrap();
    }

    async fn group_send(&self, group: &str, message: &Message) {
        self.layer.group_send(group, message.clone()).await.unwrap();
    }

    async fn flush(&self) {
        self.layer.flush().await.unwrap();
    }
}

/// Returns the name to receive from for messages of `channel`: the part up to a `!`.
pub fn source(channel: &str) -> &str {
    channel.find('!').map_or(channel, |at| &channel[..=at])
}
