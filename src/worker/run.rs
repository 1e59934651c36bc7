//! `Worker`: the settings and the main loop of a worker.

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
use crate::worker::pool::{Permits, WorkerPool, queue_key};

/// Takes messages from channels and passes each to the handler of its channel.
///
/// Messages with the same `reply_channel` are handled one at a time, in the order in which this worker took them.
/// Messages that wait are sorted by their `order`. Other messages are handled concurrently. If several workers read the
/// same channels, each gets some of a connection's messages; there is no order between workers.
///
/// An error or a panic of a handler is counted in `channel_layer_worker_failures_total` and logged, at most once in 10
/// s for each kind and channel. The worker then continues. No message is handled twice: a message whose handler failed
/// is not repeated.
#[must_use]
pub struct Worker {
    layer: Arc<dyn ChannelLayer>,
    handlers: Handlers,
    concurrency: usize,
    backlog: usize,
    in_order: bool,
    reply_timeout: Duration,
    drain_timeout: Duration,
}

impl Worker {
    /// Creates a worker without handlers.
    pub fn new(layer: Arc<dyn ChannelLayer>) -> Self {
        Self {
            layer,
            handlers: Handlers::default(),
            concurrency: 64,
            backlog: 1_000,
            in_order: true,
            reply_timeout: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(10),
        }
    }

    /// Sets the handler for the messages of `channel`. A process-local channel is named up to and including its `!`. A
    /// later handler for the same channel replaces an earlier one.
    ///
    /// `channel` may be a pattern, in which `*` stands for any text. Its handler gets the messages of those
    /// [`channels`](Self::channels) that the pattern matches and that have no handler of their own name. If several
    /// patterns match, the first one applies.
    pub fn on<H, F, E>(mut self, channel: &str, handler: H) -> Self
    where
        H: Fn(Context) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError>,
    {
        self.handlers.insert(channel, boxed(handler));
        self
    }

    /// Adds channels to read, for handlers with a pattern: a layer can only read channels by name.
    pub fn channels<T: AsRef<str>>(mut self, channels: impl IntoIterator<Item = T>) -> Self {
        for channel in channels {
            self.handlers.add_channel(channel.as_ref());
        }
        self
    }

    /// Sets how many handlers run at once, at least 1. A message is taken when a handler is free. Defaults to 64.
    pub fn concurrency(mut self, handlers: usize) -> Self {
        self.concurrency = handlers.clamp(1, Semaphore::MAX_PERMITS / 2);
        self
    }

    /// Sets how many messages may wait for earlier messages of the same connection. At the limit the worker takes no
    /// more messages. A connection that sends another frame while a tenth of that number, and at least 16, wait is
    /// closed with 1013. That frame and all later ones are counted as dropped under `overflow`. Defaults to 1,000.
    pub fn backlog(mut self, messages: usize) -> Self {
        self.backlog = messages.min(Semaphore::MAX_PERMITS / 2);
        self
    }

    /// Sets whether messages of one connection wait for each other. Defaults to `true`.
    pub fn in_order(mut self, in_order: bool) -> Self {
        self.in_order = in_order;
        self
    }

    /// Sets how long [`Context::reply`] and [`Context::send`] wait for room on a full channel. Defaults to 10 s.
    pub fn reply_timeout(mut self, timeout: Duration) -> Self {
        self.reply_timeout = timeout;
        self
    }

