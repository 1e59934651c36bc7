//! `Spans`: the trace spans of a client's handler, and of messages to clients.

use std::future::Future;

use futures_util::future::Either;

use crate::server::hub::ClientId;
use crate::trace::TraceParent;

/// Returns a span for a message to clients, if the sender is in a span.
pub(crate) fn sending(channel: &str) -> Option<TraceParent> {
    let span = TraceParent::current()?.child();
    span.record("sent to clients", channel);
    Some(span)
}

/// The spans of one client's handler; none if the hub does not trace.
#[derive(Debug)]
pub(crate) struct Spans {
    traced: bool,
    /// The span of the client's request, until `connect` takes it.
    request: Option<TraceParent>,
}

impl Spans {
    pub(crate) fn new(traced: bool, request: Option<TraceParent>) -> Self {
        Self { traced, request }
    }

    /// Runs a method of the handler: the first one in a child span of the client's request, each later one in a new
    /// trace.
    pub(crate) fn run<F: Future>(&mut self, client: &ClientId, method: F) -> impl Future<Output = F::Output> + use<F> {
        if !self.traced {
            return Either::Left(method);
        }
        let span = self.request.take().map_or_else(TraceParent::root, TraceParent::child);
        span.record("taken by a handler", client.channel().non_local());
        Either::Right(span.scope(method))
    }
}
