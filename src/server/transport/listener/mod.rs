//! Where clients come from: TCP, unix sockets, and listeners that another process has opened.

mod inherited;
mod tls;
mod unix;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

#[cfg(any(target_os = "linux", target_os = "android"))]
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream, ToSocketAddrs, UnixListener, UnixStream};
use tokio::time::sleep;

use crate::server::asgi::messages::Peer;
use crate::server::transport::listener::unix::SocketFile;

pub(crate) use crate::server::transport::listener::tls::is_http2;
pub use crate::server::transport::listener::tls::{InvalidTls, Tls};

/// How long nothing is accepted when there are no file descriptors left, or the system fails otherwise.
const PAUSE: Duration = Duration::from_millis(500);

/// How many bytes the system takes for a client before it can send them. It would take 4 MB otherwise, and say only after a
/// third of that that there is room again: a client that takes 40 kB/s would count as one that takes nothing.
#[cfg(any(target_os = "linux", target_os = "android"))]
const UNSENT: u32 = 128 * 1024;

/// Something that takes clients' connections.
#[derive(Debug)]
#[must_use]
pub struct Listening {
    socket: Listener,
    address: Address,
}

#[derive(Debug)]
enum Listener {
    Tcp(TcpListener),
    Unix {
        listener: UnixListener,
        /// Of a socket that this process has made.
        _file: Option<SocketFile>,
    },
}

/// Where an interface server listens; printed as `127.0.0.1:8000` or `unix:/run/site.sock`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Address {
    /// A TCP address.
    Tcp(SocketAddr),
    /// The path of a unix socket; empty if it has none.
    Unix(PathBuf),
}

impl Listening {
    /// Listens on TCP.
    ///
    /// # Cancel safety
    ///
    /// When dropped, nothing listens.
    ///
    /// # Errors
    ///
    /// What the operating system says, for example that the address is in use.
    pub async fn tcp(address: impl ToSocketAddrs) -> io::Result<Self> {
        TcpListener::bind(address).await?.try_into()
    }
}

impl TryFrom<TcpListener> for Listening {
    type Error = io::Error;

    fn try_from(listener: TcpListener) -> io::Result<Self> {
        let address = Address::Tcp(listener.local_addr()?);
        Ok(Self { socket: Listener::Tcp(listener), address })
    }
}

impl TryFrom<UnixListener> for Listening {
    type Error = io::Error;

    fn try_from(listener: UnixListener) -> io::Result<Self> {
        let path = listener.local_addr()?.as_pathname().map(PathBuf::from).unwrap_or_default();
        Ok(Self { socket: Listener::Unix { listener, _file: None }, address: Address::Unix(path) })
    }
}

/// A connection before anything has been read from it.
pub(crate) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Listening {
    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    /// Waits for the next client, through faults of the system, of which the first is logged.
    pub(crate) async fn accept(&self) -> (Stream, Peer) {
        let mut failing = false;
        loop {
            match self.try_accept().await {
                Ok(accepted) => return accepted,
                // The client has gone already.
                Err(error) if is_of_the_client(&error) => {}
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        tracing::error!(%error, address = %self.address, "clients cannot be accepted, trying again");
                    }
                    sleep(PAUSE).await;
                }
            }
        }
    }

    async fn try_accept(&self) -> io::Result<(Stream, Peer)> {
        match &self.socket {
            Listener::Tcp(listener) => {
                let (stream, client) = listener.accept().await?;
                // Small frames are not to wait for each other.
                stream.set_nodelay(true)?;
                #[cfg(any(target_os = "linux", target_os = "android"))]
                SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT)?;
                let peer = Peer { client: Some(client), server: Some(stream.local_addr()?), secure: false };
                Ok((Stream::Tcp(stream), peer))
            }
            Listener::Unix { listener, .. } => {
                let (stream, _) = listener.accept().await?;
                Ok((Stream::Unix(stream), Peer::default()))
            }
        }
    }
}

fn is_of_the_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, InvalidInput, NotConnected};
    // Darwin says "invalid input" to options of a connection that is gone.
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | InvalidInput | NotConnected)
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}
