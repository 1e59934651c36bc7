//! An axum server with WebSockets as an application would write it by hand: every socket has a bounded channel, and a
//! broadcast sends to all of them.

use std::alloc::System;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::extract::ws::{Message, Utf8Bytes, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use axum::routing::get;
use axum::serve::ListenerExt;
use peers::clock;
use peers::conversation::{Failure, Program, hold};
use peers::memory;
use serde::Deserialize;
use serde_json::{Value, json};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tokio::sync::mpsc;

#[global_allocator]
static HEAP: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Number of messages that may wait for a socket, large enough that none is dropped.
const BUFFER: usize = 10_000;
/// axum's default of 128 KiB for each socket would make the comparison of memory easy.
const READ_BUFFER: usize = 4 * 1024;

type Room = Arc<Mutex<Vec<mpsc::Sender<Message>>>>;

#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
enum Command {
    Connect {},
    GroupSend { calls: usize, size: usize },
    Memory,
}

#[derive(Default)]
struct Server(Room);

impl Program for Server {
    type Command = Command;

    async fn answer(&mut self, command: Command) -> Result<Value, Failure> {
        match command {
            Command::Connect {} => {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
                let port = listener.local_addr()?.port();
                let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
                let app = Router::new().fallback(get(join)).with_state(self.0.clone());
                tokio::spawn(async move { axum::serve(listener, app).await });
                Ok(json!({ "port": port }))
            }
            Command::GroupSend { calls, size } => {
                let (body, start) = (Utf8Bytes::from("x".repeat(size)), clock::now());
                for _ in 0..calls {
                    for socket in self.0.lock().map_err(|_| "a socket panicked")?.iter() {
                        socket.try_send(Message::Text(body.clone()))?;
                    }
                    tokio::task::yield_now().await;
                }
                Ok(json!({ "start": start, "end": clock::now() }))
            }
            Command::Memory => Ok(memory::used(HEAP.stats())),
        }
    }
}

async fn join(State(room): State<Room>, upgrade: WebSocketUpgrade) -> Response {
    upgrade.read_buffer_size(READ_BUFFER).on_upgrade(|socket| serve(socket, room))
}

async fn serve(mut socket: WebSocket, room: Room) {
    let (sender, mut receiver) = mpsc::channel(BUFFER);
    room.lock().expect("no holder of this lock panics").push(sender);
    loop {
        tokio::select! {
            message = receiver.recv() => {
                let Some(message) = message else { return };
                if socket.send(message).await.is_err() {
                    return;
                }
            }
            message = socket.recv() => {
                if !matches!(message, Some(Ok(_))) {
                    return;
                }
            }
        }
    }
}

#[tokio::main]
async fn main() {
    hold(Server::default()).await;
}
