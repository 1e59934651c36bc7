//! The layers on Redis: [`RedisLayer`] in the native format, and [`PubSubLayer`] on publish and subscribe.
//!
//! A message goes out through `send`, waits in a list of one server (`node`, chosen by `topology`), and comes in
//! through `receive`. `native` is the native format: it finds the members of a group message with the model in
//! `groups`, which has no access to a server. `stored` joins a format and the two paths to a layer, for the formats of
//! Python too.

pub(crate) mod closing;
pub(crate) mod driven;
pub(crate) mod entry;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
pub(crate) mod groups;
pub(crate) mod native;
pub(crate) mod node;
pub(crate) mod pubsub;
pub(crate) mod receive;
pub(crate) mod send;
pub(crate) mod stored;
pub(crate) mod topology;

pub use native::format::{Native, RedisLayer};
pub use native::quarantine;
pub use pubsub::PubSubLayer;
pub use stored::StoredLayer;
