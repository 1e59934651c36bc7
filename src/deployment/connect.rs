//! `connect`: a layer on Redis in the configured format.

use std::sync::Arc;

use crate::config::{Config, Fallback, Format};
use crate::django::{AsgiRedisLayer, ChannelsRedisLayer};
use crate::error::{Error, Result};
use crate::fallback::FallbackLayer;
use crate::layer::ChannelLayer;
use crate::redis::{PubSubLayer, RedisLayer};

/// Connects to the servers of `config` in the configured [format](Config::format). Wraps the layer in a
/// [`FallbackLayer`] if [`fallback`](Config::fallback) is `local`.
///
/// ```no_run
/// use channel_layer::{ChannelLayer, Config, message};
///
/// # async fn example() -> channel_layer::Result<()> {
/// let config = Config::from_toml(r#"
///     hosts = ["redis://127.0.0.1:6379/0"]
///     format = "channels_redis"
/// "#)?;
/// let layer = channel_layer::connect(config).await?;
/// layer.group_send("chat", message! { "type": "chat.message", "text": "hi" }).await?;
/// # Ok(())
/// # }
/// ```
///
/// # Cancel safety
///
/// When dropped, all connections are closed.
///
/// # Errors
///
/// As [`RedisLayer::connect`], and [`Error::InvalidConfig`] if the format does not support a fallback.
pub async fn connect(config: Config) -> Result<Arc<dyn ChannelLayer>> {
    // Errors of files and formats name the variable too.
    let named = config.clone();
    connect_to(config, true).await.map_err(|error| named.with_origin(error))
}

/// Connects as [`connect`] does, but succeeds without a reachable server in the formats that store messages. Calls fail
/// until one is reachable.
///
/// # Cancel safety
///
/// When dropped, all connections are closed.
///
/// # Errors
///
/// As [`RedisLayer::connect_or_wait`], and [`Error::InvalidConfig`] if the format does not support a fallback.
pub async fn connect_or_wait(config: Config) -> Result<Arc<dyn ChannelLayer>> {
    let named = config.clone();
    connect_to(config, false).await.map_err(|error| named.with_origin(error))
}

async fn connect_to(config: Config, some_needed: bool) -> Result<Arc<dyn ChannelLayer>> {
    let local = config.fallback == Some(Fallback::Local);
    Ok(match config.format {
        Format::AsgiRedis | Format::ChannelsRedis if local => {
            return Err(Error::config("fallback", "local", "needs format native or pubsub"));
        }
        Format::Native if local => Arc::new(FallbackLayer::connect(config).await?),
        Format::Native => Arc::new(RedisLayer::connect_to(config, some_needed).await?),
        Format::AsgiRedis => Arc::new(AsgiRedisLayer::connect_to(config, some_needed).await?),
        Format::PubSub => Arc::new(PubSubLayer::connect(config).await?),
        Format::ChannelsRedis => Arc::new(ChannelsRedisLayer::connect_to(config, some_needed).await?),
    })
}
