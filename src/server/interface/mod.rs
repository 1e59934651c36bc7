//! [`InterfaceServer`](server::InterfaceServer): its settings, its start, and the drain at its end.
//!
//! [`bound`] runs the server from its first client to the end of the drain. [`shared`] is the state that all connections of
//! one server use.

pub(crate) mod bound;
pub(crate) mod server;
pub(crate) mod settings;
pub(crate) mod shared;
#[cfg(test)]
mod tests;
