//! The ASGI side of the server: WebSocket handshakes and frames become messages, and replies go to sockets.
//!
//! [`handshake`] and [`session`] send the messages of one socket to the [`application`], and [`messages`] converts them
//! without I/O. [`dispatch`] reads the process-local reply channel and pushes each reply to the queue of its client,
//! which it finds in [`connections`].

pub(crate) mod application;
pub(crate) mod connections;
pub(crate) mod dispatch;
pub(crate) mod handshake;
pub(crate) mod messages;
pub(crate) mod session;
