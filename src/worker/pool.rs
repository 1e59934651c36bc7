//! `WorkerPool`: the tasks that run handlers, their number and their order.

use std::future::ready;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytestring::ByteString;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::drops::{self, DropReason};
use crate::layer::{ChannelLayer, Delivery};
use crate::message;
use crate::message::Value;
use crate::worker::context::Context;
use crate::worker::faults::Faults;
use crate::worker::handlers::Handler;
use crate::worker::job::{Job, Unstarted};
use crate::worker::queues::{KeyedQueues, Pushed};
use crate::worker::requeue::requeue;

/// Returns the key of the queue for a message: its reply channel, which all messages of one connection share.
pub(crate) fn queue_key(delivery: &Delivery) -> Option<ByteString> {
    match delivery.message.get("reply_channel") {
        Some(Value::Text(channel)) => Some(channel.clone()),
        _ => None,
    }
}

pub(crate) struct WorkerPool {
    layer: Arc<dyn ChannelLayer>,
    /// One permit per running handler. Jobs that wait in a queue hold none, so that one connection occupies at most
    /// one.
    handlers: Arc<Semaphore>,
    /// One permit per message that was taken and whose handler has not finished.
    messages: Arc<Semaphore>,
    queues: Arc<KeyedQueues<Job>>,
    /// Notified when a queue waits for a handler permit.
    permit_requests: Arc<Notify>,
    faults: Arc<Faults>,
    /// Jobs that were dropped before they started.
    unstarted: Arc<Unstarted>,
    tasks: JoinSet<()>,
}

/// Maximum number of messages taken at once. A batch of this size makes round trips to Redis cheap and still leaves
/// messages for other workers.
const MAX_BATCH: usize = 16;

/// Permits for messages that are about to be taken.
pub(crate) struct Permits {
    messages: OwnedSemaphorePermit,
    handlers: OwnedSemaphorePermit,
}

impl Permits {
    /// Returns the number of messages that the permits cover.
    pub(crate) fn size(&self) -> usize {
        self.handlers.num_permits()
    }

    /// Takes the permits for one message.
    pub(crate) fn take(&mut self) -> Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)> {
        self.messages.split(1).zip(self.handlers.split(1))
    }
}

/// The waiting frames of one client may occupy a tenth of the backlog, so that a client that floods the worker does not
/// stop the others.
const BACKLOG_DIVISOR: usize = 10;
/// Smallest limit of waiting frames of one client, however small the backlog is.
const MIN_QUEUE_LIMIT: usize = 16;

/// The close code for overload, from the registry that RFC 6455 established.
const TRY_AGAIN_LATER: i64 = 1013;

impl WorkerPool {
    pub(crate) fn new(layer: Arc<dyn ChannelLayer>, concurrency: usize, backlog: usize) -> Self {
        Self {
            layer,
            handlers: Arc::new(Semaphore::new(concurrency)),
            messages: Arc::new(Semaphore::new((concurrency + backlog).min(Semaphore::MAX_PERMITS))),
            queues: Arc::new(KeyedQueues::new((backlog / BACKLOG_DIVISOR).max(MIN_QUEUE_LIMIT))),
            permit_requests: Arc::default(),
            faults: Arc::default(),
            unstarted: Arc::default(),
            tasks: JoinSet::new(),
        }
    }

    /// Waits until one message can be taken and handled. Returns permits for that message and for as many more as can
    /// be handled at the same time, up to [`MAX_BATCH`]. A message taken without a free handler would wait here while
    /// another worker may be idle.
    ///
    /// # Cancel safety
    ///
    /// When dropped, no permit is taken.
    pub(crate) async fn permits(&self) -> Option<Permits> {
        let mut messages = self.messages.clone().acquire_owned().await.ok()?;
        let mut handlers = self.handlers.clone().acquire_owned().await.ok()?;
        let more = self.messages.available_permits().min(self.handlers.available_permits()).min(MAX_BATCH - 1);
        let more = u32::try_from(more).unwrap_or(0);
        // Another task may take permits between these lines. Then one of each is enough.
        if let Ok(message_permit) = self.messages.clone().try_acquire_many_owned(more)
            && let Ok(handler_permit) = self.handlers.clone().try_acquire_many_owned(more)
        {
            messages.merge(message_permit);
            handlers.merge(handler_permit);
        }
        Some(Permits { messages, handlers })
    }

    /// Waits until a queue waits for a handler permit. The caller then releases the permits that it holds without work.
    ///
    /// # Cancel safety
    ///
    /// When dropped, the next call returns instead.
    pub(crate) async fn permit_requested(&self) {
        self.permit_requests.notified().await;
    }

    /// Handles a message with these permits. If an earlier message with the same key is being handled, queues the
    /// message and releases the handler permit.
    pub(crate) fn take(
        &mut self,
        key: Option<ByteString>,
        (handler, context): (Handler, Context),
        (message_permit, handler_permit): (OwnedSemaphorePermit, OwnedSemaphorePermit),
    ) {
        let job = Job::new(handler, context, self.unstarted.clone(), message_permit);
        // A finished task keeps its result until it is joined.
        while self.tasks.try_join_next().is_some() {}
        let faults = self.faults.clone();
        let Some(key) = key else {
            self.tasks.spawn(async move {
                job.run(&faults).await;
                drop(handler_permit);
            });
            return;
        };
        let first = match self.queues.push(&key, job) {
            Pushed::Idle(first) => first,
            Pushed::Queued => return,
            Pushed::Overloaded(job, notified) => return self.refuse(key, job, notified),
        };
        let (queues, handlers, permit_requests) =
            (self.queues.clone(), self.handlers.clone(), self.permit_requests.clone());
        self.tasks.spawn(async move {
            first.run(&faults).await;
            drop(handler_permit);
            // The permit is released between two jobs of a queue, so that other queues get their turn.
            loop {
                let Some(_permit) = acquire_permit(&handlers, &permit_requests).await else { return };
                let Some(job) = queues.next(&key) else { return };
                job.run(&faults).await;
            }
        });
    }

