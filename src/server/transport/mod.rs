//! Client connections: listeners, TLS, HTTP/1 and HTTP/2, and proxies.
//!
//! [`acceptor`] accepts connections and [`connection`] serves one connection from its first byte to its end, with its
//! timeouts and limits. [`streams`] tracks how fast clients take their responses.

pub(crate) mod acceptor;
mod access_log;
pub(crate) mod connection;
mod drain;
pub(crate) mod http;
pub(crate) mod linger;
pub(crate) mod listener;
pub(crate) mod peer;
mod pending_writes;
pub(crate) mod proxy;
mod respond;
mod response_body;
pub(crate) mod settings;
pub(crate) mod shutdown;
pub(crate) mod streams;
