//! A server of socketioxide with its Redis adapter: every socket joins one room.

use std::time::Duration;

use peers::clock;
use peers::conversation::{Failure, Program, hold};
use serde::Deserialize;
use serde_json::{Value, json};
use socketioxide::SocketIo;
use socketioxide::TransportType;
use socketioxide::adapter::Adapter;
use socketioxide::extract::SocketRef;
use socketioxide_redis::drivers::redis::{RedisDriver, redis_client as redis};
use socketioxide_redis::{CustomRedisAdapter, RedisAdapterCtr};

const ROOM: &str = "bench";
/// Number of packets that may wait for a socket, large enough that none is dropped.
const BUFFER: usize = 10_000;
/// Longer than any load, so that no pings are sent.
const PING: Duration = Duration::from_secs(600);

type Io = SocketIo<CustomRedisAdapter<socketioxide::adapter::Emitter, RedisDriver>>;

#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
enum Command {
    Connect { redis: String },
    GroupSend { calls: usize, size: usize },
}

#[derive(Default)]
struct Server(Option<Io>);

impl Program for Server {
    type Command = Command;

    async fn answer(&mut self, command: Command) -> Result<Value, Failure> {
        match command {
            Command::Connect { redis } => {
                let (io, port) = serve(&redis).await?;
                self.0 = Some(io);
                Ok(json!({ "port": port }))
            }
            Command::GroupSend { calls, size } => {
                group_send(self.0.as_ref().ok_or("not connected")?, calls, size).await
            }
        }
    }
}

async fn serve(redis: &str) -> Result<(Io, u16), Failure> {
    let client = redis::Client::open(format!("{redis}?protocol=resp3"))?;
    let adapter = RedisAdapterCtr::new_with_redis(&client).await?;
    let (layer, io) = SocketIo::builder()
        .transports([TransportType::Websocket])
        .max_buffer_size(BUFFER)
        .ping_interval(PING)
        .ping_timeout(PING)
        .with_adapter::<CustomRedisAdapter<_, _>>(adapter)
        .build_layer();
    io.ns("/", join).await?;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    tokio::spawn(async move { axum::serve(listener, axum::Router::new().layer(layer)).await });
    Ok((io, port))
}

async fn join<A: Adapter>(socket: SocketRef<A>) {
    socket.join(ROOM);
}

async fn group_send(io: &Io, calls: usize, size: usize) -> Result<Value, Failure> {
    let (body, start) = ("x".repeat(size), clock::now());
    for _ in 0..calls {
        io.to(ROOM).emit("message", &body).await.map_err(|error| error.to_string())?;
    }
    Ok(json!({ "start": start, "end": clock::now() }))
}

#[tokio::main]
async fn main() {
    hold(Server::default()).await;
}
