//! `Worker`: handlers by channel, run over whatever arrives.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use bytestring::ByteString;
use futures_util::FutureExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use super::context::Context;
use super::lines::Lines;
use crate::error::{BoxError, Error, Result};
use crate::layer::{ChannelLayer, Delivery};
use crate::message::Value;
use crate::steady::SteadyReceiver;

type Handling = Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>>;
type Handler = Arc<dyn Fn(Context) -> Handling + Send + Sync>;

/// Takes messages from channels and gives each to the handler of its channel.
///
/// Messages with the same `reply_channel` are handled one after the other, in the order in which this worker took
/// them; others beside each other. An error or a panic of a handler is logged and counted in
/// `channel_layer_worker_failures_total`, and the next message is handled.
#[must_use]
pub struct Worker {
    layer: Arc<dyn ChannelLayer>,
    handlers: HashMap<String, Handler>,
    concurrency: usize,
    reply_patience: Duration,
    drain_timeout: Duration,
}

impl Worker {
    /// A worker without handlers.
    pub fn new(layer: Arc<dyn ChannelLayer>) -> Self {
        Self {
            layer,
            handlers: HashMap::new(),
            concurrency: 64,
            reply_patience: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(10),
        }
    }

    /// Handles the messages of `channel`, a process-local one named up to its `!`. A later handler for the same channel
    /// replaces an earlier one.
    pub fn on<H, F, E>(mut self, channel: &str, handler: H) -> Self
    where
        H: Fn(Context) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError>,
    {
        let handler = Arc::new(handler);
        let boxed: Handler = Arc::new(move |context| {
            let handler = handler.clone();
            // The handler is called inside the future, so that a panic of the call itself is contained too.
            Box::pin(async move { handler(context).await.map_err(Into::into) })
        });
        self.handlers.insert(channel.to_owned(), boxed);
        self
    }

    /// How many messages this worker has in hand at once, at least 1. Defaults to 64.
    pub fn concurrency(mut self, messages: usize) -> Self {
        self.concurrency = messages.clamp(1, Semaphore::MAX_PERMITS);
        self
    }

    /// How long [`Context::reply`] waits for room on a full reply channel. Defaults to 10 s.
    pub fn reply_patience(mut self, patience: Duration) -> Self {
        self.reply_patience = patience;
        self
    }

    /// How long a shutdown waits for handlers to finish. Defaults to 10 s.
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.drain_timeout = timeout;
        self
    }

    /// Works until `shutdown` completes; then takes no more messages, puts back what was taken and not begun with by
    /// the layer, and finishes what is in hand. While the layer's servers are away it waits for them.
    ///
    /// # Cancel safety
    ///
    /// When dropped, the handlers under way are dropped with it.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidName`] if a channel cannot be received from or there is no handler, [`Error::Closed`] if the
    /// layer closes before `shutdown`.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<()> {
        let channels: Vec<&str> = self.handlers.keys().map(String::as_str).collect();
        let mut receiver = SteadyReceiver::new(self.layer.receiver(&channels)?, "messages");
        let mut crew = Crew { in_hand: Arc::new(Semaphore::new(self.concurrency)), ..Crew::default() };
        let worked = self.work(&mut receiver, &mut crew, shutdown).await;
        receiver.close().await;
        crew.finish(self.drain_timeout).await;
        worked
    }

    async fn work(
        &self,
        receiver: &mut SteadyReceiver,
        crew: &mut Crew,
        shutdown: impl Future<Output = ()>,
    ) -> Result<()> {
        let mut shutdown = pin!(shutdown);
        loop {
            let next = async {
                // Taking a message only when there is a hand for it leaves it to other workers until then.
                let permit = crew.in_hand.clone().acquire_owned().await.map_err(|_| Error::Closed)?;
                Ok::<_, Error>((permit, receiver.recv().await?))
            };
            let (permit, delivery) = tokio::select! {
                next = next => next?,
                () = &mut shutdown => return Ok(()),
            };
            if let Some(handler) = self.handlers.get(delivery.channel.non_local()) {
                let line = line_of(&delivery);
                let context = Context::new(self.layer.clone(), delivery, self.reply_patience);
                crew.take(line, Job { handler: handler.clone(), context, _permit: permit });
            }
        }
    }
}

fn line_of(delivery: &Delivery) -> Option<ByteString> {
    match delivery.message.get("reply_channel") {
        Some(Value::Text(channel)) => Some(channel.clone()),
        _ => None,
    }
}

struct Job {
    handler: Handler,
    context: Context,
    _permit: OwnedSemaphorePermit,
}

impl Job {
    async fn run(self) {
        let channel = self.context.channel().clone();
        let kind = match AssertUnwindSafe((self.handler)(self.context)).catch_unwind().await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => {
                tracing::warn!(%channel, error = &*error as &dyn std::error::Error, "a handler failed");
                "error"
            }
            Err(_panic) => {
                tracing::error!(%channel, "a handler panicked");
                "panic"
            }
        };
        metrics::counter!("channel_layer_worker_failures_total", "kind" => kind).increment(1);
    }
}

/// The tasks that run handlers.
struct Crew {
    in_hand: Arc<Semaphore>,
    lines: Arc<Lines<Job>>,
    tasks: JoinSet<()>,
}

impl Default for Crew {
    fn default() -> Self {
        Self { in_hand: Arc::new(Semaphore::new(1)), lines: Arc::default(), tasks: JoinSet::new() }
    }
}

impl Crew {
    fn take(&mut self, line: Option<ByteString>, job: Job) {
        // Finished tasks leave their result behind until it is looked at.
        while self.tasks.try_join_next().is_some() {}
        let Some(line) = line else {
            self.tasks.spawn(job.run());
            return;
        };
        let Some(first) = self.lines.enter(&line, job) else { return };
        let lines = self.lines.clone();
        self.tasks.spawn(async move {
            let mut next = Some(first);
            while let Some(job) = next {
                job.run().await;
                next = lines.next(&line);
            }
        });
    }

    async fn finish(mut self, patience: Duration) {
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(patience, all).await.is_err() {
            let unfinished = self.tasks.len();
            tracing::warn!(unfinished, "handlers did not finish in time and are stopped");
            metrics::counter!("channel_layer_worker_failures_total", "kind" => "stopped").increment(unfinished as u64);
            self.tasks.shutdown().await;
        }
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("channels", &self.handlers.keys().collect::<Vec<_>>())
            .field("concurrency", &self.concurrency)
            .finish_non_exhaustive()
    }
}
