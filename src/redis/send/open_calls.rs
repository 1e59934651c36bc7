//! `OpenCalls`: the calls that send to more than one channel. A closing layer refuses no part of a call that has begun.

use std::time::Duration;

use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::batch::SendOutcome;
use crate::drops::{self, DropReason};
use crate::error::{Error, Result};
use crate::layer::Parts;
use crate::redis::topology::places::Places;

/// The open calls of a layer: those that have begun and not ended.
pub(crate) struct OpenCalls(TaskTracker);

impl OpenCalls {
    /// An empty set of calls, and a token that is cancelled when the queues may end: after `closing`, when no call is under way
    /// or `timeout` has passed. The timeout is needed because a caller may stop polling a call without dropping it.
    pub(crate) fn new(
        tasks: &TaskTracker,
        closing: &CancellationToken,
        timeout: Duration,
    ) -> (Self, CancellationToken) {
        let (calls, ending) = (TaskTracker::new(), CancellationToken::new());
        tasks.spawn(end_queues(calls.clone(), closing.clone(), timeout, ending.clone().drop_guard()));
        (Self(calls), ending)
    }

    /// Begins a call, which ends when the token is dropped. The queues accept messages until then. A call that begins before
    /// the layer closes is sent whole.
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

/// Collects the outcomes of the parts of a group send into its result.
#[derive(Default)]
pub(crate) struct GroupSendResult(Parts);

impl GroupSendResult {
    /// Adds the outcome of one part, and counts the part as dropped if it was not sent. A full channel is no error.
    pub(crate) fn add(&mut self, places: &Places, outcome: SendOutcome) {
        match outcome {
            SendOutcome::Sent => self.0.add(Ok(())),
            SendOutcome::Full => drops::count(DropReason::Full, 1),
            SendOutcome::Failed { shard, fault } => {
                let reason = fault.drop_reason();
                self.0.add(Err(places.error(shard, fault)));
                drops::count(reason, 1);
            }
            SendOutcome::Closed => {
                self.0.add(Err(Error::Closed));
                drops::count(DropReason::Closed, 1);
            }
        }
    }

    /// The result of the call.
    pub(crate) fn result(self) -> Result<()> {
        self.0.result()
    }
}

#[cfg(test)]
mod tests {
    use metrics_util::debugging::DebuggingRecorder;

    use super::*;
    use crate::redis::topology::ring::Ring;

    #[test]
    fn a_part_that_a_closed_queue_refuses_counts_as_closed() {
        let recorder = DebuggingRecorder::new();
        let _recording = metrics::set_default_local_recorder(&recorder);
        let places = Places::new(Vec::new(), Ring::crc(0));
        let mut result = GroupSendResult::default();
        result.add(&places, SendOutcome::Sent);
        result.add(&places, SendOutcome::Closed);
        assert!(result.result().expect_err("a part was refused").may_have_run());
        assert_eq!(drops::recorded(&recorder), [("closed".to_owned(), 1)]);
    }
}
