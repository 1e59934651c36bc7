//! `FallbackLayer`: with its server, and without.

use std::sync::Arc;

use channel_layer::{Config, FallbackLayer, RedisLayer};

use super::super::guarantees::Promise;
use super::super::tools::Layer;
use super::redis::{on, on_cluster};
use super::{Backend, Options};
use crate::support::{RedisServer, shared_servers};

/// [`FallbackLayer`] over a [`RedisLayer`] with a running server, or with a cluster.
pub struct Fallback<const CLUSTER: bool> {
    config: Config,
    first: Arc<FallbackLayer<RedisLayer>>,
}

impl<const CLUSTER: bool> Backend for Fallback<CLUSTER> {
    const COLUMN: &'static str = "FallbackLayer";
    const LACKS: &'static [Promise] = &[];

    async fn start(options: Options) -> Self {
        let config = if CLUSTER { on_cluster(options.config()) } else { on(&shared_servers()[..1], options.config()) };
        Self { first: Arc::new(FallbackLayer::connect(config.clone()).await.unwrap()), config }
    }

    fn layer(&self) -> Layer {
        self.first.clone()
    }

    async fn peer(&self) -> Layer {
        Arc::new(FallbackLayer::connect(self.config.clone()).await.unwrap())
    }
}

/// The same without a running server, so that only the layer of the process is used.
pub struct FallbackAlone(Layer);

impl Backend for FallbackAlone {
    const COLUMN: &'static str = "MemoryLayer";
    const LACKS: &'static [Promise] = &[Promise::BetweenProcesses, Promise::Drain];
    const FLUSHES: bool = false;

    async fn start(options: Options) -> Self {
        let mut server = RedisServer::start();
        server.stop();
        Self(Arc::new(FallbackLayer::connect(options.config().host(server.url())).await.unwrap()))
    }

    fn layer(&self) -> Layer {
        self.0.clone()
    }

    async fn peer(&self) -> Layer {
        self.layer()
    }
}
