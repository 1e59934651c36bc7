//! Calls that send to more than one channel: when the layer closes, no part of one is refused.

use std::time::Duration;

use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::batch::Outcome;
use super::fault::Fault;
use crate::drops::{self, DropReason};
use crate::error::{Error, Result};

/// Those of a layer that are under way.
pub(crate) struct Calls(TaskTracker);

impl Calls {
    /// None yet, and what is cancelled when lanes may end: when `closing`, once none is under way, or after `patience`.
    /// Somebody may hold one and not go on with it, and nobody is to wait for that.
    pub(crate) fn new(
        tasks: &TaskTracker,
        closing: &CancellationToken,
        patience: Duration,
    ) -> (Self, CancellationToken) {
        let (calls, ending) = (TaskTracker::new(), CancellationToken::new());
        tasks.spawn(end_lanes(calls.clone(), closing.clone(), patience, ending.clone().drop_guard()));
        (Self(calls), ending)
    }

    /// Lets the lanes go on until what this gives has been dropped. If the layer is open when somebody has it, all that is
    /// posted meanwhile is sent.
    pub(crate) fn begin(&self) -> TaskTrackerToken {
        self.0.token()
    }
}

async fn end_lanes(calls: TaskTracker, closing: CancellationToken, patience: Duration, lanes: DropGuard) {
    closing.cancelled().await;
    calls.close();
    let _ = tokio::time::timeout(patience, calls.wait()).await;
    drop(lanes);
}

/// What became of the parts of a group message.
#[derive(Default)]
pub(crate) struct Parts {
    /// Whether one of them was sent, or may have been.
    some_sent: bool,
    /// The first failure.
    failed: Option<(usize, Fault)>,
    closed: Option<usize>,
}

impl Parts {
    /// Notes what became of one; a full channel is counted and is no error.
    pub(crate) fn add(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Sent => self.some_sent = true,
            Outcome::Full => drops::count(DropReason::Full, 1),
            Outcome::Failed { shard, fault } => {
                drops::count(DropReason::ShardDown, 1);
                self.some_sent |= fault.may_have_run;
                self.failed.get_or_insert((shard, fault));
            }
            Outcome::Closed { shard } => self.closed = Some(shard),
        }
    }

    /// What the call gives.
    pub(crate) fn result(self) -> Result<()> {
        match (self.failed, self.closed) {
            (Some((shard, fault)), _) => Err(fault.of_a_part(self.some_sent).into_error(shard)),
            (None, Some(shard)) if self.some_sent => Err(Fault::cut_off().into_error(shard)),
            (None, Some(_)) => Err(Error::Closed),
            (None, None) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(outcomes: impl IntoIterator<Item = Outcome>) -> Result<()> {
        let mut parts = Parts::default();
        outcomes.into_iter().for_each(|outcome| parts.add(outcome));
        parts.result()
    }

    fn failed() -> Outcome {
        Outcome::Failed { shard: 1, fault: Fault::unexpected("none").before_sending() }
    }

    fn closed() -> Outcome {
        Outcome::Closed { shard: 0 }
    }

    #[test]
    fn a_message_that_reached_nobody_fails_as_if_it_had_not_been_sent() {
        assert!(matches!(result([closed(), closed()]), Err(Error::Closed)));
        let error = result([failed(), closed()]).unwrap_err();
        assert!(matches!(error, Error::Redis { shard: 1, .. }) && !error.may_have_run(), "{error:?}");
    }

    #[test]
    fn a_message_that_reached_some_may_have_run() {
        for others in [closed(), failed()] {
            let error = result([Outcome::Sent, others]).unwrap_err();
            assert!(matches!(error, Error::Redis { .. }) && error.may_have_run(), "{error:?}");
        }
        assert!(result([Outcome::Sent, Outcome::Full]).is_ok());
    }
}
