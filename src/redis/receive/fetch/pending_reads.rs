//! `PendingReads`: the reads of several fetch loops that are under way.

use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use tokio_util::sync::CancellationToken;

use crate::redis::node::fault::Fault;
use crate::redis::receive::fetch::fetch_loop::FetchLoop;
use crate::redis::receive::fetch::fetched::Read;

/// The reads under way. There are few, so each wake-up polls all of them. A `FuturesUnordered` would wake the task once
/// more after every poll that completes no read, which on an idle channel is at every message.
pub(crate) struct PendingReads<F>(Vec<Pin<Box<F>>>);

impl<F> Default for PendingReads<F> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<F: Future> PendingReads<F> {
    pub(crate) fn push(&mut self, read: F) {
        self.0.push(Box::pin(read));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Waits until a read has completed. Reads are polled in the order in which they began.
    pub(crate) async fn next(&mut self) -> F::Output {
        std::future::poll_fn(|cx| {
            for index in 0..self.0.len() {
                if let Poll::Ready(output) = self.0[index].as_mut().poll(cx) {
                    drop(self.0.remove(index));
                    return Poll::Ready(output);
                }
            }
            Poll::Pending
        })
        .await
    }
}

/// The result of a read, with the fetch loop that made it.
pub(crate) struct CompletedRead<'l> {
    pub(crate) fetch_loop: &'l mut FetchLoop,
    pub(crate) index: usize,
    pub(crate) result: Result<Option<Read>, Fault>,
}

/// Lets `fetch_loop` read. After a failed read, which is `fault`, it recovers instead, and the result is that of an
/// empty read.
pub(crate) async fn read_or_recover(
    fetch_loop: &mut FetchLoop,
    index: usize,
    missing: usize,
    fault: Option<Fault>,
    stop: Arc<CancellationToken>,
) -> CompletedRead<'_> {
    let result = match fault {
        None => fetch_loop.wait(missing, &stop).await,
        Some(fault) => fetch_loop.recover(&stop).await.then_some(None).ok_or(fault),
    };
    CompletedRead { fetch_loop, index, result }
}
