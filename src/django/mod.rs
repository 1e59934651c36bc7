//! Layers in the formats of Python: what Django Channels reads and writes in Redis, read and written by Rust.
//!
//! | layer | package of Python | since |
//! |---|---|---|
//! | [`ChannelsRedisLayer`] | `channels_redis`, `core.RedisChannelLayer` | 3.0 |
//! | [`AsgiRedisLayer`] | `asgi_redis`, `RedisChannelLayer` | 1.0 |
//!
//! Both are written against the same servers, send queues and readers as the native layer. Times are those of the Redis server,
//! where Python takes each process' own.

mod asgi_redis;
mod channels_redis;
mod format;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod garbage;
mod groups;
mod keys;
mod payload;
mod script;

pub use asgi_redis::{AsgiRedis, AsgiRedisLayer};
pub use channels_redis::{ChannelsRedis, ChannelsRedisLayer};

use crate::redis::node::connection::Version;

/// `BZPOPMIN` and the commands of the scripts came with Redis 5.0, the `TYPE` of a `SCAN` with 6.0.
const OLDEST_SERVER: Version = Version(6, 0);
