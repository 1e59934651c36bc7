//! The subscribed connection to one server.
//!
//! [`manager`] keeps it subscribed to what [`desired`] says. [`subscriber`] is the connection, and [`fence`] stops its
//! messages once it counts as lost.

pub(crate) mod desired;
pub(crate) mod fence;
pub(crate) mod manager;
pub(crate) mod resp2;
pub(crate) mod subscriber;
