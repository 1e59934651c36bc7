//! `InterfaceServer`: its settings, its start and its shutdown.
//!
//! [`running`] connects the parts of the server (transport, WebSockets, HTTP, status page) and drains them at the end.
//! No other folder depends on this one.

pub(crate) mod bound;
mod running;
pub(crate) mod server;
pub(crate) mod settings;
#[cfg(test)]
mod tests;