    /// Drops a frame of an overloaded connection. Asks the interface server to close the connection, unless `notified`
    /// says that this was done before.
    fn refuse(&mut self, key: ByteString, job: Job, notified: bool) {
        drops::count(DropReason::Overflow, 1);
        let Some(context) = job.refuse() else { return };
        if notified {
            return;
        }
        tracing::info!(channel = context.reply_channel(), "closing a client that floods the worker");
        let queues = self.queues.clone();
        self.tasks.spawn(async move {
            if let Err(error) = context.reply(message! { "close": TRY_AGAIN_LATER }).await {
                tracing::debug!(%error, "cannot close a client that floods the worker");
                queues.unmark_notified(&key);
            }
        });
    }

    /// Waits for the handlers of all taken messages, up to `drain_timeout`. Then stops the running handlers, and
    /// requeues the messages whose handlers have not started.
    pub(crate) async fn finish(mut self, drain_timeout: Duration) {
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(drain_timeout, all).await.is_ok() {
            return;
        }
        let waiting = self.queues.drain();
        let (running, queued) = (self.faults.running(), waiting.len());
        tracing::warn!(running, waiting = queued, "handlers did not finish in time and are stopped");
        self.tasks.shutdown().await;
        // Dropped after the tasks, so that spawned jobs that have not started are requeued before the queued ones.
        drop(waiting);
        let unstarted = std::mem::take(&mut *self.unstarted.lock());
        requeue(&*self.layer, unstarted).await;
    }
}

/// Waits for a handler permit, and asks the worker's main loop to release the permits that it holds without a message.
/// The wait enters the queue of the semaphore before it asks. Otherwise the main loop could take the permit again
/// first.
async fn acquire_permit<'a>(handlers: &'a Semaphore, permit_requests: &Notify) -> Option<SemaphorePermit<'a>> {
    let mut handler_permit = pin!(handlers.acquire());
    tokio::select! {
        biased;
        handler_permit = &mut handler_permit => return handler_permit.ok(),
        () = ready(()) => permit_requests.notify_one(),
    }
    handler_permit.await.ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::BoxError;
    use crate::memory::MemoryLayer;
    use crate::worker::handlers::boxed;
    use crate::worker::tests::within;

    fn pool() -> (Arc<MemoryLayer>, WorkerPool) {
        let layer = Arc::new(MemoryLayer::new());
        (layer.clone(), WorkerPool::new(layer, 2, 10))
    }

    fn context(layer: &Arc<MemoryLayer>, number: i64) -> Context {
        let delivery = Delivery::new("work".parse().unwrap(), message! { "number": number });
        Context::new(layer.clone(), delivery, Duration::ZERO)
    }

    #[tokio::test]
    async fn a_message_whose_handler_has_not_started_is_requeued() {
        let (layer, mut pool) = pool();
        let permits = pool.permits().await.unwrap().take().unwrap();
        pool.take(None, (boxed(|_: Context| async { Ok::<_, BoxError>(()) }), context(&layer, 1)), permits);
        pool.tasks.abort_all();
        pool.tasks.spawn(std::future::pending());
        pool.finish(Duration::ZERO).await;
        assert_eq!(layer.try_receive(&["work"]).await.unwrap().unwrap().message.int("number"), Some(1));
    }

    #[tokio::test]
    async fn a_queue_that_waits_for_a_permit_does_not_count_as_a_stopped_handler() {
        let recorder = metrics_util::debugging::DebuggingRecorder::new();
        let _recording = metrics::set_default_local_recorder(&recorder);
        let (layer, mut pool) = pool();
        let (open, gate) = tokio::sync::watch::channel(false);
        let handler = boxed(move |_: Context| {
            let mut gate = gate.clone();
            async move { gate.wait_for(|open| *open).await.map(drop) }
        });
        let mut permits = pool.permits().await.unwrap();
        for number in [1, 2] {
            pool.take(Some("key".into()), (handler.clone(), context(&layer, number)), permits.take().unwrap());
        }
        // Takes the other permit, and the permit of the first handler as soon as that handler ends.
        let _kept = pool.permits().await.unwrap();
        let (_kept, ()) = tokio::join!(pool.permits(), async { open.send(true).unwrap() });
        within(pool.permit_requested()).await;
        within(pool.finish(Duration::ZERO)).await;
        assert_eq!(layer.try_receive(&["work"]).await.unwrap().unwrap().message.int("number"), Some(2));
        let counted = recorder.snapshotter().snapshot().into_vec();
        let name = |counted: &(metrics_util::CompositeKey, _, _, _)| counted.0.key().name().to_owned();
        assert_eq!(counted.iter().map(name).collect::<Vec<_>>(), ["channel_layer_worker_seconds"]);
    }
}
