//! `Worker`: what it is told, and its loop.

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::context::Context;
use super::handlers::{Handlers, boxed};
use crate::drops::{self, DropReason};
use crate::error::{BoxError, Error, Result};
use crate::layer::{ChannelLayer, Delivery, RetryingReceiver};
use crate::supervise::contain;
use crate::worker::pool::{Crew, Room, line_of};

/// Takes messages from channels and gives each to the handler of its channel.
///
/// Messages with the same `reply_channel` are handled one after the other, in the order in which this worker took
/// them, and by their `order` as far as they wait together; others beside each other. Of several workers on the same
/// channels each gets some of a connection's messages, and these are in no order between workers.
///
/// An error or a panic of a handler is counted in `channel_layer_worker_failures_total` and logged, the same kind on the
/// same channel once in 10 s, and the next message is handled. Nothing is handled twice: a message whose handler failed
/// is gone.
#[must_use]
pub struct Worker {
    layer: Arc<dyn ChannelLayer>,
    handlers: Handlers,
    concurrency: usize,
    backlog: usize,
    in_order: bool,
    reply_patience: Duration,
    drain_timeout: Duration,
}

impl Worker {
    /// A worker without handlers.
    pub fn new(layer: Arc<dyn ChannelLayer>) -> Self {
        Self {
            layer,
            handlers: Handlers::default(),
            concurrency: 64,
            backlog: 1_000,
            in_order: true,
            reply_patience: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(10),
        }
    }

    /// Handles the messages of `channel`, a process-local one named up to its `!`. A later handler for the same channel
    /// replaces an earlier one.
    ///
    /// A pattern, in which `*` stands for any text, handles those of the [`channels`](Self::channels) that it matches
    /// and that have no handler under their own name; the first of several patterns that match does.
    pub fn on<H, F, E>(mut self, channel: &str, handler: H) -> Self
    where
        H: Fn(Context) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError>,
    {
        self.handlers.insert(channel, boxed(handler));
        self
    }

    /// Takes messages from these channels too, for handlers with a pattern: a layer is asked for channels by name.
    pub fn channels<T: AsRef<str>>(mut self, channels: impl IntoIterator<Item = T>) -> Self {
        for channel in channels {
            self.handlers.read(channel.as_ref());
        }
        self
    }

    /// How many handlers run at once, at least 1. A message is taken when there is one free. Defaults to 64.
    pub fn concurrency(mut self, handlers: usize) -> Self {
        self.concurrency = handlers.clamp(1, Semaphore::MAX_PERMITS / 2);
        self
    }

    /// How many messages may wait for earlier ones of the same connection, beyond which no more are taken. A connection
    /// of which frames take up a tenth of it is closed with 1013, and its further frames are counted as dropped under
    /// `overflow`. Defaults to 1,000.
    pub fn backlog(mut self, messages: usize) -> Self {
        self.backlog = messages.min(Semaphore::MAX_PERMITS / 2);
        self
    }

    /// Whether messages of one connection wait for each other. Defaults to `true`.
    pub fn in_order(mut self, in_order: bool) -> Self {
        self.in_order = in_order;
        self
    }

    /// How long [`Context::reply`] and [`Context::send`] wait for room on a full channel. Defaults to 10 s.
    pub fn reply_patience(mut self, patience: Duration) -> Self {
        self.reply_patience = patience;
        self
    }

    /// How long a shutdown waits for handlers to finish. Defaults to 10 s.
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.drain_timeout = timeout;
        self
    }

    /// Works until `shutdown` completes; then takes no more messages, puts back what the layer has read and not handed
    /// over, and finishes what was taken. What has not begun when the time for that is over goes back to the end of
    /// its channel, whatever that may hold, and handlers that still run are stopped. While the layer's servers are away it waits for them.
    ///
    /// # Cancel safety
    ///
    /// When dropped, the handlers under way are dropped with it, and the messages that wait for them.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidName`] if a channel cannot be received from or there is none, [`Error::InvalidConfig`] if one has
    /// no handler or a pattern matches none, [`Error::Closed`] if the layer closes before `shutdown`.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<()> {
        let mut receiver = RetryingReceiver::new(self.layer.receiver(&self.handlers.channels()?)?, "messages");
        let mut crew = Crew::new(self.layer.clone(), self.concurrency, self.backlog);
        let worked = self.work(&mut receiver, &mut crew, shutdown).await;
        receiver.close().await;
        crew.finish(self.drain_timeout).await;
        worked
    }

    async fn work(
        &self,
        receiver: &mut RetryingReceiver,
        crew: &mut Crew,
        shutdown: impl Future<Output = ()>,
    ) -> Result<()> {
        let (mut shutdown, mut taken) = (pin!(shutdown), Vec::new());
        loop {
            let next = async {
                let room = crew.room().await.ok_or(Error::Closed)?;
                receiver.recv_many(&mut taken, room.size()).await?;
                Ok::<_, Error>(room)
            };
            let mut room = tokio::select! {
                next = next => next?,
                () = crew.hand_is_wanted() => continue,
                () = &mut shutdown => return Ok(()),
            };
            for delivery in taken.drain(..) {
                if contain("worker", || self.take(delivery, &mut room, crew)).is_none() {
                    drops::count(DropReason::Malformed, 1);
                }
            }
        }
    }

    fn take(&self, delivery: Delivery, room: &mut Room, crew: &mut Crew) {
        if let Some(handler) = self.handlers.of(&delivery.channel)
            && let Some(taken) = room.take()
        {
            let line = if self.in_order { line_of(&delivery) } else { None };
            let context = Context::new(self.layer.clone(), delivery, self.reply_patience);
            crew.take(line, (handler.clone(), context), taken);
        }
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("concurrency", &self.concurrency).finish_non_exhaustive()
    }
}
