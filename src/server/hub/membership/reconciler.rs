//! Keeps this process in the groups of the rooms and users that it has members of.
//!
//! One task changes memberships, many groups at a time and each of them once, so that an add and a discard of one group are
//! never under way together, however clients come and go. Who waits for a group is answered when that group is done.

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
use crate::server::hub::membership::groups::{Groups, Held, Outcome, Settled, Task, Waiting};
use crate::server::hub::membership::index::Index;
use crate::server::hub::names::{Audience, Names};
use crate::supervise::{contain, contained};

/// The task that changes memberships.
const TASK: &str = "groups of the hub";

/// Renewals come at least this often; expiries may be days.
const RENEW_EVERY: Duration = Duration::from_hours(1);

/// Groups left at the same time, in the end.
const LEFT_AT_ONCE: usize = 64;

/// How long the end waits for the layer. A group that is not left forgets this process by itself.
pub(crate) const LEAVE_WITHIN: Duration = Duration::from_secs(5);

pub(crate) struct Keeper {
    layer: Arc<dyn ChannelLayer>,
    names: Arc<Names>,
    index: Arc<Index>,
    /// Held to note a change, never across an await.
    pending: Mutex<Pending>,
    changed: Notify,
}

/// What was asked for and the task has not seen yet.
#[derive(Default)]
struct Pending {
    emptied: HashSet<Audience>,
    wanted: HashMap<Audience, Waiting>,
    lost: bool,
    /// There is no task any more.
    ended: bool,
}

/// How often memberships are renewed: thrice before they end.
pub(crate) fn renewal(group_expiry: Duration) -> Duration {
    (group_expiry / 3).min(RENEW_EVERY)
}

impl Keeper {
    pub(crate) fn new(layer: Arc<dyn ChannelLayer>, names: Arc<Names>, index: Arc<Index>) -> Self {
        Self { layer, names, index, pending: Mutex::default(), changed: Notify::new() }
    }

    /// Waits until messages of other processes come for an audience that has members here.
    ///
    /// # Cancel safety
    ///
    /// When dropped, they come all the same, for as long as there are members.
    pub(crate) async fn subscribe(&self, audience: Audience) -> Outcome {
        let (done, settled) = oneshot::channel();
        {
            let mut pending = self.pending.lock();
            if pending.ended {
                return Err(Arc::new(Error::Closed));
            }
            pending.wanted.entry(audience).or_default().push(done);
        }
        self.changed.notify_one();
        settled.await.unwrap_or_else(|_ended| Err(Arc::new(Error::Closed)))
    }

    /// Notes that audiences have no members here any more.
    pub(crate) fn emptied(&self, audiences: impl IntoIterator<Item = Audience>) {
        let mut audiences = audiences.into_iter().peekable();
        // Most who come and go leave nothing empty.
        if audiences.peek().is_some() {
            self.pending.lock().note_emptied(audiences);
            self.changed.notify_one();
        }
    }

    /// Notes that the layer has lost its groups.
    pub(crate) fn lost(&self) {
        self.pending.lock().lost = true;
        self.changed.notify_one();
    }

    /// Works until `stop`, and then leaves all groups, for some seconds at the longest.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut groups = Groups::new(renewal(self.layer.group_expiry()));
        let mut under_way = FuturesUnordered::new();
        loop {
            while let Some(task) = groups.next() {
                under_way.push(self.carry_out(task));
            }
            let due = groups.next_due();
            tokio::select! {
                () = self.changed.notified() => if contain(TASK, || self.look(&mut groups)).is_none() {
                    // What it had not taken over yet.
                    self.changed.notify_one();
                },
                Some((task, result)) = under_way.next() => {
                    // Whoever waits is told by the drop.
                    contain(TASK, || self.conclude(&mut groups, task, result));
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => groups.fall_due(Instant::now()),
                () = stop.cancelled() => break,
            }
        }
        // Whoever waits is told by the drop.
        *self.pending.lock() = Pending { ended: true, ..Pending::default() };
        let leaving = async {
            while let Some((task, result)) = under_way.next().await {
                self.conclude(&mut groups, task, result);
            }
            let held = stream::iter(groups.into_held());
            held.for_each_concurrent(LEFT_AT_ONCE, async |audience| drop(self.discard(&audience).await)).await;
        };
        if timeout(LEAVE_WITHIN, leaving).await.is_err() {
            tracing::warn!("groups could not be left in time, and forget this process when its memberships expire");
        }
    }

    /// Takes over what was asked for.
    fn look(&self, groups: &mut Groups) {
        let Pending { emptied, wanted, lost, .. } = std::mem::take(&mut *self.pending.lock());
        if lost {
            for audience in groups.lost() {
                self.index.set_subscribed(&audience, false);
            }
        }
        for audience in emptied {
            groups.emptied(audience);
        }
        for (audience, waiting) in wanted {
            groups.want(audience, waiting);
        }
    }

    /// Brings one group to what it should be. A panic of the layer is a failure, after which it is tried again.
    async fn carry_out(&self, task: Task) -> (Task, Result<Held>) {
        let changed = contained("groups of the hub, in the layer", self.change(&task)).await;
        (task, changed.unwrap_or(Err(Error::Panicked)))
    }

    async fn change(&self, task: &Task) -> Result<Held> {
        if self.index.retire(&task.audience) {
            if task.held != Held::No {
                self.discard(&task.audience).await?;
            }
            return Ok(Held::No);
        }
        if task.held != Held::Member || task.renew {
            let group = self.names.group(task.audience.kind, &task.audience.name);
            self.layer.group_add(&group, self.names.member()).await?;
        }
        Ok(Held::Member)
    }

    async fn discard(&self, audience: &Audience) -> Result<()> {
        self.layer.group_discard(&self.names.group(audience.kind, &audience.name), self.names.member()).await
    }

    /// Notes how a group is now, and tells those who waited. An outage is logged once, and so is its end.
    fn conclude(&self, groups: &mut Groups, task: Task, result: Result<Held>) {
        let audience = task.audience.clone();
        let failing_before = groups.failing();
        let Settled { subscribed, waiting, outcome } = groups.settle(task, result, Instant::now());
        match &outcome {
            Err(error) if failing_before == 0 => {
                let error = &**error as &dyn std::error::Error;
                tracing::warn!(error, "a group could not be changed, trying again; so are others from now on");
            }
            Ok(()) if failing_before > 0 && groups.failing() == 0 => tracing::info!("all groups are as they should be"),
            _ => {}
        }
        if subscribed {
            self.index.set_subscribed(&audience, true);
        }
        for done in waiting {
            // Nobody may wait any more.
            let _ = done.send(outcome.clone());
        }
    }
}

impl Pending {
    fn note_emptied(&mut self, audiences: impl Iterator<Item = Audience>) {
        if !self.ended {
            self.emptied.extend(audiences);
        }
    }
}
