//! `HybridLayer`: normal channels on a local layer, all others on Redis.

use std::slice::from_ref;
use std::sync::Arc;

use channel_layer::{HybridLayer, MemoryLayer, RedisLayer};

use super::super::guarantees::Promise;
use super::super::tools::Layer;
use super::redis::{Processes, on, on_cluster};
use super::{Backend, Options};
use crate::support::{shared_servers, shared_unix_server};

/// [`HybridLayer`] with a [`MemoryLayer`] for normal channels, and one server or a cluster for the others. Its other
/// instance uses the same memory, like a second reader of the same process with its own connections.
pub struct HybridMemory<const CLUSTER: bool> {
    local: Arc<MemoryLayer>,
    remote: Processes,
    first: Layer,
}

impl<const CLUSTER: bool> Backend for HybridMemory<CLUSTER> {
    const COLUMN: &'static str = "HybridLayer with memory";
    const LACKS: &'static [Promise] = &[Promise::BetweenProcesses, Promise::Drain];

    async fn start(options: Options) -> Self {
        let local = Arc::new(MemoryLayer::with_config(&options.config()).unwrap());
        let remote = if CLUSTER { on_cluster(options.config()) } else { on(&shared_servers()[..1], options.config()) };
        let remote = Processes::start(remote).await;
        let first = Arc::new(HybridLayer::<MemoryLayer, RedisLayer>::new(Arc::clone(&local), remote.first()));
        Self { local, remote, first }
    }

    fn layer(&self) -> Layer {
        Arc::clone(&self.first)
    }

    async fn peer(&self) -> Layer {
        Arc::new(HybridLayer::<MemoryLayer, RedisLayer>::new(Arc::clone(&self.local), self.remote.another().await))
    }
}

/// [`HybridLayer`] with a [`RedisLayer`] of the machine for normal channels.
pub struct HybridRedis {
    local: Processes,
    remote: Processes,
    first: Layer,
}

impl Backend for HybridRedis {
    const COLUMN: &'static str = "HybridLayer with Redis";
    const LACKS: &'static [Promise] = &[];

    async fn start(options: Options) -> Self {
        let local = Processes::start(on(from_ref(shared_unix_server()), options.config())).await;
        let remote = Processes::start(on(&shared_servers()[..1], options.config())).await;
        let first = Arc::new(HybridLayer::<RedisLayer, RedisLayer>::new(local.first(), remote.first()));
        Self { local, remote, first }
    }

    fn layer(&self) -> Layer {
        Arc::clone(&self.first)
    }

    async fn peer(&self) -> Layer {
        Arc::new(HybridLayer::<RedisLayer, RedisLayer>::new(self.local.another().await, self.remote.another().await))
    }
}
