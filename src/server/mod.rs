//! The interface server: connections of clients on one side, channels on the other.
//!
//! It uses the message formats of the ASGI 1.x www specification (`docs/asgi/www.rst` in django/channels 1.1.8). A
//! WebSocket handshake becomes a message on `websocket.connect`, each frame of a client one on `websocket.receive`, and
//! the end of the socket one on `websocket.disconnect`. Each message names a reply channel,
//! `websocket.send.<process>!<client>`. The server writes the messages that the application sends to that channel, or
//! to a group that contains it, to the socket. An HTTP request becomes a message on `http.request`. The application
//! answers on `http.response.<process>!<client>`, in one message or in parts.
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
//! A process has one process-local channel for sockets and one for requests, each with one reader. The reader passes
//! each message to the queue of its client and never waits for a client. When the queue of a client that does not read
//! is full, the socket is closed with 1013, or the response is cut off; other clients are not affected. The server
//! answers a handshake when the application has accepted or refused it.

mod asgi;
mod counters;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod http;
pub mod hub;
mod interface;
mod limits;
mod options;
mod reader;
mod status;
mod transport;
mod websocket;

pub use interface::bound::BoundServer;
pub use interface::server::InterfaceServer;
pub use interface::settings::DataLoss;
pub use limits::Refused;
pub use options::{SlowConsumer, SocketOptions};
pub use status::health::{health_routes, metrics_route, mode_route};
pub use transport::listener::{Address, InvalidTls, Listener, Tls};
pub use transport::proxy::TrustedProxies;
pub use websocket::upgrade::{NotWebSocket, Upgrade};
