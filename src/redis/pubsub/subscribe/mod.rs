//! The subscribed connection to one server.
//!
//! The [`manager`] keeps it subscribed to the [`desired`] topics. [`subscriber`] is the connection. It speaks RESP3 or
//! [`resp2`], or leads to a node of a cluster ([`sharded`]). The [`fence`] stops its messages once it counts as lost.

pub(crate) mod desired;
pub(crate) mod fence;
pub(crate) mod manager;
pub(crate) mod protocol;
pub(crate) mod resp2;
pub(crate) mod sharded;
pub(crate) mod subscriber;
