//! `Delivery`: a message on its way to a call of `receive`.

use std::sync::{Arc, Weak};

use channel_layer::Message;
use pyo3::prelude::*;
use tokio::time::Instant;

use super::channel::Channel;
use crate::core::Core;
use crate::values;

/// A message that a channel of the inbox holds, or has handed to a call.
pub(crate) struct Held {
    /// Its place: messages of a channel are delivered in this order.
    pub(crate) number: u64,
    pub(crate) message: Message,
    pub(crate) expires: Instant,
}

/// A message for a call. It returns to its place in the channel when it is dropped before Python has it.
pub(crate) struct Delivery {
    core: Weak<Core>,
    channel: Arc<Channel>,
    /// `None` when Python has the message.
    held: Option<Held>,
}

impl Delivery {
    pub(crate) fn new(core: &Arc<Core>, channel: &Arc<Channel>, held: Held) -> Self {
        Self { core: Arc::downgrade(core), channel: channel.clone(), held: Some(held) }
    }

    pub(crate) fn into_python(mut self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let message = self.held.as_ref().map(|held| values::message_to_python(py, &held.message)).transpose()?;
        self.held = None;
        Ok(message.unwrap_or_else(|| py.None()))
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if let Some(held) = self.held.take()
            && let Some(core) = self.core.upgrade()
        {
            core.inbox.put_back(&core, &self.channel.name, held);
        }
    }
}
