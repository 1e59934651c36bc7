//! `ReservedPort`: a port that no other process takes.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::TcpSocket;

/// A port of the loopback address for a server that a test starts, or at which nothing listens. It stays bound here
/// without listening, so the system assigns it to no other process. A server that is configured with it can still
/// listen, because both sides allow the reuse of the address.
pub struct ReservedPort(TcpSocket);

impl ReservedPort {
    pub fn new() -> Self {
        let socket = TcpSocket::new_v4().expect("a socket can be made");
        socket.set_reuseaddr(true).expect("a new socket can be set up");
        socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("a loopback port is free");
        Self(socket)
    }

    pub fn number(&self) -> u16 {
        self.0.local_addr().expect("a bound socket has an address").port()
    }
}
