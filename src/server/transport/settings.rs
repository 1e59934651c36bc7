//! Settings of client connections and their defaults.

use std::time::Duration;

use crate::server::transport::listener::Tls;

/// Settings that apply to every connection, whatever its requests.
#[derive(Clone, Debug)]
pub(crate) struct TransportSettings {
    pub(crate) tls: Option<Tls>,
    /// How long the client may take for the TLS handshake, and for the head of each request.
    pub(crate) header_timeout: Duration,
    /// How long a client may accept no bytes while bytes wait for it.
    pub(crate) stall_timeout: Duration,
    /// Maximum on each listener. Open sockets do not count.
    pub(crate) max_connections: usize,
    /// Maximum from one address on all listeners; 0 means no limit.
    pub(crate) max_connections_per_address: usize,
    pub(crate) max_header_size: usize,
    pub(crate) max_url_size: usize,
    pub(crate) access_log: bool,
}

impl Default for TransportSettings {
    fn default() -> Self {
        Self {
            tls: None,
            header_timeout: Duration::from_secs(10),
            stall_timeout: Duration::from_secs(30),
            max_connections: 10_000,
            max_connections_per_address: 0,
            max_header_size: 32 * 1024,
            max_url_size: 8 * 1024,
            access_log: false,
        }
    }
}
