//! The layer that the options of a command ask for.

use std::sync::Arc;

use channel_layer::{
    BoxError, CapacityRule, ChannelLayer, Deployment, Fallback, Format, Host, HybridLayer, MemoryLayer, RedisLayer,
};
use clap::Args;

/// Replies of one process wait on one channel, whatever the number of its clients.
const REPLIES_CAPACITY: usize = 10_000;
/// Room for a moment in which all clients speak or come back at once.
const REQUESTS_CAPACITY: usize = 1_000;

/// Room for many delayed messages that come at once.
const DELAYED_CAPACITY: usize = 10_000;

/// Other options are read from the environment: `CHANNEL_LAYER_` and the option in capitals, or `REDIS_URL` and others.
#[derive(Args)]
pub(crate) struct LayerOptions {
    /// Redis server to talk through; repeat it for shards [env: CHANNEL_LAYER_HOSTS] [default: for the
    /// demo none, this process alone; else redis://127.0.0.1:6379/0]
    #[arg(long, value_name = "URL")]
    redis: Vec<String>,
    /// Key to encrypt messages with; of several the first seals and all open [env:
    /// CHANNEL_LAYER_SYMMETRIC_ENCRYPTION_KEYS]
    #[arg(long, value_name = "KEY")]
    encryption_key: Vec<String>,
    /// How messages are kept in Redis: native, or for Django sites channels_redis, pubsub or asgi_redis
    /// [env: CHANNEL_LAYER_FORMAT] [default: native]
    #[arg(long)]
    format: Option<Format>,
}

impl LayerOptions {
    pub(crate) async fn connect(&self) -> Result<Arc<dyn ChannelLayer>, BoxError> {
        let deployment = self.deployment()?;
        if !deployment.is_pubsub() {
            return Ok(deployment.connect().await?);
        }
        // Every process that reads a normal channel gets its messages, and each would answer every client. So the worker of
        // a process answers the clients of that process.
        let local = MemoryLayer::with_config(&deployment.config)?;
        Ok(Arc::new(HybridLayer::<_, dyn ChannelLayer>::new(local, deployment.connect().await?)))
    }

    /// For commands that end at once: without a server they fail, and do not talk to themselves.
    pub(crate) async fn connect_once(&self) -> Result<Arc<dyn ChannelLayer>, BoxError> {
        let mut deployment = self.deployment()?.on_servers()?;
        deployment.config = deployment.config.fallback(Fallback::Fail);
        Ok(deployment.connect().await?)
    }

    /// For commands that only the native format has, and that end at once.
    pub(crate) async fn connect_native(&self) -> Result<RedisLayer, BoxError> {
        let deployment = self.deployment()?.on_servers()?;
        if deployment.format() != Format::Native {
            return Err("this command needs the format native: no other format has a quarantine".into());
        }
        Ok(RedisLayer::connect(deployment.config).await?)
    }

    /// For workers, and for servers, which workers answer; without an option they use the server on this machine.
    pub(crate) async fn connect_shared(&self) -> Result<Arc<dyn ChannelLayer>, BoxError> {
        let deployment = self.deployment()?.on_servers()?;
        if deployment.is_pubsub() {
            return Err(
                "on pubsub every worker gets every message, and each would answer every client: use another format, \
                        or demo, which answers its own clients"
                    .into(),
            );
        }
        Ok(deployment.connect().await?)
    }

    /// The options and the layer that the command and its environment ask for.
    pub(crate) fn deployment(&self) -> Result<Deployment, BoxError> {
        let deployment = Deployment::from_env()?;
        // What the environment says goes before these.
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
        if self.redis.is_empty() {
            return Ok(deployment.with_config(config));
        }
        // A server that is named is used, whatever the environment says.
        Ok(Deployment::of(config.hosts(self.redis.clone()).sentinels::<Host>([]).services::<String>([])))
    }
}
