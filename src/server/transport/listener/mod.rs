//! Listeners: TCP, unix sockets, and listeners that another process has opened.
//!
//! A listener accepts streams and names the address of each client. `tls` wraps the accepted streams, and `unix`
//! creates and removes the file of a socket.

mod inherited;
mod tls;
mod unix;

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

#[cfg(any(target_os = "linux", target_os = "android"))]
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream, ToSocketAddrs, UnixListener, UnixStream};
use tokio::time::sleep;

use crate::server::transport::listener::unix::SocketFile;

pub(crate) use crate::server::transport::listener::tls::is_http2;
pub use crate::server::transport::listener::tls::{InvalidTls, Tls};

/// Pause after the system fails to accept a connection, for example without free file descriptors.
const RETRY_DELAY: Duration = Duration::from_millis(500);

/// Limit of the bytes that the system buffers for a client before it can send them. By default it buffers 4 MB, and
/// reports room again only when a third of that is sent. A client that accepts 40 kB/s would then seem to accept
/// nothing.
#[cfg(any(target_os = "linux", target_os = "android"))]
const UNSENT_LIMIT: u32 = 128 * 1024;

/// A listener for connections of clients.
#[derive(Debug)]
#[must_use]
pub struct Listener {
    socket: Socket,
    address: Address,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Unix {
        listener: UnixListener,
        /// `Some` if this process has created the socket.
        _file: Option<SocketFile>,
    },
}

/// Address of a listener. Its `Display` is `127.0.0.1:8000` or `unix:/run/site.sock`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Address {
    /// A TCP address.
    Tcp(SocketAddr),
    /// Path of a unix socket; empty if it has none.
    Unix(PathBuf),
}

impl Listener {
    /// Listens on a TCP address.
    ///
    /// # Cancel safety
    ///
    /// When dropped, nothing listens.
    ///
    /// # Errors
    ///
    /// The error of the operating system, for example that the address is in use.
    pub async fn tcp(address: impl ToSocketAddrs) -> io::Result<Self> {
        TcpListener::bind(address).await?.try_into()
    }
}

impl TryFrom<TcpListener> for Listener {
    type Error = io::Error;

    fn try_from(listener: TcpListener) -> io::Result<Self> {
        let address = Address::Tcp(listener.local_addr()?);
        Ok(Self { socket: Socket::Tcp(listener), address })
    }
}

impl TryFrom<UnixListener> for Listener {
    type Error = io::Error;

    fn try_from(listener: UnixListener) -> io::Result<Self> {
        let path = listener.local_addr()?.as_pathname().map(PathBuf::from).unwrap_or_default();
        Ok(Self { socket: Socket::Unix { listener, _file: None }, address: Address::Unix(path) })
    }
}

/// The two ends of a client connection, and whether it is encrypted.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Peer {
    /// The address of the client; `None` for a unix socket.
    pub(crate) client: Option<SocketAddr>,
    /// The address of the server; `None` for a unix socket.
    pub(crate) server: Option<SocketAddr>,
    /// Whether the client uses TLS, with this server or with a proxy in front of it.
    pub(crate) secure: bool,
}

/// A connection before anything has been read from it.
pub(crate) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Listener {
    /// Returns the address that it listens on.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Waits for the next connection. After an error of the system it logs the first error, pauses and tries again.
    pub(crate) async fn accept(&self) -> (Stream, Peer) {
        let mut failing = false;
        loop {
            match self.try_accept().await {
                Ok(accepted) => return accepted,
                // The client has disconnected already.
                Err(error) if is_client_error(&error) => {}
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        tracing::error!(%error, address = %self.address, "cannot accept connections; retrying");
                    }
                    sleep(RETRY_DELAY).await;
                }
            }
        }
    }

    async fn try_accept(&self) -> io::Result<(Stream, Peer)> {
        match &self.socket {
            Socket::Tcp(listener) => {
                let (stream, client) = listener.accept().await?;
                let server = configure(&stream).map_err(|error| match error.kind() {
                    // Darwin reports it for options of a closed connection.
                    ErrorKind::InvalidInput => ErrorKind::ConnectionAborted.into(),
                    _ => error,
                })?;
                Ok((Stream::Tcp(stream), Peer { client: Some(client), server: Some(server), secure: false }))
            }
            Socket::Unix { listener, .. } => {
                let (stream, _) = listener.accept().await?;
                Ok((Stream::Unix(stream), Peer::default()))
            }
        }
    }
}

/// Sets the options of a connection. Returns the address of the server.
fn configure(stream: &TcpStream) -> io::Result<SocketAddr> {
    // Small frames must not wait for each other.
    stream.set_nodelay(true)?;
    #[cfg(any(target_os = "linux", target_os = "android"))]
    SockRef::from(stream).set_tcp_notsent_lowat(UNSENT_LIMIT)?;
    stream.local_addr()
}

fn is_client_error(error: &io::Error) -> bool {
    use ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, NotConnected};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | NotConnected)
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}
