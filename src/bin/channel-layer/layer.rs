//! The layer that the options of a command select.

use std::sync::Arc;

use channel_layer::{
    BoxError, CapacityRule, ChannelLayer, Deployment, Fallback, Format, Host, HybridLayer, MemoryLayer, RedisLayer,
};
use clap::Args;

/// Capacity of `websocket.send.*`: the replies to all clients of a process wait on one channel.
const REPLIES_CAPACITY: usize = 10_000;
/// Capacity of `websocket.*`: all clients may send or reconnect at once.
const REQUESTS_CAPACITY: usize = 1_000;

/// Capacity of `asgi.delay`: room for many delayed messages that become due at once.
const DELAYED_CAPACITY: usize = 10_000;

/// Further options come from the environment: `CHANNEL_LAYER_` and the option in capitals, or variables such as
/// `REDIS_URL`.
#[derive(Args)]
pub(crate) struct LayerOptions {
    /// Redis server; repeat it for shards [env: CHANNEL_LAYER_HOSTS] [default: redis://127.0.0.1:6379/0, for the demo
    /// none]
    #[arg(long, value_name = "URL")]
    redis: Vec<String>,
    /// The servers are nodes of a Redis Cluster, and lead to its other nodes [env: CHANNEL_LAYER_CLUSTER]
    #[arg(long)]
    cluster: bool,
    /// Key that encrypts messages; of several keys, the first encrypts and all decrypt [env:
    /// CHANNEL_LAYER_SYMMETRIC_ENCRYPTION_KEYS]
    #[arg(long, value_name = "KEY")]
    encryption_key: Vec<String>,
    /// Format of the data in Redis: native, or channels_redis, pubsub or asgi_redis for Django sites [env:
    /// CHANNEL_LAYER_FORMAT] [default: native]
    #[arg(long)]
    format: Option<Format>,
}

impl LayerOptions {
    pub(crate) async fn connect(&self) -> Result<Arc<dyn ChannelLayer>, BoxError> {
        let deployment = self.deployment()?;
        if !deployment.is_pubsub() {
            return Ok(deployment.connect().await?);
        }
        // On pub/sub, every process that reads a normal channel gets its messages, and each would answer every client.
        // So the worker of a process answers only the clients of that process.
        let local = MemoryLayer::with_config(&deployment.config)?;
        Ok(Arc::new(HybridLayer::<_, dyn ChannelLayer>::new(local, deployment.connect().await?)))
    }

    /// Connects for a command that makes one call. Fails during an outage: with a fallback, the call would reach only
    /// the process of the command itself.
    pub(crate) async fn connect_once(&self) -> Result<Arc<dyn ChannelLayer>, BoxError> {
        let mut deployment = self.deployment()?.on_servers()?;
        deployment.config = deployment.config.fallback(Fallback::Fail);
        Ok(deployment.connect().await?)
    }

    /// Connects for a command that only the native format supports, and that makes one call.
    pub(crate) async fn connect_native(&self) -> Result<RedisLayer, BoxError> {
        let deployment = self.deployment()?.on_servers()?;
        if deployment.format() != Format::Native {
            return Err("this command needs the format native: no other format has a quarantine".into());
        }
        Ok(RedisLayer::connect(deployment.config).await?)
    }

    /// Connects for a worker or an interface server. Without an option it uses the Redis server on this machine.
    pub(crate) async fn connect_shared(&self) -> Result<Arc<dyn ChannelLayer>, BoxError> {
        let deployment = self.deployment()?.on_servers()?;
        if deployment.is_pubsub() {
            return Err(
                "in the format pubsub every worker gets every message, and each would answer every client: use \
                 another format, or the command demo, whose worker answers only its own clients"
                    .into(),
            );
        }
        Ok(deployment.connect().await?)
    }

    /// Returns the options and the kind of layer that the command line and the environment select.
    pub(crate) fn deployment(&self) -> Result<Deployment, BoxError> {
        let deployment = Deployment::from_env()?;
        // The environment takes precedence over these defaults.
        let mut config = deployment
            .config
            .clone()
            .default_channel_capacity(CapacityRule::glob("websocket.send.*", REPLIES_CAPACITY))
            .default_channel_capacity(CapacityRule::glob("websocket.*", REQUESTS_CAPACITY))
            .default_channel_capacity(CapacityRule::glob("asgi.delay", DELAYED_CAPACITY));
        if !self.encryption_key.is_empty() {
            config = config.symmetric_encryption_keys(self.encryption_key.clone());
        }
        if let Some(format) = self.format {
            config = config.format(format);
        }
        if self.cluster {
            config = config.cluster(true);
        }
        if self.redis.is_empty() {
            return Ok(deployment.with_config(config));
        }
        // A server on the command line takes precedence over the environment.
        Ok(Deployment::of(config.hosts(self.redis.clone()).sentinels::<Host>([]).services::<String>([])))
    }
}
