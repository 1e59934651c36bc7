//! `Proxy`: a TCP proxy in front of a server, which can freeze, delay, cut and refuse connections as networks do.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

use super::{DEADLINE, within};

/// Number of pieces in transit per connection. A faster sender has to wait.
const ON_THE_WAY: usize = 64;
/// Maximal size of a piece, in bytes.
const PIECE: usize = 1 << 16;

/// Forwards connections to a server. Dropping it ends it and its connections.
pub struct Proxy {
    port: u16,
    state: watch::Sender<State>,
    /// The destination of new connections.
    address: watch::Sender<String>,
    trap: Trap,
    accepting: JoinHandle<()>,
}

/// What happens once a command with certain bytes has passed, and those bytes.
type Trap = Arc<Mutex<Option<(Vec<u8>, Effect)>>>;

#[derive(Clone, Copy)]
enum Effect {
    /// The connection is closed instead of carrying the answer.
    LoseAnswer,
    /// Every connection that is present becomes half-open.
    Freeze,
}

#[derive(Clone, Copy, Default)]
struct State {
    /// Connections with a number below this carry nothing any more and stay open.
    frozen: u64,
    /// Connections with a number below this carry nothing back from the server any more.
    deaf: u64,
    /// No connection carries anything back from the server for now.
    stalled: bool,
    /// Limit of bytes per second from the server, per connection.
    pace: Option<u32>,
    /// Connections with a number below this are closed.
    cut: u64,
    /// The number of the next connection.
    next: u64,
    /// New connections are closed at once.
    refusing: bool,
    /// Delay in each direction.
    delay: Duration,
}

impl Proxy {
    /// Starts a proxy on a free port of the loopback address for the server at `url`.
    pub async fn before(url: &str) -> Self {
        let address = watch::Sender::new(address(url));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = watch::Sender::new(State::default());
        let trap = Trap::default();
        let accepting = accept(listener, address.subscribe(), state.clone(), trap.clone());
        Self { port, state, address, trap, accepting: tokio::spawn(accepting) }
    }

    /// Forwards new connections to the server at `url`, like a name that has got another address.
    pub fn lead_to(&self, url: &str) {
        self.address.send_replace(address(url));
    }

    /// Closes the connection that carries the next command with `bytes`, instead of forwarding its answer.
    pub fn lose_answer_to(&self, bytes: &[u8]) {
        *self.trap.lock().unwrap() = Some((bytes.to_vec(), Effect::LoseAnswer));
    }

    /// The port at which the proxy listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the URL of the server through the proxy.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// Makes every present connection half-open: it stays open and carries nothing any more. New ones work.
    pub fn freeze(&self) {
        freeze(&self.state);
    }

    /// Calls [`freeze`](Self::freeze) when the next command with `bytes` has passed, so that its answer is held.
    pub fn freeze_after(&self, bytes: &[u8]) {
        *self.trap.lock().unwrap() = Some((bytes.to_vec(), Effect::Freeze));
    }

    /// Waits until [`freeze_after`](Self::freeze_after) has taken effect.
    pub async fn frozen(&self) {
        let mut state = self.state.subscribe();
        within(DEADLINE, "the command", state.wait_for(|state| state.frozen > 0)).await.unwrap();
    }

    /// Lets half-open connections carry the held data again, up to the end of connections that were closed meanwhile.
    pub fn thaw(&self) {
        self.state.send_modify(|state| state.frozen = 0);
    }

    /// Stops present connections from carrying data back from the server. Data to the server still arrives. New ones
    /// work.
    pub fn deafen(&self) {
        self.state.send_modify(|state| state.deaf = state.next);
    }

    /// Reads nothing from the server until [`resume`](Self::resume), so that the server has to buffer its output.
    pub fn stall(&self) {
        self.state.send_modify(|state| state.stalled = true);
    }

    /// Ends [`stall`](Self::stall).
    pub fn resume(&self) {
        self.state.send_modify(|state| state.stalled = false);
    }

    /// Delays all data by this time in each direction, in the same order and at the same rate.
    pub fn delay(&self, delay: Duration) {
        self.state.send_modify(|state| state.delay = delay);
    }

