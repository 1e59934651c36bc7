//! The layers under test, each started as an application would start it.

mod django;
mod fallback;
mod hybrid;
mod kind;
mod memory;
mod pubsub;
mod redis;

pub use django::{AsgiRedis, ChannelsRedis};
pub use fallback::{Fallback, FallbackAlone};
pub use hybrid::{HybridMemory, HybridRedis};
pub use kind::{Kind, Started};
pub use memory::{Memory, MemoryThreaded};
pub use pubsub::{PubSub, PubSubAlone, PubSubCluster, PubSubClusterSharded, PubSubOnSeveral, PubSubSharded};
pub use redis::{Redis, RedisCluster, RedisEncrypted};

use std::time::Duration;

use channel_layer::{CapacityRule, Config};
use tokio::runtime::{Builder, Runtime};

use super::guarantees::Promise;
use super::tools::Layer;

/// A layer under test, and its properties.
pub trait Backend: Sized + 'static {
    /// Its column in the table in docs/guarantees.md.
    const COLUMN: &'static str;

    /// The guarantees that it lacks by design.
    const LACKS: &'static [Promise];

    /// Whether a flush can succeed. It cannot while a server that it should empty is unreachable.
    const FLUSHES: bool = true;

    /// Whether capacities go by full names and new channels may be process-local, as in Python's `channels_redis`.
    const LIKE_PYTHON: bool = false;

    /// Time limit of a test, by its clock: several times the duration of the longest one.
    const LIMIT: Duration = Duration::from_mins(4);

    /// Starts the layer, empty.
    async fn start(options: Options) -> Self;

    /// The layer.
    fn layer(&self) -> Layer;

    /// Returns another instance of it, as another process would have.
    async fn peer(&self) -> Layer;

    /// Waits until sent messages are visible to readers. On most layers they are when a send returns.
    async fn arrived(&self) {}

    /// Lets time pass.
    async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    /// The runtime of its tests.
    fn runtime() -> Runtime {
        Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime starts")
    }

    /// A runtime without threads of its own.
    fn one_thread() -> Runtime {
        Builder::new_current_thread().enable_all().build().expect("a runtime starts")
    }
}

/// The configuration of a test. Nothing expires and no channel is full unless the test says so. Messages are small
/// enough for a first read to take several.
#[derive(Clone)]
pub struct Options {
    pub capacity: usize,
    pub channel_capacity: &'static [(&'static str, usize)],
    pub expiry: Duration,
    pub group_expiry: Duration,
    pub max_message_size: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            capacity: 100_000,
            channel_capacity: &[],
            expiry: Duration::from_hours(1),
            group_expiry: Duration::from_hours(24),
            max_message_size: 1 << 19,
        }
    }
}

impl Options {
    fn config(&self) -> Config {
        let config = Config::new()
            .capacity(self.capacity)
            .expiry(self.expiry)
            .group_expiry(self.group_expiry)
            .max_message_size(self.max_message_size);
        let rules = self.channel_capacity.iter().map(|&(pattern, capacity)| CapacityRule::glob(pattern, capacity));
        rules.fold(config, Config::channel_capacity)
    }
}
