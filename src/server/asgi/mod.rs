//! ASGI: requests as messages, and how replies find their client.
//!
//! [`messages`] converts between requests and messages without I/O. [`dispatch`] reads the process-local reply channel and
//! hands each reply to the queue of its client, which it finds in [`connections`].

pub(crate) mod connections;
pub(crate) mod dispatch;
pub(crate) mod lost;
pub(crate) mod messages;
pub(crate) mod session;
