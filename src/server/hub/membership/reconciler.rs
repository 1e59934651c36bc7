//! `MembershipReconciler`: keeps this process in the groups of its rooms and users.
//!
//! One task changes the memberships of many groups concurrently, with one change in flight for each group. So an add
//! and a discard of the same group are never in flight together. A caller that waits for a group is notified when its
//! change is done.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::{self, FuturesUnordered};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};
use crate::layer::ChannelLayer;
use crate::server::hub::membership::groups::{Groups, MembershipState, Outcome, Task, TaskOutcome, Waiters};
use crate::server::hub::membership::index::Index;
use crate::server::hub::names::{Audience, Names};
use crate::supervise::{contain, contained};

/// Name of the task in reports of panics.
const TASK: &str = "groups of the hub";

/// Longest time between renewals; the group expiry may be days.
const MAX_RENEWAL_INTERVAL: Duration = Duration::from_hours(1);

/// Maximum number of groups that are left concurrently at the end.
const MAX_LEAVES: usize = 64;

/// How long the end of the hub waits for the layer. A membership that is not removed in that time expires.
pub(crate) const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) struct MembershipReconciler {
    layer: Arc<dyn ChannelLayer>,
    names: Arc<Names>,
    index: Arc<Index>,
    /// Locked to record a request, never across an await.
    pending: Mutex<Pending>,
    changed: Notify,
}

/// Requests that the task has not seen yet.
#[derive(Default)]
struct Pending {
    emptied: HashSet<Audience>,
    requested: HashMap<Audience, Waiters>,
    lost: bool,
    /// Whether the task has ended.
    ended: bool,
}

/// Returns the time between renewals: a third of the group expiry at most.
pub(crate) fn renewal_interval(group_expiry: Duration) -> Duration {
    (group_expiry / 3).min(MAX_RENEWAL_INTERVAL)
}

impl MembershipReconciler {
    pub(crate) fn new(layer: Arc<dyn ChannelLayer>, names: Arc<Names>, index: Arc<Index>) -> Self {
        Self { layer, names, index, pending: Mutex::default(), changed: Notify::new() }
    }

    /// Waits until messages of other processes arrive for an audience that has members here.
    ///
    /// # Cancel safety
    ///
    /// When dropped, the messages arrive nevertheless while the audience has members.
    pub(crate) async fn subscribe(&self, audience: Audience) -> Outcome {
        let (done, result) = oneshot::channel();
        {
            let mut pending = self.pending.lock();
            if pending.ended {
                return Err(Arc::new(Error::Closed));
            }
            pending.requested.entry(audience).or_default().push(done);
        }
        self.changed.notify_one();
        result.await.unwrap_or_else(|_ended| Err(Arc::new(Error::Closed)))
    }

    /// Records that audiences have no members here any more.
    pub(crate) fn mark_empty(&self, audiences: impl IntoIterator<Item = Audience>) {
        let mut audiences = audiences.into_iter().peekable();
        // Most changes leave no audience empty.
        if audiences.peek().is_some() {
            self.pending.lock().mark_empty(audiences);
            self.changed.notify_one();
        }
    }

    /// Records that the layer lost its groups.
    pub(crate) fn groups_lost(&self) {
        self.pending.lock().lost = true;
        self.changed.notify_one();
    }

    /// Runs until `stop`. Then leaves all groups, for at most [`LEAVE_TIMEOUT`].
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut groups = Groups::new(renewal_interval(self.layer.group_expiry()));
        let mut in_flight = FuturesUnordered::new();
        loop {
            while let Some(task) = groups.next() {
                in_flight.push(self.run_task(task));
            }
            let due = groups.next_due();
            tokio::select! {
                () = self.changed.notified() => if contain(TASK, || self.take_pending(&mut groups)).is_none() {
                    // The requests that were not taken are still pending.
                    self.changed.notify_one();
                },
                Some((task, result)) = in_flight.next() => {
                    // After a panic, dropping the senders notifies the callers.
                    contain(TASK, || self.complete(&mut groups, task, result));
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => groups.queue_due(Instant::now()),
                () = stop.cancelled() => break,
            }
        }
        // Dropping the senders notifies the callers.
        *self.pending.lock() = Pending { ended: true, ..Pending::default() };
        let leaving = async {
            while let Some((task, result)) = in_flight.next().await {
                self.complete(&mut groups, task, result);
            }
            let joined = stream::iter(groups.into_joined());
            joined.for_each_concurrent(MAX_LEAVES, async |audience| drop(self.discard(&audience).await)).await;
        };
        if timeout(LEAVE_TIMEOUT, leaving).await.is_err() {
            tracing::warn!("not all groups could be left in time; the remaining memberships expire");
        }
    }

    /// Takes over the pending requests.
    fn take_pending(&self, groups: &mut Groups) {
        let Pending { emptied, requested, lost, .. } = std::mem::take(&mut *self.pending.lock());
        if lost {
            for audience in groups.groups_lost() {
                self.index.set_subscribed(&audience, false);
            }
        }
        for audience in emptied {
            groups.mark_empty(audience);
        }
        for (audience, waiting) in requested {
            groups.request(audience, waiting);
        }
    }

    /// Runs one task. A panic of the layer counts as a failure and is retried.
    async fn run_task(&self, task: Task) -> (Task, Result<MembershipState>) {
        let changed = contained("groups of the hub, in the layer", self.change(&task)).await;
        (task, changed.unwrap_or(Err(Error::Panicked)))
    }

    async fn change(&self, task: &Task) -> Result<MembershipState> {
        if self.index.retire(&task.audience) {
            if task.state != MembershipState::Absent {
                self.discard(&task.audience).await?;
            }
            return Ok(MembershipState::Absent);
        }
        if task.state != MembershipState::Member || task.renew {
            let group = self.names.group(task.audience.kind, &task.audience.name);
            self.layer.group_add(&group, self.names.member()).await?;
        }
        Ok(MembershipState::Member)
    }

    async fn discard(&self, audience: &Audience) -> Result<()> {
        self.layer.group_discard(&self.names.group(audience.kind, &audience.name), self.names.member()).await
    }

    /// Records the result of a task and notifies its callers. The start and the end of an outage are logged once.
    fn complete(&self, groups: &mut Groups, task: Task, result: Result<MembershipState>) {
        let audience = task.audience.clone();
        let failing_before = groups.failing();
        let TaskOutcome { subscribed, waiting, outcome } = groups.complete(task, result, Instant::now());
        match &outcome {
            Err(error) if failing_before == 0 => {
                let error = &**error as &dyn std::error::Error;
                tracing::warn!(error, "cannot change the membership of a group, retrying");
            }
            Ok(()) if failing_before > 0 && groups.failing() == 0 => {
                tracing::info!("all group memberships are up to date again");
            }
            _ => {}
        }
        if subscribed {
            self.index.set_subscribed(&audience, true);
        }
        for done in waiting {
            // Fails only if the caller has stopped waiting.
            let _ = done.send(outcome.clone());
        }
    }
}

impl Pending {
    fn mark_empty(&mut self, audiences: impl Iterator<Item = Audience>) {
        if !self.ended {
            self.emptied.extend(audiences);
        }
    }
}
