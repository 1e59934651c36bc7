//! `ReaderContext`: what all readers of a layer share.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::broadcast;

use crate::layer::Event;
use crate::redis::closing::Closing;
use crate::redis::node::fault::Fault;
use crate::redis::receive::format::ReadFormat;
use crate::redis::topology::places::Places;

/// What all readers of a layer share.
pub(crate) struct ReaderContext {
    pub(crate) places: Arc<Places>,
    pub(crate) format: Box<dyn ReadFormat>,
    pub(crate) events: broadcast::Sender<Event>,
    pub(crate) closing: Closing,
    /// The shard to which a reader could not put entries back when the layer closed, and the cause.
    pub(crate) lost: Mutex<Option<(usize, Fault)>>,
}

impl ReaderContext {
    /// The first pause before a failed operation is tried again.
    pub(crate) fn retry_pause(&self) -> Duration {
        self.places.shard(0).requirements.timing.backoff
    }
}
