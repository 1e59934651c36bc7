//! The end in Rust.

use async_trait::async_trait;
use channel_layer::{ChannelLayer, Config, Message, PubSubLayer};

use super::side::Side;
use crate::support::{DEADLINE, within};

/// A layer of ours in the format of Python's.
pub struct RustLayer(PubSubLayer);

impl RustLayer {
    pub async fn open(config: Config) -> Self {
        Self(PubSubLayer::connect(config).await.unwrap())
    }
}

#[async_trait]
impl Side for RustLayer {
    async fn send(&self, channel: &str, message: &Message) {
        self.0.send(channel, message.clone()).await.unwrap();
    }

    async fn receive(&self, channel: &str) -> (String, Message) {
        let (what, sources) = (format!("a message on {channel}"), [channel]);
        let delivery = within(DEADLINE, &what, self.0.receive(&sources)).await.unwrap();
        (delivery.channel.to_string(), delivery.message)
    }

    async fn new_local_channel(&self) -> String {
        self.0.new_specific_channel("specific.").await.unwrap().to_string()
    }

    async fn new_single_reader_channel(&self) -> String {
        self.0.new_channel("http.request.body?").await.unwrap().to_string()
    }

    async fn group_add(&self, group: &str, channel: &str) {
        self.0.group_add(group, channel).await.unwrap();
    }

    async fn group_discard(&self, group: &str, channel: &str) {
        self.0.group_discard(group, channel).await.unwrap();
    }

    async fn group_send(&self, group: &str, message: &Message) {
        self.0.group_send(group, message.clone()).await.unwrap();
    }
}
