//! Client connections: listeners, TLS, HTTP/1 and HTTP/2, and proxies.
//!
//! [`connection`] serves one connection from its first byte to its end, with its timeouts and limits. [`streams`] tracks the
//! responses that are under way on it, so that the drain and slow clients are handled for both protocols.

pub(crate) mod connection;
pub(crate) mod linger;
pub(crate) mod listener;
pub(crate) mod pending_writes;
pub(crate) mod proxy;
pub(crate) mod streams;
