//! The layer on Redis, in its native format.

mod batch;
pub(crate) mod clock;
pub(crate) mod connection;
mod envelope;
pub(crate) mod fault;
mod frame;
mod group;
mod keys;
mod layer;
mod membership;
mod receive;
pub(crate) mod ring;
mod routes;
pub(crate) mod script;
mod send;
pub(crate) mod shard;
mod statistics;
mod topology;

pub use layer::RedisLayer;
