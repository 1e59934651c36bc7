//! Inherited listeners: sockets that systemd or another supervisor has opened and passed on.

use std::env;
use std::io::{self, ErrorKind};
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::net::UnixListener;

use filedescriptor::FileDescriptor;
use socket2::{SockRef, Type};

use crate::server::transport::listener::Listener;

/// The first file descriptor that is passed on (`sd_listen_fds(3)`).
const FIRST_DESCRIPTOR: RawFd = 3;

impl Listener {
    /// Accepts connections from an inherited listening socket: a file descriptor of a TCP or unix socket. The
    /// descriptor stays open beside the listener. So clients wait, and are not refused, while one process takes over
    /// from another.
    ///
    /// # Errors
    ///
    /// If the descriptor is not a listening socket.
    pub fn inherited(descriptor: RawFd) -> io::Result<Self> {
        let copy = FileDescriptor::dup(&descriptor).and_then(|copy| copy.as_file()).map_err(io::Error::other)?;
        let socket = OwnedFd::from(copy);
        if !is_listening(&SockRef::from(&socket)).unwrap_or(false) {
            let reason = format!("file descriptor {descriptor} is not a listening socket");
            return Err(io::Error::new(ErrorKind::InvalidInput, reason));
        }
        let tcp = std::net::TcpListener::from(socket.try_clone()?);
        if tcp.local_addr().is_ok() {
            tcp.set_nonblocking(true)?;
            return tokio::net::TcpListener::from_std(tcp)?.try_into();
        }
        let unix = UnixListener::from(socket);
        unix.set_nonblocking(true)?;
        tokio::net::UnixListener::from_std(unix)?.try_into()
    }

    /// Returns the listening sockets that a service manager has passed on: `LISTEN_FDS` of them if `LISTEN_PID` names
    /// this process, otherwise none.
    ///
    /// # Errors
    ///
    /// If a descriptor is not a listening socket.
    pub fn activated() -> io::Result<Vec<Self>> {
        let number = |name| env::var(name).ok().and_then(|value| value.parse::<u32>().ok());
        if number("LISTEN_PID") != Some(std::process::id()) {
            return Ok(Vec::new());
        }
        let count = number("LISTEN_FDS").and_then(|count| RawFd::try_from(count).ok()).unwrap_or(0);
        (FIRST_DESCRIPTOR..FIRST_DESCRIPTOR.saturating_add(count)).map(Self::inherited).collect()
    }
}

/// Returns `true` for a stream socket that accepts connections.
fn is_listening(socket: &SockRef<'_>) -> io::Result<bool> {
    #[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
    let listens = socket.is_listener()?;
    // Other systems do not tell. A connected socket has a peer, and a listening one has none.
    #[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
    let listens = socket.peer_addr().is_err();
    Ok(listens && socket.r#type()? == Type::STREAM)
}
