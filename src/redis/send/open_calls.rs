//! `OpenCalls`: the calls that send to more than one channel. A closing layer refuses no part of a call that has begun.

use std::time::Duration;

use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// The open calls of a layer: those that have begun and not ended.
pub(crate) struct OpenCalls(TaskTracker);

impl OpenCalls {
    /// An empty set of calls, and a token that is cancelled when the queues may end: after `closing`, when no call is
    /// under way or `timeout` has passed. The timeout is needed because a caller may stop polling a call without
    /// dropping it.
    pub(crate) fn new(
        tasks: &TaskTracker,
        closing: &CancellationToken,
        timeout: Duration,
    ) -> (Self, CancellationToken) {
        let (calls, ending) = (TaskTracker::new(), CancellationToken::new());
        tasks.spawn(end_queues(calls.clone(), closing.clone(), timeout, ending.clone().drop_guard()));
        (Self(calls), ending)
    }

    /// Begins a call, which ends when the token is dropped. The queues accept messages until then. A call that begins
    /// before the layer closes is sent whole.
    pub(crate) fn begin(&self) -> TaskTrackerToken {
        self.0.token()
    }
}

async fn end_queues(calls: TaskTracker, closing: CancellationToken, timeout: Duration, ending: DropGuard) {
    closing.cancelled().await;
    calls.close();
    let _ = tokio::time::timeout(timeout, calls.wait()).await;
    drop(ending);
}
