//! Signals between the reading and the writing side of a socket.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// Signals between the two sides of one socket.
#[derive(Debug, Default)]
pub(crate) struct Signals {
    /// The client has sent something since the last check.
    pub(crate) received: AtomicBool,
    /// A message is being handled, and nothing is read until that is done. The client does not count as silent in this
    /// time.
    busy: AtomicBool,
    /// A close frame was sent. Later messages are not passed to the application.
    pub(crate) closing: AtomicBool,
    /// A ping was received, and its pong waits to be written.
    pub(crate) ping_received: Notify,
    /// The pong was written.
    pub(crate) pong_written: Notify,
    /// The connection has ended, and nothing more has to be read.
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
