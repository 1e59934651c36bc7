//! `Job`: a message and its handler.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::Either;
use parking_lot::Mutex;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tracing::{Instrument, Span};

use super::context::Context;
use super::faults::Faults;
use super::handlers::Handler;
use crate::supervise::{contained, update_metric};
use crate::worker::queues::Ordered;
use crate::worker::requeue::{TakenMessage, taken};

/// The channel of clients' frames.
const FRAMES: &str = "websocket.receive";

/// The messages of dropped jobs whose handlers had not started. The pool requeues them.
pub(crate) type Unstarted = Mutex<Vec<TakenMessage>>;

/// A message and its handler. A job that is dropped before its handler starts adds its message to `unstarted`.
pub(crate) struct Job {
    handler: Handler,
    /// `None` once the handler has started.
    context: Option<Context>,
    /// The number that the sender gave the message, if it numbers its messages.
    order: Option<i64>,
    is_frame: bool,
    unstarted: Arc<Unstarted>,
    /// Counts the message as taken by this worker until the job is dropped.
    _permit: OwnedSemaphorePermit,
}

impl Job {
    pub(crate) fn new(
        handler: Handler,
        context: Context,
        unstarted: Arc<Unstarted>,
        message_permit: OwnedSemaphorePermit,
    ) -> Self {
        Self {
            order: context.message().int("order"),
            is_frame: context.channel().as_str() == FRAMES,
            handler,
            context: Some(context),
            unstarted,
            _permit: message_permit,
        }
    }

    /// Returns the message without running its handler.
    pub(crate) fn refuse(mut self) -> Option<Context> {
        self.context.take()
    }

    /// Runs the handler. A panic outside the handler's future, for example in the drop of its error, ends only this
    /// job.
    pub(crate) async fn run(self, faults: &Faults) {
        contained("handler", self.handle(faults)).await;
    }

    async fn handle(mut self, faults: &Faults) {
        let Some(context) = self.context.take() else { return };
        let channel = context.channel().clone();
        let (started, running) = (Instant::now(), faults.begin());
        let (span, trace) = (span(&context), context.trace());
        let handling = (self.handler)(context);
        let handling = match trace {
            Some(trace) => {
                trace.record("taken by a handler", channel.non_local());
                Either::Right(trace.scope(handling))
            }
            None => Either::Left(handling),
        };
        match AssertUnwindSafe(handling).catch_unwind().instrument(span).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => faults.failed(&channel, &*error),
            Err(_panic) => faults.panicked(&channel),
        }
        running.end();
        update_metric(|| {
            metrics::histogram!("channel_layer_worker_seconds", "channel" => channel.non_local().to_owned())
                .record(started.elapsed().as_secs_f64());
        });
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if let Some(context) = self.context.take() {
            let (channel, message) = context.into_parts();
            self.unstarted.lock().push(taken(channel, message));
        }
    }
}

impl Ordered for Job {
    fn precedes(&self, other: &Self) -> bool {
        matches!((self.order, other.order), (Some(this), Some(other)) if this < other)
    }

    /// Only frames are bounded, because each client sends few other messages.
    fn is_bounded(&self) -> bool {
        self.is_frame
    }
}

/// Returns the `tracing` span of a handler.
fn span(context: &Context) -> Span {
    let channel = context.channel().non_local();
    match context.trace() {
        Some(trace) => {
            tracing::debug_span!("handle", channel, trace_id = trace.trace_id(), span_id = trace.span_id())
        }
        None => tracing::debug_span!("handle", channel),
    }
}
