//! The ASGI side of the server: WebSocket handshakes and frames as messages, and replies on their way to sockets.
//!
//! [`messages`] converts between requests and messages without I/O. [`dispatch`] reads the process-local reply channel
//! and pushes each reply to the queue of its client, which it finds in [`connections`].

pub(crate) mod application;
pub(crate) mod connections;
pub(crate) mod dispatch;
pub(crate) mod handshake;
pub(crate) mod messages;
pub(crate) mod session;
