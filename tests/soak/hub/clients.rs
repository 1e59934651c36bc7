//! Clients of a site, over real WebSockets: those that stay for a round, and those that come and go.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};
use tokio_util::sync::CancellationToken;

use super::super::history::{Event, History, Outcome};
use super::super::process::CALL_DEADLINE;
use super::{ALL, ROOMS, USERS, parse, user_group};

/// Longer than any membership of a round lasts.
const ALWAYS: Duration = Duration::from_hours(1);

/// A client that is connected.
pub struct Client {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    name: String,
    /// The process that it is connected to.
    process: usize,
    history: Arc<History>,
    /// Whether it stays, so that it has to get everything that is sent to its groups.
    stays: bool,
}

impl Client {
    /// Connects to a process; `None` if that is not there.
    pub async fn connect(history: Arc<History>, process: usize, address: SocketAddr, stays: bool) -> Option<Self> {
        let name = format!("client.{}?", history.number());
        let connecting = connect_async(format!("ws://{address}/{}", name.replace('?', "%3F")));
        let (socket, _) = tokio::time::timeout(CALL_DEADLINE, connecting).await.ok()?.ok()?;
        let mut client = Self { socket, name, process, history, stays };
        // It is among all clients from some moment before the answer on.
        let change = client.begin(ALL, true);
        let outcome = if stays { client.command("stay").await? } else { Outcome::Unknown };
        client.end(change, outcome);
        Some(client)
    }

    /// Reads, and joins all rooms at random times, until it is told to stop.
    pub async fn stay(mut self, mut rng: StdRng, stop: CancellationToken) {
        let mut rooms = ROOMS.to_vec();
        let mut joins_at = Instant::now() + Duration::from_millis(rng.random_range(0..500));
        let joined = self.set_user(USERS.choose(&mut rng).expect("there are users")).await;
        let mut connected = joined.is_some();
        while connected {
            let next = if rooms.is_empty() { Instant::now() + Duration::from_hours(1) } else { joins_at };
            connected = tokio::select! {
                () = stop.cancelled() => break,
                still = self.read_until(next) => still,
            };
            if connected && let Some(room) = rooms.pop() {
                connected = self.join(room).await.is_some();
                joins_at = Instant::now() + Duration::from_millis(rng.random_range(0..500));
            }
        }
        if !connected {
            self.history.record(self.process, Event::Fault(format!("{} lost its connection", self.name)));
            self.leave_all();
        }
        let _ = self.socket.close(None).await;
    }

    /// Joins and leaves rooms for a while, and goes in one way or another.
    pub async fn visit(mut self, rng: &mut StdRng, stop: &CancellationToken) {
        let until = Instant::now() + Duration::from_millis(rng.random_range(50..3000));
        while Instant::now() < until && !stop.is_cancelled() {
            let room = ROOMS.choose(rng).expect("there are rooms");
            let answer = if rng.random_bool(0.6) { self.join(room).await } else { self.leave(room).await };
            let pause = Instant::now() + Duration::from_millis(rng.random_range(1..200));
            if answer.is_none() || !self.read_until(pause).await {
                break;
            }
        }
        self.leave_all();
        if rng.random() {
            let _ = self.socket.close(None).await;
        }
    }

    async fn set_user(&mut self, user: &str) -> Option<()> {
        let change = self.begin(&user_group(user), true);
        let outcome = self.command(&format!("user {user}")).await?;
        self.end(change, outcome);
        Some(())
    }

    /// `None` if the connection has ended.
    async fn join(&mut self, room: &str) -> Option<()> {
        let change = self.begin(room, true);
        let outcome = self.command(&format!("join {room}")).await?;
        // What is on its way to one that goes is lost.
        self.end(change, if self.stays { outcome } else { Outcome::Unknown });
        Some(())
    }

    async fn leave(&mut self, room: &str) -> Option<()> {
        let change = self.begin(room, false);
        let outcome = self.command(&format!("leave {room}")).await?;
        self.end(change, outcome);
        Some(())
    }

    /// From now on nobody knows what still arrives.
    fn leave_all(&mut self) {
        for group in ROOMS.iter().copied().chain([ALL]) {
            let change = self.begin(group, false);
            self.end(change, Outcome::Unknown);
        }
        for user in USERS {
            let change = self.begin(&user_group(user), false);
            self.end(change, Outcome::Unknown);
        }
    }

    fn begin(&self, group: &str, joins: bool) -> u32 {
        let change = self.history.number();
        let (group, channel) = (group.to_owned(), self.name.clone());
        self.history.record(self.process, Event::Changing { change, group, channel, joins, expiry: ALWAYS });
        change
    }

    fn end(&self, change: u32, outcome: Outcome) {
        self.history.record(self.process, Event::Changed { change, outcome });
    }

    /// Has the process do something, and returns how that went; `None` if the connection has ended.
    async fn command(&mut self, command: &str) -> Option<Outcome> {
        self.socket.send(Message::text(command)).await.ok()?;
        let deadline = Instant::now() + CALL_DEADLINE;
        loop {
            let Ok(answer) = timeout_at(deadline, self.next()).await else {
                let call = format!("{command} by {}", self.name);
                self.history.record(self.process, Event::Overdue { call });
                return None;
            };
            match answer?.as_str() {
                "done" => return Some(Outcome::Done),
                "failed" => return Some(Outcome::Unknown),
                _ => {}
            }
        }
    }

    /// Reads for a while; `false` if the connection has ended.
    async fn read_until(&mut self, end: Instant) -> bool {
        loop {
            match timeout_at(end, self.next()).await {
                Ok(Some(_)) => {}
                Ok(None) => return false,
                Err(_) => return true,
            }
        }
    }

    /// The next text that is no message of another, which it records.
    async fn next(&mut self) -> Option<String> {
        loop {
            match self.socket.next().await?.ok()? {
                Message::Text(text) => match parse(&text) {
                    Some(id) => {
                        let (channel, asked) = (self.name.clone(), self.history.now());
                        self.history.record(self.process, Event::Received { id, channel, asked });
                    }
                    None => return Some(text.to_string()),
                },
                Message::Close(_) => return None,
                _ => {}
            }
        }
    }
}
