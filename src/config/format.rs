//! `Format`: the choice between the ways in which messages are kept in Redis.

use crate::error::Error;

/// How messages and groups are kept in Redis. Layers of different formats do not see each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// The format of [`RedisLayer`](crate::RedisLayer): `native` in a configuration.
    #[default]
    Native,
    /// The format of Python's `asgi_redis` 1.x, for [`AsgiRedisLayer`](crate::django::AsgiRedisLayer): `asgi_redis` in a
    /// configuration.
    AsgiRedis,
    /// The format of Python's `channels_redis` from 3.0, for [`ChannelsRedisLayer`](crate::django::ChannelsRedisLayer):
    /// `channels_redis` in a configuration.
    ChannelsRedis,
    /// That of the publish and subscribe layer of `channels_redis`, for [`PubSubLayer`](crate::PubSubLayer): `pubsub` in a
    /// configuration.
    PubSub,
}

impl std::str::FromStr for Format {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        match name {
            "native" => Ok(Self::Native),
            "asgi_redis" => Ok(Self::AsgiRedis),
            "channels_redis" => Ok(Self::ChannelsRedis),
            "pubsub" => Ok(Self::PubSub),
            _ => Err(Error::config("format", name, "it must be native, asgi_redis, channels_redis or pubsub")),
        }
    }
}
