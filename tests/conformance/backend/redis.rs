//! `RedisLayer`: on one server, on three, on a cluster, and encrypted.

use std::sync::Arc;

use channel_layer::{Config, RedisLayer, SpreadRule};

use super::super::guarantees::Promise;
use super::super::tools::Layer;
use super::{Backend, Options};
use crate::support::{DEADLINE, RedisServer, random_prefix, shared_cluster, shared_servers};

/// [`RedisLayer`] on some of the shared servers, with a random prefix.
pub struct Redis<const SHARDS: usize>(Processes);

impl<const SHARDS: usize> Backend for Redis<SHARDS> {
    const COLUMN: &'static str = "RedisLayer";
    const LACKS: &'static [Promise] = &[];

    async fn start(options: Options) -> Self {
        Self(Processes::start(on(&shared_servers()[..SHARDS], options.config())).await)
    }

    fn layer(&self) -> Layer {
        self.0.first()
    }

    async fn peer(&self) -> Layer {
        Arc::new(self.0.another().await)
    }
}

/// [`RedisLayer`] on one server, with keys.
pub struct RedisEncrypted(Processes);

impl Backend for RedisEncrypted {
    const COLUMN: &'static str = "RedisLayer";
    const LACKS: &'static [Promise] = &[];

    async fn start(options: Options) -> Self {
        let config = options.config().symmetric_encryption_keys(["the key in use", "the key before it"]);
        Self(Processes::start(on(&shared_servers()[..1], config)).await)
    }

    fn layer(&self) -> Layer {
        self.0.first()
    }

    async fn peer(&self) -> Layer {
        Arc::new(self.0.another().await)
    }
}

/// [`RedisLayer`] on the shared cluster, which spreads normal channels over this many lists.
pub struct RedisCluster<const LISTS: usize>(Processes);

impl<const LISTS: usize> Backend for RedisCluster<LISTS> {
    const COLUMN: &'static str = "RedisLayer";
    const LACKS: &'static [Promise] = &[];

    async fn start(options: Options) -> Self {
        // A reader needs a connection for each list.
        let config = on_cluster(options.config()).pool_size(64 * LISTS).spread(SpreadRule::glob("*", LISTS));
        Self(Processes::start(config).await)
    }

    fn layer(&self) -> Layer {
        self.0.first()
    }

    async fn peer(&self) -> Layer {
        Arc::new(self.0.another().await)
    }
}

/// Returns `config` on `servers`, separated from all other data by a random prefix.
pub fn on(servers: &[RedisServer], config: Config) -> Config {
    at(servers.iter().map(RedisServer::url), config)
}

/// Returns `config` on the shared cluster, separated in the same way.
pub fn on_cluster(config: Config) -> Config {
    // One seed leads to the other nodes. Readers of many channels need a connection for each.
    at(shared_cluster().urls(0..1), config).cluster(true).pool_size(64)
}

fn at(urls: impl IntoIterator<Item = String>, config: Config) -> Config {
    let prefix = random_prefix();
    config
        .hosts(urls)
        .stats_prefix(format!("{prefix}-meta:"))
        .prefix(prefix)
        // Many tests run at once, and a busy machine must not look like an outage.
        .connect_timeout(DEADLINE)
        .command_timeout(DEADLINE)
}

/// Instances of [`RedisLayer`] with the same configuration, as the processes of one deployment have.
pub struct Processes {
    config: Config,
    first: Arc<RedisLayer>,
}

impl Processes {
    pub async fn start(config: Config) -> Self {
        let first = Arc::new(RedisLayer::connect(config.clone()).await.unwrap());
        Self { config, first }
    }

    pub fn first(&self) -> Arc<RedisLayer> {
        Arc::clone(&self.first)
    }

    pub async fn another(&self) -> RedisLayer {
        RedisLayer::connect(self.config.clone()).await.unwrap()
    }
}
