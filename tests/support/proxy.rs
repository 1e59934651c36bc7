//! A TCP proxy before a server, which can freeze, cut and refuse connections as networks do.

use std::net::Ipv4Addr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Passes connections to a server on; ends, with all its connections, when dropped.
pub struct Proxy {
    port: u16,
    state: watch::Sender<State>,
    accepting: JoinHandle<()>,
}

#[derive(Clone, Copy, Default)]
struct State {
    /// Connections with a number below this carry nothing any more and stay open.
    frozen: u64,
    /// Of connections with a number below this nothing comes back from the server any more.
    deaf: u64,
    /// Nothing comes back from the server for now.
    stalled: bool,
    /// Connections with a number below this are closed.
    cut: u64,
    /// The number of the next connection.
    next: u64,
    /// New connections are closed at once.
    refusing: bool,
}

impl Proxy {
    /// A proxy on a free port of the loopback address for the server at `url`.
    pub async fn before(url: &str) -> Self {
        let address = url.trim_start_matches("redis://").split('/').next().unwrap().to_owned();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = watch::Sender::new(State::default());
        let accepting = tokio::spawn(accept(listener, address, state.clone()));
        Self { port, state, accepting }
    }

    /// The URL by which the server is reached through the proxy.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// Makes every present connection half-open: it stays, and carries nothing any more. New ones work.
    pub fn freeze(&self) {
        self.state.send_modify(|state| state.frozen = state.next);
    }

    /// Lets nothing more come back from the server over present connections; what is sent there arrives. New ones work.
    pub fn deafen(&self) {
        self.state.send_modify(|state| state.deaf = state.next);
    }

    /// Reads nothing from the server, until [`resume`](Self::resume), so that it has to keep what it says.
    pub fn stall(&self) {
        self.state.send_modify(|state| state.stalled = true);
    }

    /// The end of [`stall`](Self::stall).
    pub fn resume(&self) {
        self.state.send_modify(|state| state.stalled = false);
    }

    /// Closes every present connection. New ones work.
    pub fn cut(&self) {
        self.state.send_modify(|state| state.cut = state.next);
    }

    /// Closes every connection, and every new one at once.
    pub fn refuse(&self) {
        self.refuse_new();
        self.cut();
    }

    /// Closes every new connection at once.
    pub fn refuse_new(&self) {
        self.state.send_modify(|state| state.refusing = true);
    }

    /// Lets new connections pass again.
    pub fn admit(&self) {
        self.state.send_modify(|state| state.refusing = false);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

async fn accept(listener: TcpListener, address: String, state: watch::Sender<State>) {
    while let Ok((client, _)) = listener.accept().await {
        let mut number = None;
        state.send_modify(|state| {
            if !state.refusing {
                number = Some(state.next);
                state.next += 1;
            }
        });
        if let Some(number) = number {
            tokio::spawn(carry(client, address.clone(), number, state.subscribe()));
        }
    }
}

/// Carries one connection until either end closes it or it is cut.
async fn carry(client: TcpStream, address: String, number: u64, state: watch::Receiver<State>) {
    let Ok(server) = TcpStream::connect(address).await else { return };
    let mut cut = state.clone();
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        () = copy(from_client, to_server, number, Direction::Out, state.clone()) => {}
        () = copy(from_server, to_client, number, Direction::Back, state.clone()) => {}
        _ = cut.wait_for(|state| number < state.cut) => {}
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Direction {
    Out,
    Back,
}

async fn copy(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    number: u64,
    direction: Direction,
    mut state: watch::Receiver<State>,
) {
    let mut buffer = vec![0; 1 << 16];
    loop {
        if direction == Direction::Back && state.wait_for(|state| !state.stalled).await.is_err() {
            return;
        }
        let read = from.read(&mut buffer).await;
        let now = *state.borrow();
        if number < now.frozen {
            std::future::pending::<()>().await;
        }
        let Ok(read @ 1..) = read else { return };
        if direction == Direction::Back && number < now.deaf {
            continue;
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
