//! A client of plain WebSocket servers and of socket.io: many sockets that count their messages.

use std::sync::Arc;
use std::time::Duration;

use futures_util::SinkExt;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use peers::conversation::{Failure, Program, hold};
use peers::arrivals::Arrivals;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

/// Number of concurrent handshakes, because the backlog of a listening socket is limited.
const OPENING: usize = 64;
const HANDSHAKE: Duration = Duration::from_secs(20);
/// Beginnings of engine.io packets that contain a socket.io packet: a connection to the namespace, and an event.
const CONNECT: &str = "40";
const EVENT: &str = "42";

#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
enum Command {
    Open { ports: Vec<u16>, sockets: usize, #[serde(default)] plain: bool },
    Progress,
    Collect,
}

#[derive(Default)]
struct Client(Arc<Arrivals>);

impl Program for Client {
    type Command = Command;

    async fn answer(&mut self, command: Command) -> Result<Value, Failure> {
        match command {
            Command::Open { ports, sockets, plain } => self.open(ports, sockets, plain).await,
            Command::Progress => Ok(self.0.progress()),
            Command::Collect => Ok(self.0.take()),
        }
    }
}

impl Client {
    /// Opens the sockets, distributed over the ports. Returns when all are connected.
    async fn open(&self, ports: Vec<u16>, sockets: usize, plain: bool) -> Result<Value, Failure> {
        let open = |at: usize| {
            let (port, arrivals) = (ports[at % ports.len()], self.0.clone());
            async move {
                let socket = timeout(HANDSHAKE, handshake(port, plain)).await.map_err(|_| "a handshake took too long")??;
                tokio::spawn(count(socket, arrivals, plain));
                Ok::<_, Failure>(())
            }
        };
        stream::iter((0..sockets).map(open)).buffer_unordered(OPENING).try_collect::<()>().await?;
        Ok(json!({}))
    }
}

async fn handshake(port: u16, plain: bool) -> Result<WebSocketStream<TcpStream>, Failure> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.set_nodelay(true)?;
    let url = format!("ws://127.0.0.1:{port}/socket.io/?EIO=4&transport=websocket");
    let config = WebSocketConfig::default().read_buffer_size(4096);
    let (mut socket, _) = client_async_with_config(url, stream, Some(config)).await?;
    if plain {
        return Ok(socket);
    }
    socket.send(Message::text(CONNECT)).await?;
    while let Some(message) = socket.next().await {
        if message?.to_text().is_ok_and(|text| text.starts_with(CONNECT)) {
            return Ok(socket);
        }
    }
    Err("the server closed the socket".into())
}

async fn count(mut socket: WebSocketStream<TcpStream>, arrivals: Arc<Arrivals>, plain: bool) {
    while let Some(message) = socket.next().await {
        match message {
            Ok(Message::Text(text)) if plain || text.starts_with(EVENT) => arrivals.add(1),
            Ok(_) => {}
            Err(error) => return arrivals.fail(error),
        }
    }
    arrivals.fail("the server closed a socket");
}

#[tokio::main]
async fn main() {
    hold(Client::default()).await;
}
