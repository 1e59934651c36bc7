//! Client connections: listeners, TLS, HTTP/1 and HTTP/2, and proxies.
//!
//! [`acceptor`] accepts connections, [`connection`] serves one connection from its first byte to its end, and
//! [`response`] answers each of its requests. [`streams`] tracks how fast clients take their responses.

pub(crate) mod acceptor;
pub(crate) mod connection;
pub(crate) mod http;
pub(crate) mod linger;
pub(crate) mod listener;
mod pending_writes;
pub(crate) mod proxy;
mod response;
pub(crate) mod settings;
pub(crate) mod shutdown;
pub(crate) mod streams;
