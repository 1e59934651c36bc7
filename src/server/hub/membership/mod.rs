//! The rooms and users of this process, and its memberships in the groups of the layer.
//!
//! [`index`] maps rooms and users to clients. [`groups`] decides, without I/O, which groups the process has to join or
//! leave, and [`reconciler`] applies these changes to the layer.

pub(crate) mod groups;
pub(crate) mod index;
pub(crate) mod reconciler;
