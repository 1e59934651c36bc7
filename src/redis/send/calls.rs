//! Calls that send to more than one channel: when the layer closes, no part of one is refused.

use std::time::Duration;

use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::batch::Outcome;
use crate::drops::{self, DropReason};
use crate::error::{Error, Result};
use crate::layer::Parts;
use crate::redis::topology::places::Places;

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
pub(crate) struct Sends(Parts);

impl Sends {
    /// Notes what became of one; a full channel is counted and is no error.
    pub(crate) fn add(&mut self, places: &Places, outcome: Outcome) {
        match outcome {
            Outcome::Sent => self.0.add(Ok(())),
            Outcome::Full => drops::count(DropReason::Full, 1),
            Outcome::Failed { shard, fault } => {
                drops::count(DropReason::ShardDown, 1);
                self.0.add(Err(places.error(shard, fault)));
            }
            Outcome::Closed => self.0.add(Err(Error::Closed)),
        }
    }

    /// The result of the call.
    pub(crate) fn result(self) -> Result<()> {
        self.0.result()
    }
}