    /// Limits the bytes per second from the server on each connection; `None` removes the limit.
    pub fn slow_down(&self, pace: impl Into<Option<u32>>) {
        let pace = pace.into();
        self.state.send_modify(|state| state.pace = pace);
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

    /// Accepts new connections again.
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

fn freeze(state: &watch::Sender<State>) {
    state.send_modify(|state| state.frozen = state.next);
}

fn address(url: &str) -> String {
    url.trim_start_matches("redis://").split('/').next().unwrap().to_owned()
}

async fn accept(listener: TcpListener, address: watch::Receiver<String>, state: watch::Sender<State>, trap: Trap) {
    while let Ok((client, _)) = listener.accept().await {
        let mut number = None;
        state.send_modify(|state| {
            if !state.refusing {
                number = Some(state.next);
                state.next += 1;
            }
        });
        if let Some(number) = number {
            let commands = Commands { trap: trap.clone(), state: state.clone(), loses_next: Arc::default() };
            tokio::spawn(carry(client, address.borrow().clone(), number, state.subscribe(), commands));
        }
    }
}

/// Looks at the commands of one connection.
#[derive(Clone)]
struct Commands {
    trap: Trap,
    state: watch::Sender<State>,
    /// Whether the next answer is lost.
    loses_next: Arc<AtomicBool>,
}

impl Commands {
    fn sent(&self, piece: &[u8]) {
        let is_trap = |(bytes, _): &mut (Vec<u8>, _)| piece.windows(bytes.len()).any(|window| window == bytes);
        match self.trap.lock().unwrap().take_if(is_trap) {
            Some((_, Effect::LoseAnswer)) => self.loses_next.store(true, Ordering::Release),
            Some((_, Effect::Freeze)) => freeze(&self.state),
            None => {}
        }
    }
}

/// Carries one connection until either end closes it or it is cut.
async fn carry(client: TcpStream, address: String, number: u64, state: watch::Receiver<State>, commands: Commands) {
    let Ok(server) = TcpStream::connect(address).await else { return };
    let mut cut = state.clone();
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        () = copy(from_client, to_server, number, Direction::Out, state.clone(), commands.clone()) => {}
        () = copy(from_server, to_client, number, Direction::Back, state.clone(), commands) => {}
        _ = cut.wait_for(|state| number < state.cut) => {}
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Direction {
    Out,
    Back,
}

/// Copies until one end is closed and the data in transit has arrived.
async fn copy(
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
    number: u64,
    direction: Direction,
    state: watch::Receiver<State>,
    commands: Commands,
) {
    let (sender, on_the_way) = mpsc::channel(ON_THE_WAY);
    let taking = async {
        take(from, sender, direction, state.clone()).await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = taking => {}
        () = give(on_the_way, to, number, direction, &state, &commands) => {}
    }
}

/// Reads pieces from one end, each with the time of its arrival at the other.
async fn take(
    mut from: OwnedReadHalf,
    sender: mpsc::Sender<(Instant, Vec<u8>)>,
    direction: Direction,
    mut state: watch::Receiver<State>,
) {
    let mut buffer = vec![0; PIECE];
    loop {
        if direction == Direction::Back && state.wait_for(|state| !state.stalled).await.is_err() {
            return;
        }
        let Ok(read @ 1..) = from.read(&mut buffer).await else { return };
        let arrives = Instant::now() + state.borrow().delay;
        if sender.send((arrives, buffer[..read].to_vec())).await.is_err() {
            return;
        }
    }
}

/// Writes the pieces to the other end.
async fn give(
    mut on_the_way: mpsc::Receiver<(Instant, Vec<u8>)>,
    mut to: OwnedWriteHalf,
    number: u64,
    direction: Direction,
    state: &watch::Receiver<State>,
    commands: &Commands,
) {
    while let Some((arrives, piece)) = on_the_way.recv().await {
        sleep_until(arrives).await;
        if state.clone().wait_for(|state| number >= state.frozen).await.is_err() {
            return;
        }
        let now = *state.borrow();
        if direction == Direction::Back && number < now.deaf {
            continue;
        }
        match direction {
            Direction::Out => commands.sent(&piece),
            Direction::Back if commands.loses_next.load(Ordering::Acquire) => return,
            Direction::Back => {}
        }
        if let (Direction::Back, Some(pace)) = (direction, now.pace) {
            sleep(Duration::from_secs(1) * u32::try_from(piece.len()).unwrap() / pace).await;
        }
        if to.write_all(&piece).await.is_err() {
            return;
        }
    }
}
