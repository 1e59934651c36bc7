//! Layers in the formats of Python: what Django Channels reads and writes in Redis, read and written by Rust.
//!
//! | layer | package of Python | since |
//! |---|---|---|
//! | [`ChannelsRedisLayer`] | `channels_redis`, `core.RedisChannelLayer` | 3.0 |
//! | [`AsgiRedisLayer`] | `asgi_redis`, `RedisChannelLayer` | 1.0 |
//!
//! Both are written against the same servers, lanes and readers as the native layer. Times are those of the Redis server,
//! where Python takes each process' own.

mod asgi_redis;
mod base;
mod channels_redis;
mod garbage;
mod groups;
mod keys;
mod layer;
mod payload;
mod script;
mod send;
mod wire;

pub use asgi_redis::{AsgiRedis, AsgiRedisLayer};
pub use channels_redis::{ChannelsRedis, ChannelsRedisLayer};
pub use layer::DjangoLayer;
