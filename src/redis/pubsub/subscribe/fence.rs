//! `DeliveryFence`: stops the messages of a subscribed connection once it counts as lost.

use bytes::Bytes;
use parking_lot::Mutex;

use crate::redis::pubsub::subscribe::protocol::Deliver;

/// Delivers the messages of one connection until the fence is closed. After that no message of the connection can
/// arrive behind messages that stayed in this process.
pub(crate) struct DeliveryFence {
    /// Held while a message is delivered. The delivery runs code of the application: wakers, the log and the recorder
    /// of metrics. No call of the layer takes this lock, so such code cannot wait for it.
    open: Mutex<bool>,
    deliver: Deliver,
}

impl DeliveryFence {
    /// An open fence.
    pub(crate) fn new(deliver: Deliver) -> Self {
        Self { open: Mutex::new(true), deliver }
    }

    /// Delivers a message that arrived on the Redis channel `topic`, unless the fence is closed.
    pub(crate) fn pass(&self, topic: &[u8], payload: Bytes) {
        let open = self.open.lock();
        if *open {
            (self.deliver)(topic, payload);
        }
    }

    /// Waits for a delivery that is under way, and stops all further ones.
    pub(crate) fn close(&self) {
        *self.open.lock() = false;
    }
}
