//! The tasks that run handlers: how many at once, in which order, and what becomes of them at the end.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytestring::ByteString;
use futures_util::FutureExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tracing::{Instrument, Span};

use super::context::Context;
use super::faults::Faults;
use super::handlers::Handler;
use super::lines::{Lines, Ordered};
use crate::drops::{self, DropReason};
use crate::layer::Delivery;
use crate::message::Value;

/// A message and its handler.
pub(crate) struct Job {
    handler: Handler,
    context: Context,
    /// In its sender's count of messages, if it counts.
    order: Option<i64>,
    /// A place among those that this worker has taken.
    _place: OwnedSemaphorePermit,
}

impl Ordered for Job {
    fn comes_before(&self, other: &Self) -> bool {
        matches!((self.order, other.order), (Some(this), Some(other)) if this < other)
    }
}

impl Job {
    pub(crate) fn new(handler: Handler, context: Context, place: OwnedSemaphorePermit) -> Self {
        Self { order: context.message().int("order"), handler, context, _place: place }
    }

    async fn run(self, faults: &Faults) {
        let channel = self.context.channel().clone();
        let begun = Instant::now();
        let span = span(&self.context);
        if let Some(trace) = self.context.trace() {
            trace.tell("taken by a handler", channel.non_local());
        }
        match AssertUnwindSafe((self.handler)(self.context)).catch_unwind().instrument(span).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => faults.failed(&channel, &*error),
            Err(_panic) => faults.panicked(&channel),
        }
        metrics::histogram!("channel_layer_worker_seconds", "channel" => channel.non_local().to_owned())
            .record(begun.elapsed().as_secs_f64());
    }
}

/// What a handler does, for `tracing`.
fn span(context: &Context) -> Span {
    let channel = context.channel().non_local();
    match context.trace() {
        Some(trace) => {
            tracing::debug_span!("handle", channel, trace_id = trace.trace_id(), span_id = trace.span_id())
        }
        None => tracing::debug_span!("handle", channel),
    }
}

/// What stands in one line: messages about the same connection.
pub(crate) fn line_of(delivery: &Delivery) -> Option<ByteString> {
    match delivery.message.get("reply_channel") {
        Some(Value::Text(channel)) => Some(channel.clone()),
        _ => None,
    }
}

pub(crate) struct Crew {
    /// One for each handler that runs. Jobs that wait in a line hold none, so that one connection, whatever it sends,
    /// keeps one.
    hands: Arc<Semaphore>,
    /// One for each message that was taken and is not done with.
    places: Arc<Semaphore>,
    lines: Arc<Lines<Job>>,
    faults: Arc<Faults>,
    tasks: JoinSet<()>,
}

impl Crew {
    pub(crate) fn new(concurrency: usize, backlog: usize) -> Self {
        Self {
            hands: Arc::new(Semaphore::new(concurrency)),
            places: Arc::new(Semaphore::new((concurrency + backlog).min(Semaphore::MAX_PERMITS))),
            lines: Arc::default(),
            faults: Arc::default(),
            tasks: JoinSet::new(),
        }
    }

    /// Waits until there is a place for one more message, and a hand for it: taken before that, it would be kept from
    /// other workers.
    ///
    /// # Cancel safety
    ///
    /// When dropped, nothing is taken.
    pub(crate) async fn room(&self) -> Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)> {
        let place = self.places.clone().acquire_owned().await.ok()?;
        let hand = self.hands.clone().acquire_owned().await.ok()?;
        Some((place, hand))
    }

    /// Runs a job with this hand, or puts it into its line if that is being worked through.
    pub(crate) fn take(&mut self, line: Option<ByteString>, job: Job, hand: OwnedSemaphorePermit) {
        // Finished tasks leave their result behind until it is looked at.
        while self.tasks.try_join_next().is_some() {}
        let faults = self.faults.clone();
        let Some(line) = line else {
            self.tasks.spawn(async move {
                job.run(&faults).await;
                drop(hand);
            });
            return;
        };
        let Some(first) = self.lines.enter(&line, job) else { return };
        let (lines, hands) = (self.lines.clone(), self.hands.clone());
        self.tasks.spawn(async move {
            first.run(&faults).await;
            drop(hand);
            // Between two jobs of a line others have their turn.
            while let Ok(_hand) = hands.acquire().await
                && let Some(job) = lines.next(&line)
            {
                job.run(&faults).await;
            }
        });
    }

    /// Waits for what was taken, sends back what has not begun by then, and stops the rest.
    pub(crate) async fn finish(mut self, patience: Duration) {
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(patience, all).await.is_ok() {
            return;
        }
        let waiting = self.lines.drain();
        let unfinished = self.tasks.len();
        tracing::warn!(unfinished, waiting = waiting.len(), "handlers did not finish in time and are stopped");
        Faults::stopped(unfinished);
        self.tasks.shutdown().await;
        for job in waiting {
            if let Err(error) = job.context.send_back().await {
                tracing::debug!(%error, "a message could not be sent back");
                drops::count(DropReason::Stopped, 1);
            }
        }
    }
}
