//! The rooms and users of this process: their clients, and the groups of the layer that follow from them.
//!
//! [`index`] maps rooms and users to clients. [`groups`] decides without I/O which groups the process has to be a member of,
//! and [`reconciler`] tells the layer.

pub(crate) mod groups;
pub(crate) mod index;
pub(crate) mod reconciler;
