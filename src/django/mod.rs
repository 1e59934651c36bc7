//! Layers in the formats of Python: they read and write the data that Django Channels stores in Redis.
//!
//! | layer | package of Python | since |
//! |---|---|---|
//! | [`ChannelsRedisLayer`] | `channels_redis`, `core.RedisChannelLayer` | 3.0 |
//! | [`AsgiRedisLayer`] | `asgi_redis`, `RedisChannelLayer` | 1.0 |
//!
//! Both use the servers, send queues and readers of the native layer. They use the clock of the Redis server, and
//! Python uses the clock of each process.

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
