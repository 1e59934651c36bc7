//! Reads by several lanes at once.

use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use tokio_util::sync::CancellationToken;

use crate::redis::node::fault::Fault;
use crate::redis::receive::fetch::fetch_loop::{FetchLoop, Read};

/// Reads under way. They are few, so that all are asked when one may have ended. A `FuturesUnordered` would wake the task
/// once more whenever it has asked all in vain, which on an idle channel is at every message.
pub(crate) struct Reads<F>(pub(crate) Vec<Pin<Box<F>>>);

impl<F: Future> Reads<F> {
    /// Waits until one has ended; the one that began last is asked last.
    pub(crate) async fn next(&mut self) -> F::Output {
        std::future::poll_fn(|cx| {
            for place in 0..self.0.len() {
                if let Poll::Ready(output) = self.0[place].as_mut().poll(cx) {
                    drop(self.0.remove(place));
                    return Poll::Ready(output);
                }
            }
            Poll::Pending
        })
        .await
    }
}

/// How a read by one lane ended, with the lane.
pub(crate) struct Report<'l> {
    pub(crate) lane: &'l mut FetchLoop,
    pub(crate) place: usize,
    pub(crate) result: Result<Option<Read>, Fault>,
}

/// Lets `lane` read; one that failed recovers first, which counts as a read that brought nothing.
pub(crate) async fn wait(
    lane: &mut FetchLoop,
    place: usize,
    missing: usize,
    failed: Option<Fault>,
    stop: Arc<CancellationToken>,
) -> Report<'_> {
    let result = match failed {
        None => lane.wait(missing, &stop).await,
        Some(fault) => lane.recover(&stop).await.then_some(None).ok_or(fault),
    };
    Report { lane, place, result }
}
