//! Clients of a server that echoes their messages. Measures rates, latencies and handshakes.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use peers::clock;
use peers::conversation::{Failure, Program, hold};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
enum Command {
    Open { port: u16, sockets: usize },
    /// Each socket sends its next message after the echo of the previous one.
    Echo { count: usize, size: usize },
    /// One message at a time on one socket, with a pause before each.
    Latency { count: usize, gap_us: u64, size: usize },
    /// Sockets that open and close, `at_once` at a time.
    Handshakes { port: u16, count: usize, at_once: usize },
}

type Socket = WebSocketStream<TcpStream>;

#[derive(Default)]
struct Clients(Vec<Socket>);

impl Program for Clients {
    type Command = Command;

    async fn answer(&mut self, command: Command) -> Result<Value, Failure> {
        match command {
            Command::Open { port, sockets } => {
                for _ in 0..sockets {
                    self.0.push(open(port).await?);
                }
                Ok(json!({}))
            }
            Command::Echo { count, size } => self.echo(count, size).await,
            Command::Latency { count, gap_us, size } => self.latency(count, gap_us, size).await,
            Command::Handshakes { port, count, at_once } => handshakes(port, count, at_once).await,
        }
    }
}

impl Clients {
    async fn echo(&mut self, count: usize, size: usize) -> Result<Value, Failure> {
        let start = clock::now();
        let sockets = self.0.len();
        let mut tasks = JoinSet::new();
        for (at, mut socket) in self.0.drain(..).enumerate() {
            tasks.spawn(async move {
                for _ in (at..count).step_by(sockets) {
                    there_and_back(&mut socket, size).await?;
                }
                Ok::<_, Failure>(socket)
            });
        }
        while let Some(done) = tasks.join_next().await {
            self.0.push(done??);
        }
        Ok(json!({ "start": start, "end": clock::now() }))
    }

    async fn latency(&mut self, count: usize, gap_us: u64, size: usize) -> Result<Value, Failure> {
        let socket = self.0.first_mut().ok_or("no socket is open")?;
        let mut nanos = Vec::with_capacity(count);
        for _ in 0..count {
            tokio::time::sleep(Duration::from_micros(gap_us)).await;
            let sent = clock::now();
            there_and_back(socket, size).await?;
            nanos.push(clock::now() - sent);
        }
        Ok(json!({ "nanos": nanos }))
    }
}

async fn there_and_back(socket: &mut Socket, size: usize) -> Result<(), Failure> {
    socket.send(Message::text("x".repeat(size))).await?;
    loop {
        match socket.next().await.ok_or("a socket ended")?? {
            Message::Text(text) if text.len() == size => return Ok(()),
            Message::Ping(_) | Message::Pong(_) => {}
            other => return Err(format!("expected an echo, and received {other:?}").into()),
        }
    }
}

async fn handshakes(port: u16, count: usize, at_once: usize) -> Result<Value, Failure> {
    let start = clock::now();
    let mut tasks = JoinSet::new();
    for at in 0..at_once {
        tasks.spawn(async move {
            for _ in (at..count).step_by(at_once) {
                open(port).await?.close(None).await?;
            }
            Ok::<_, Failure>(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(json!({ "start": start, "end": clock::now() }))
}

async fn open(port: u16) -> Result<Socket, Failure> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.set_nodelay(true)?;
    let config = WebSocketConfig::default().read_buffer_size(4096).write_buffer_size(0);
    let url = format!("ws://127.0.0.1:{port}/");
    Ok(client_async_with_config(url, stream, Some(config)).await?.0)
}

#[tokio::main]
async fn main() {
    hold(Clients::default()).await;
}
