//! The layer on Redis' publish and subscribe, in the wire format of `channels_redis.pubsub`.

mod connect;
mod gate;
mod inbox;
mod interest;
mod layer;
mod probe;
mod publish;
mod resp2;
mod source;
mod station;
mod subscriber;
mod topic;
mod wire;
mod wishes;

pub use layer::PubSubLayer;
