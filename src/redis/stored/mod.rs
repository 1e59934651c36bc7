//! The layers that store messages in Redis.
//!
//! [`layer::StoredLayer`] is the layer, and [`format::StoredFormat`] is what a format adds to it, with its
//! [`groups::StoredGroups`]. [`group_send`] has the steps of a group send. [`scan`] walks over the keys of a server.

pub(crate) mod format;
mod group_send;
pub(crate) mod groups;
pub(crate) mod layer;
pub(crate) mod scan;

pub use layer::StoredLayer;
