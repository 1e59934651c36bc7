//! An axum server with a Hub: every socket joins one room.

use std::alloc::System;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing::get;
use axum::serve::ListenerExt;
use channel_layer::hub::{Client, Handler, Payload};
use channel_layer::server::{SocketOptions, Upgrade};
use channel_layer::{BoxError, CapacityRule, ChannelLayer, Config, Hub, MemoryLayer, RedisLayer};
use peers::clock;
use peers::conversation::{Failure, Program, hold};
use peers::memory;
use serde::Deserialize;
use serde_json::{Value, json};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static HEAP: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const ROOM: &str = "bench";

#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
enum Command {
    /// Without `redis`, the hub serves only this process.
    Connect { redis: Option<String> },
    GroupSend { calls: usize, size: usize, #[serde(default)] gap_us: u64 },
    Memory,
}

#[derive(Default)]
struct Server(Option<Hub>);

impl Program for Server {
    type Command = Command;

    async fn answer(&mut self, command: Command) -> Result<Value, Failure> {
        match command {
            Command::Connect { redis } => {
                let hub = start(redis).await?;
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
                let port = listener.local_addr()?.port();
                let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
                let app = Router::new().fallback(get(join)).with_state(hub.clone());
                tokio::spawn(async move { axum::serve(listener, app).await });
                self.0 = Some(hub);
                Ok(json!({ "port": port }))
            }
            Command::GroupSend { calls, size, gap_us } => {
                let hub = self.0.as_ref().ok_or("not connected")?;
                let (body, start) = ("x".repeat(size), clock::now());
                for _ in 0..calls {
                    tokio::time::sleep(Duration::from_micros(gap_us)).await;
                    hub.broadcast(ROOM, body.as_str()).await?;
                }
                Ok(json!({ "start": start, "end": clock::now() }))
            }
            Command::Memory => Ok(memory::used(HEAP.stats())),
        }
    }
}

async fn start(redis: Option<String>) -> Result<Hub, Failure> {
    let layer: Arc<dyn ChannelLayer> = match redis {
        Some(url) => {
            let config = Config::new().host(url).channel_capacity(CapacityRule::glob("hub.*", 10_000));
            Arc::new(RedisLayer::connect(config).await?)
        }
        None => Arc::new(MemoryLayer::new()),
    };
    Ok(Hub::builder(layer).sockets(SocketOptions::new().queue(10_000, 16 * 1024 * 1024)).start().await?)
}

async fn join(State(hub): State<Hub>, upgrade: Upgrade) -> Response {
    hub.upgrade(upgrade, Member)
}

struct Member;

impl Handler for Member {
    async fn connect(&mut self, client: &Client) -> Result<(), BoxError> {
        Ok(client.join(ROOM).await?)
    }

    async fn message(&mut self, client: &Client, message: Payload) -> Result<(), BoxError> {
        Ok(client.send(message)?)
    }
}

#[tokio::main]
async fn main() {
    hold(Server::default()).await;
}
