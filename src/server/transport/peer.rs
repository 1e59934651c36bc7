//! The addresses and the scheme of a client connection.

use std::net::SocketAddr;

/// The two addresses of a client connection; `None` for a unix socket.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Peer {
    pub(crate) client: Option<SocketAddr>,
    pub(crate) server: Option<SocketAddr>,
    /// The client uses TLS, with this server or with a proxy in front of it.
    pub(crate) secure: bool,
}
