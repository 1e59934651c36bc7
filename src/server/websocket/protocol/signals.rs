//! Signals between the reading and the writing side of a socket.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// Signals between the two sides of one socket.
#[derive(Debug, Default)]
pub(crate) struct Signals {
    /// Whether the client has sent anything since the last check.
    pub(crate) received: AtomicBool,
    /// Whether a message is being handled. The server does not read in this time, so the client does not count as
    /// silent.
    busy: AtomicBool,
    /// Whether a close frame was sent. Later messages are not passed to the application.
    pub(crate) closing: AtomicBool,
    /// Notified when a ping was received. Its pong waits to be written.
    pub(crate) ping_received: Notify,
    /// Notified when the pong was written.
    pub(crate) pong_written: Notify,
    /// Notified when the connection has ended and the reading side has to stop.
    pub(crate) ended: Notify,
}

impl Signals {
    pub(crate) async fn while_busy<T>(&self, handling: impl Future<Output = T>) -> T {
        self.busy.store(true, Ordering::Relaxed);
        let handled = handling.await;
        self.busy.store(false, Ordering::Relaxed);
        handled
    }

    /// Returns `true` if the client has counted as alive since the last call.
    pub(crate) fn is_alive(&self) -> bool {
        self.received.swap(false, Ordering::Relaxed) || self.busy.load(Ordering::Relaxed)
    }
}
