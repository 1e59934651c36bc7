//! What the reading and the writing side of a socket tell each other.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

#[derive(Debug, Default)]
pub(crate) struct Signs {
    /// Something came from the client since this was last looked at.
    pub(crate) heard: AtomicBool,
    /// What came last is being passed on, and nothing more is read until that is done. A client is not silent meanwhile.
    busy: AtomicBool,
    /// A close frame was sent; what still comes is not for the application.
    pub(crate) closing: AtomicBool,
    /// A ping came, and its pong waits to be written.
    pub(crate) pinged: Notify,
    /// The pong has been written.
    pub(crate) ponged: Notify,
    /// The connection is over, and nothing more has to be read.
    pub(crate) over: Notify,
}

impl Signs {
    pub(crate) async fn busy_with<T>(&self, passing: impl Future<Output = T>) -> T {
        self.busy.store(true, Ordering::Relaxed);
        let passed = passing.await;
        self.busy.store(false, Ordering::Relaxed);
        passed
    }

    /// Whether the client counts as alive since this was last asked.
    pub(crate) fn is_alive(&self) -> bool {
        self.heard.swap(false, Ordering::Relaxed) || self.busy.load(Ordering::Relaxed)
    }
}
