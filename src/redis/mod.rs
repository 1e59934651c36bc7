//! The layer on Redis, in its native format.

mod answer;
pub(crate) mod batch;
pub(crate) mod calls;
pub(crate) mod checkup;
pub(crate) mod clock;
mod commands;
pub(crate) mod connection;
pub(crate) mod endpoint;
mod envelope;
pub(crate) mod fault;
pub(crate) mod frame;
mod group;
mod keys;
mod layer;
mod letter;
mod membership;
pub(crate) mod origin;
pub(crate) mod outbox;
mod pubsub;
pub(crate) mod receive;
mod renewals;
pub(crate) mod ring;
mod routes;
pub(crate) mod routine;
pub(crate) mod script;
mod send;
pub(crate) mod sentinel;
pub(crate) mod servers;
pub(crate) mod shard;
pub(crate) mod statistics;
pub(crate) mod topology;
mod trust;
mod vitals;

pub use layer::RedisLayer;
pub use pubsub::PubSubLayer;
