//! `PubSubLayer`: a layer on Redis pub/sub, in the wire format of `channels_redis.pubsub`.
//!
//! Messages are not stored: a server passes them to the processes that are subscribed at that moment. `publish` and
//! `subscribe` are the paths to and from the servers, and `inbox` has the queues of the receivers in this process.
//! `interest` says which channels and groups the process has to be subscribed to.

pub(crate) mod connect;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
pub(crate) mod inbox;
pub(crate) mod interest;
pub(crate) mod layer;
pub(crate) mod managers;
pub(crate) mod probe;
pub(crate) mod publish;
pub(crate) mod source;
pub(crate) mod subscribe;
pub(crate) mod topic;
pub(crate) mod wire;

pub use layer::PubSubLayer;
