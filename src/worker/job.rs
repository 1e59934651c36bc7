//! A message on its way to its handler.

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
use crate::message::Message;
use crate::name::ChannelName;
use crate::supervise::contained;
use crate::worker::queues::Ordered;

/// Where clients' frames come.
const FRAMES: &str = "websocket.receive";

/// Messages whose handlers have not begun, and never will.
pub(crate) type Unbegun = Mutex<Vec<(ChannelName, Message)>>;

/// A message and its handler. One that is dropped before its handler has begun goes back.
pub(crate) struct Job {
    handler: Handler,
    /// Until the handler begins.
    context: Option<Context>,
    /// In its sender's count of messages, if it counts.
    order: Option<i64>,
    is_frame: bool,
    unbegun: Arc<Unbegun>,
    /// A place among those that this worker has taken.
    _place: OwnedSemaphorePermit,
}

impl Job {
    pub(crate) fn new(handler: Handler, context: Context, unbegun: Arc<Unbegun>, place: OwnedSemaphorePermit) -> Self {
        Self {
            order: context.message().int("order"),
            is_frame: context.channel().as_str() == FRAMES,
            handler,
            context: Some(context),
            unbegun,
            _place: place,
        }
    }

    /// The message, which no handler gets.
    pub(crate) fn turn_away(mut self) -> Option<Context> {
        self.context.take()
    }

    /// Runs the handler. Where something of it panics outside of its future, as its error may, that costs this message and
    /// none behind it.
    pub(crate) async fn run(self, faults: &Faults) {
        contained("handler", self.handle(faults)).await;
    }

    async fn handle(mut self, faults: &Faults) {
        let Some(context) = self.context.take() else { return };
        let channel = context.channel().clone();
        let (begun, running) = (Instant::now(), faults.begin());
        let (span, trace) = (span(&context), context.trace());
        let handling = (self.handler)(context);
        let handling = match trace {
            Some(trace) => {
                trace.tell("taken by a handler", channel.non_local());
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
        metrics::histogram!("channel_layer_worker_seconds", "channel" => channel.non_local().to_owned())
            .record(begun.elapsed().as_secs_f64());
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if let Some(context) = self.context.take() {
            self.unbegun.lock().push(context.into_parts());
        }
    }
}

impl Ordered for Job {
    fn comes_before(&self, other: &Self) -> bool {
        matches!((self.order, other.order), (Some(this), Some(other)) if this < other)
    }

    /// A client may send as many frames as it likes; of everything else there is little for each.
    fn is_bounded(&self) -> bool {
        self.is_frame
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
