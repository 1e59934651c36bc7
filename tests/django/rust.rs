//! The end in Rust.

use std::sync::Arc;

use async_trait::async_trait;
use channel_layer::django::{AsgiRedisLayer, ChannelsRedisLayer};
use channel_layer::{ChannelLayer, Config, Message, PubSubLayer};

use super::side::Side;
use super::site::Package;
use crate::support::{DEADLINE, random_prefix, within};

/// A layer of ours in one of Python's formats.
pub struct RustLayer {
    pub layer: Arc<dyn ChannelLayer>,
    naming: Naming,
}

/// How a process-local channel gets a name that Python can send to, too.
enum Naming {
    /// Any name will do.
    Free,
    /// By the layer.
    ByLayer,
    /// By what the publishing layer has beside the trait.
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

/// What is received from to get the messages of `channel`.
pub fn source(channel: &str) -> &str {
    channel.find('!').map_or(channel, |at| &channel[..=at])
}
