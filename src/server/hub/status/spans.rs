//! Traces through a hub: what a handler does is a step of one, and so is what is sent in it.

use std::future::Future;

use futures_util::future::Either;

use crate::server::hub::ClientId;
use crate::trace::TraceParent;

/// The step of a message to clients, if who sends it is at a place in a trace.
pub(crate) fn sending(channel: &str) -> Option<TraceParent> {
    let place = TraceParent::current()?.child();
    place.tell("sent to clients", channel);
    Some(place)
}

/// The steps of one client's handler; none if the hub does not trace.
#[derive(Debug)]
pub(crate) struct Steps {
    traced: bool,
    /// Where the client's request stands, until its handler is told of it.
    request: Option<TraceParent>,
}

impl Steps {
    pub(crate) fn new(traced: bool, request: Option<TraceParent>) -> Self {
        Self { traced, request }
    }

    /// Runs a method of the handler: the first one as a step of the trace of the client's request, others as new traces.
    pub(crate) fn run<F: Future>(&mut self, client: &ClientId, method: F) -> impl Future<Output = F::Output> + use<F> {
        if !self.traced {
            return Either::Left(method);
        }
        let place = self.request.take().map_or_else(TraceParent::root, TraceParent::child);
        place.tell("taken by a handler", client.channel().non_local());
        Either::Right(place.scope(method))
    }
}