    /// Sets how long a shutdown waits for handlers to finish. Defaults to 10 s.
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.drain_timeout = timeout;
        self
    }

    /// Runs until `shutdown` completes. Then the worker takes no more messages, puts back the messages that the layer
    /// has read ahead, and finishes the messages that it has taken. After the drain timeout it stops the running
    /// handlers, and requeues each message whose handler has not started: the message returns to the end of its
    /// channel, whatever the capacity. During an outage of the layer's servers the worker waits.
    ///
    /// # Cancel safety
    ///
    /// When dropped, the running handlers and the messages that wait for a handler are dropped. Each waiting message
    /// counts as dropped under `stopped`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidName`] if a channel cannot be received from or there is none, [`Error::InvalidConfig`] if a
    /// channel has no handler or a pattern matches no channel, [`Error::Closed`] if the layer closes before `shutdown`.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<()> {
        let mut receiver = RetryingReceiver::new(self.layer.receiver(&self.handlers.channels()?)?, "messages");
        let mut pool = WorkerPool::new(self.layer.clone(), self.concurrency, self.backlog);
        let worked = self.work(&mut receiver, &mut pool, shutdown).await;
        receiver.close().await;
        pool.finish(self.drain_timeout).await;
        worked
    }

    async fn work(
        &self,
        receiver: &mut RetryingReceiver,
        pool: &mut WorkerPool,
        shutdown: impl Future<Output = ()>,
    ) -> Result<()> {
        let (mut shutdown, mut taken) = (pin!(shutdown), Vec::new());
        loop {
            let next = async {
                let permits = pool.permits().await.ok_or(Error::Closed)?;
                receiver.recv_many(&mut taken, permits.size()).await?;
                Ok::<_, Error>(permits)
            };
            let mut permits = tokio::select! {
                next = next => next?,
                () = pool.permit_requested() => continue,
                () = &mut shutdown => return Ok(()),
            };
            for delivery in taken.drain(..) {
                let was_taken = contain("worker", || self.take(delivery, &mut permits, pool)).unwrap_or(false);
                if !was_taken {
                    drops::count(DropReason::Malformed, 1);
                }
            }
        }
    }

    /// Hands a message to the pool. Returns `false` for a message that the layer should not have returned: its channel
    /// was not asked for, or it exceeds the limit of the call.
    fn take(&self, delivery: Delivery, permits: &mut Permits, pool: &mut WorkerPool) -> bool {
        let Some(handler) = self.handlers.of(&delivery.channel) else { return false };
        let Some(taken) = permits.take() else { return false };
        let key = if self.in_order { queue_key(&delivery) } else { None };
        let context = Context::new(self.layer.clone(), delivery, self.reply_timeout);
        pool.take(key, (handler.clone(), context), taken);
        true
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("concurrency", &self.concurrency).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context as TaskContext, Poll};

    use async_trait::async_trait;
    use metrics_util::debugging::DebuggingRecorder;

    use super::*;
    use crate::layer::{Receiver, Sink, Source};
    use crate::memory::MemoryLayer;
    use crate::message;

    /// A foreign source that ignores the channels and the limit of its caller.
    struct Careless(Vec<&'static str>);

    #[async_trait]
    impl Source for Careless {
        fn poll_recv_many(&mut self, _: &mut TaskContext<'_>, sink: Sink<'_>, _: usize) -> Poll<Result<usize>> {
            let channels = std::mem::take(&mut self.0);
            for channel in &channels {
                sink(Delivery::new(channel.parse().unwrap(), message! {}));
            }
            if channels.is_empty() { Poll::Pending } else { Poll::Ready(Ok(channels.len())) }
        }

        fn pause(&mut self) {}

        async fn close(&mut self) -> Result<()> {
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn messages_that_a_worker_did_not_ask_for_are_counted() {
        let recorder = DebuggingRecorder::new();
        let _recording = metrics::set_default_local_recorder(&recorder);
        let layer = Arc::new(MemoryLayer::new());
        let worker = Worker::new(layer.clone()).on("work", |_: Context| async { Ok::<_, BoxError>(()) });
        let source = Careless(vec!["other", "work", "work", "work"]);
        let mut receiver = RetryingReceiver::new(Receiver::new(source), "messages");
        let mut pool = WorkerPool::new(layer, 2, 10);
        let shutdown = tokio::time::sleep(Duration::from_secs(1));
        worker.work(&mut receiver, &mut pool, shutdown).await.unwrap();
        assert_eq!(drops::recorded(&recorder), [("malformed".to_owned(), 2)], "one of them exceeds the limit");
    }
}
