//! `PubSubLayer`: a layer on Redis pub/sub, in the wire format of `channels_redis.pubsub`.

pub(crate) mod connect;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
pub(crate) mod inbox;
pub(crate) mod interest;
pub(crate) mod layer;
pub(crate) mod probe;
pub(crate) mod publish;
pub(crate) mod source;
pub(crate) mod subscribe;
pub(crate) mod topic;
pub(crate) mod wire;

pub use layer::PubSubLayer;
