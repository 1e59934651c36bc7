//! A port that nobody else takes.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::TcpSocket;

/// A port of the loopback address for a server that a test starts, or to which nobody answers. It is bound here as long as this lives, without being
/// listened on, so that the system gives it to nobody; a server that is told to can listen there all the same, since
/// both sides allow the reuse of the address.
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
