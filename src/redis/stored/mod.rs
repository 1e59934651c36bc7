//! The layers that store messages in Redis.
//!
//! [`layer::StoredLayer`] is the layer, and [`format::StoredFormat`] is what a format adds to it. [`scan`] walks over the keys
//! of a server.

pub(crate) mod format;
pub(crate) mod layer;
pub(crate) mod scan;

pub use layer::StoredLayer;
