//! `Format`: the format of messages and groups in Redis.

use super::slot::{Slot, Words};
use crate::codec::serializer::Serializer;
use crate::config::sources::raw::Raw;
use crate::error::Error;

/// The format of messages and groups in Redis. Layers with different formats do not see each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// The format of [`RedisLayer`](crate::RedisLayer): `native` in a configuration.
    #[default]
    Native,
    /// The format of Python's `asgi_redis` 1.x, for [`AsgiRedisLayer`](crate::django::AsgiRedisLayer): `asgi_redis` in
    /// a configuration.
    AsgiRedis,
    /// The format of Python's `channels_redis` from 3.0, for [`ChannelsRedisLayer`](crate::django::ChannelsRedisLayer):
    /// `channels_redis` in a configuration.
    ChannelsRedis,
    /// The format of the pub/sub layer of `channels_redis`, for [`PubSubLayer`](crate::PubSubLayer): `pubsub` in a
    /// configuration.
    PubSub,
}

impl Words for Format {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("native", Self::Native),
        ("asgi_redis", Self::AsgiRedis),
        ("channels_redis", Self::ChannelsRedis),
        ("pubsub", Self::PubSub),
    ];
}

impl Words for Serializer {
    const WORDS: &'static [(&'static str, Self)] = &[("msgpack", Self::MessagePack), ("json", Self::Json)];
}

impl std::str::FromStr for Format {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        let mut format = None;
        Slot::Word(&mut format).set("format", Raw::Text(name.into()))?;
        Ok(format.unwrap_or_default())
    }
}
