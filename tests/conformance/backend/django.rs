//! Layers in the formats of Python.

use std::sync::Arc;

use channel_layer::Config;
use channel_layer::django::{AsgiRedisLayer, ChannelsRedisLayer};

use super::super::guarantees::Promise;
use super::super::tools::Layer;
use super::redis::on;
use super::{Backend, Options};
use crate::support::shared_servers;

/// [`ChannelsRedisLayer`] on some of the shared servers.
pub struct ChannelsRedis<const SHARDS: usize> {
    config: Config,
    first: Arc<ChannelsRedisLayer>,
}

impl<const SHARDS: usize> Backend for ChannelsRedis<SHARDS> {
    const COLUMN: &'static str = "ChannelsRedisLayer";
    const LACKS: &'static [Promise] = &[Promise::Counters];
    const LIKE_PYTHON: bool = true;

    async fn start(options: Options) -> Self {
        let config = on(&shared_servers()[..SHARDS], options.config());
        let first = Arc::new(ChannelsRedisLayer::connect(config.clone()).await.unwrap());
        Self { config, first }
    }

    fn layer(&self) -> Layer {
        self.first.clone()
    }

    async fn peer(&self) -> Layer {
        Arc::new(ChannelsRedisLayer::connect(self.config.clone()).await.unwrap())
    }
}

/// [`AsgiRedisLayer`] on some of the shared servers, with keys.
pub struct AsgiRedis<const SHARDS: usize> {
    config: Config,
    first: Arc<AsgiRedisLayer>,
}

impl<const SHARDS: usize> Backend for AsgiRedis<SHARDS> {
    const COLUMN: &'static str = "AsgiRedisLayer";
    const LACKS: &'static [Promise] = &[Promise::OnePlacePerProcess];

    async fn start(options: Options) -> Self {
        let config = on(&shared_servers()[..SHARDS], options.config());
        let config = config.symmetric_encryption_keys(["the key in use", "the key before it"]);
        let first = Arc::new(AsgiRedisLayer::connect(config.clone()).await.unwrap());
        Self { config, first }
    }

    fn layer(&self) -> Layer {
        self.first.clone()
    }

    async fn peer(&self) -> Layer {
        Arc::new(AsgiRedisLayer::connect(self.config.clone()).await.unwrap())
    }
}
