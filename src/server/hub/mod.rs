//! Rooms, users and broadcasts for the WebSockets of an axum app, across any number of its processes.
//!
//! A [`Hub`] works on any [`ChannelLayer`](crate::ChannelLayer): on a `MemoryLayer` for one process, on a `RedisLayer`
//! for many. The app routes requests to it and handles its clients in a [`Handler`]:
//!
//! ```
//! use std::sync::Arc;
//!
//! use axum::extract::{Path, State};
//! use axum::response::Response;
//! use axum::routing::get;
//! use channel_layer::hub::{Client, Closed, Handler, Payload};
//! use channel_layer::server::Upgrade;
//! use channel_layer::{BoxError, Hub, MemoryLayer};
//!
//! /// Sends each message of a client to all clients in its room.
//! struct Chat {
//!     room: String,
//! }
//!
//! impl Handler for Chat {
//!     async fn connect(&mut self, client: &Client) -> Result<(), BoxError> {
//!         client.join(&self.room).await?;
//!         Ok(())
//!     }
//!
//!     async fn message(&mut self, client: &Client, message: Payload) -> Result<(), BoxError> {
//!         client.hub().broadcast(&self.room, message).await?;
//!         Ok(())
//!     }
//!
//!     async fn disconnect(&mut self, client: &Client, _closed: Closed) {
//!         // An error means that the layer is unreachable. The clients of this process get the message nevertheless.
//!         let _ = client.hub().broadcast(&self.room, "somebody left").await;
//!     }
//! }
//!
//! async fn chat(State(hub): State<Hub>, Path(room): Path<String>, upgrade: Upgrade) -> Response {
//!     hub.upgrade(upgrade, Chat { room })
//! }
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), BoxError> {
//! let hub = Hub::start(Arc::new(MemoryLayer::new())).await?;
//! let app: axum::Router = axum::Router::new().route("/chat/{room}", get(chat)).with_state(hub.clone());
//! // From anywhere in the app:
//! hub.broadcast("lobby", "the server says hello").await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Guarantees
//!
//! - A client that has joined a room gets the later broadcasts once, in the order of each sender. After it has left, or
//!   after its connection has ended, it is in no room.
//! - A message is in memory once, whatever the number of clients. Each client has a bounded queue. A client that does
//!   not keep up is closed or misses messages, as configured in [`SocketOptions`](crate::server::SocketOptions). No
//!   sender waits for it.
//! - Between processes the guarantees of the layer hold: at most once, in order, and undelivered messages are counted.
//!   Clients in the sender's own process get a message without the layer.
//!
//! A process is one member of the group of each room that it has clients in. The work of the layer for a broadcast
//! therefore depends only on the number of processes. The channel of a process carries the messages for all its
//! clients: raise its capacity with [`CapacityRule::glob`](crate::CapacityRule::glob)`("hub.*", 10_000)`.

mod builder;
mod client;
mod error;
mod handle;
mod inner;
mod membership;
mod names;
mod payload;
pub(crate) mod peers;
mod status;
#[cfg(test)]
pub(crate) mod tests;

pub use crate::server::asgi::connections::QueueDepths;
pub use builder::HubBuilder;
pub use client::{Client, Closed, Handler};
pub use error::HubError;
pub use handle::Hub;
pub use names::ClientId;
pub use payload::Payload;
pub use status::page::status_page;
pub use status::state::{Mode, Status};
