//! The layer on Redis, in its native format.

mod clock;
mod connection;
mod envelope;
mod fault;
mod frame;
mod group;
mod keys;
mod layer;
mod membership;
mod receive;
mod ring;
mod script;
mod send;
mod shard;
mod statistics;
mod topology;

pub use layer::RedisLayer;
