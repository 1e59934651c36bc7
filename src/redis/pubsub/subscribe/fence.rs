//! What stands between a subscribed connection and the queues of this process.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::redis::pubsub::inbox::Inbox;

/// Passes messages of one connection on until it is shut. After that none of them can come late, behind messages that
/// stayed in this process.
pub(crate) struct DeliveryFence {
    /// Held while a message is delivered.
    open: Mutex<bool>,
    inbox: Arc<Inbox>,
    shard: usize,
}

impl DeliveryFence {
    /// An open one, before `inbox`.
    pub(crate) fn new(inbox: Arc<Inbox>, shard: usize) -> Self {
        Self { open: Mutex::new(true), inbox, shard }
    }

    /// Passes on what came on the Redis channel `topic`, if it is open.
    pub(crate) fn pass(&self, topic: &[u8], payload: &Bytes) {
        let open = self.open.lock();
        if *open {
            self.inbox.take_in(self.shard, topic, payload);
        }
    }

    /// Waits for what is being passed on, and lets nothing more through.
    pub(crate) fn shut(&self) {
        *self.open.lock() = false;
    }
}
