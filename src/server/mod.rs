//! The interface server: clients' sockets on one side, channels on the other.
//!
//! It speaks the message formats of the ASGI 1.x www specification (`docs/asgi/www.rst` in django/channels 1.1.8). A
//! WebSocket that opens becomes a message on `websocket.connect`; its frames become messages on `websocket.receive`;
//! its end becomes one message on `websocket.disconnect`. Each names a reply channel,
//! `websocket.send.<process>!<client>`; what the application sends there is written to the socket, and so is what it
//! sends to a group of which the reply channel is a member. An HTTP request becomes a message on `http.request`, which
//! is answered on `http.response.<process>!<client>`, in one message or in parts.
//!
//! ```no_run
//! # async fn run(layer: std::sync::Arc<dyn channel_layer::ChannelLayer>) -> Result<(), Box<dyn std::error::Error>> {
//! use channel_layer::InterfaceServer;
//!
//! let server = InterfaceServer::new(layer).bind("127.0.0.1:8000").await?;
//! println!("http://{}", server.local_addr());
//! server.serve(async { tokio::signal::ctrl_c().await.expect("the signal handler can be installed") }).await?;
//! # Ok(())
//! # }
//! ```
//!
//! A process has one process-local channel for sockets and one for requests, each with one reader, which hands each
//! message to the queue of its client and never waits for one: a client that does not read is closed with 1013, or its
//! response cut off, when its queue is full, and nobody else notices. A handshake is answered when the application has accepted it.

mod asgi;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod http;
pub mod hub;
mod interface;
mod limits;
mod options;
mod status;
mod transport;
mod websocket;

pub use interface::bound::BoundServer;
pub use interface::server::InterfaceServer;
pub use interface::settings::DataLoss;
pub use limits::Refused;
pub use options::{SlowConsumer, SocketOptions};
pub use status::health::{health_routes, metrics_route, mode_route};
pub use transport::listener::{Address, InvalidTls, Listening, Tls};
pub use transport::proxy::TrustedProxies;
pub use websocket::upgrade::{NotWebSocket, Upgrade};
