//! The layer on Redis, in its native format.

mod batch;
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
mod routes;
mod script;
mod send;
mod shard;
mod statistics;
mod topology;

pub use layer::RedisLayer;
