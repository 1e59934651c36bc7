//! Keeps this process in the groups of the rooms and users that it has members of.
//!
//! One task changes memberships, in rounds: what has changed is brought to the layer, many groups at a time and each of
//! them once, and what changes meanwhile waits for the next round. So an add and a discard of one group are never under
//! way together, however clients come and go.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::index::Index;
use super::names::{Audience, Names};
use crate::error::Error;
use crate::layer::ChannelLayer;

/// Groups changed at the same time.
const AT_ONCE: usize = 64;

/// When what failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// How long the groups may take that are left at the end.
const LEAVING: Duration = Duration::from_secs(5);

/// Renewals come at least this often; expiries may be days.
const RENEW_EVERY: Duration = Duration::from_hours(1);

pub(crate) struct Keeper {
    layer: Arc<dyn ChannelLayer>,
    names: Arc<Names>,
    index: Arc<Index>,
    /// Held to note a change, never across an await.
    pending: Mutex<Pending>,
    changed: Notify,
}

/// Shared by all who wait for one change.
type Outcome = Result<(), Arc<Error>>;

#[derive(Default)]
struct Pending {
    changed: HashSet<Audience>,
    waiting: Vec<(Audience, oneshot::Sender<Outcome>)>,
    lost: bool,
    /// Nothing will be changed any more.
    ended: bool,
}

/// What of the memberships that are held a round looks at, beside what has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    Changes,
    /// Those of which a change failed, too.
    Failures,
    /// All, before they expire.
    Renewal,
}

/// What is known of a group that this process was added to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Held {
    Member,
    /// A change failed, and may have taken place.
    Unknown,
}

/// How one change went.
struct Settled {
    audience: Audience,
    held: Option<Held>,
    result: Outcome,
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
            pending.waiting.push((audience, done));
        }
        self.changed.notify_one();
        settled.await.unwrap_or_else(|_ended| Err(Arc::new(Error::Closed)))
    }

    /// Notes that audiences have no members here any more.
    pub(crate) fn emptied(&self, audiences: impl IntoIterator<Item = Audience>) {
        let mut audiences = audiences.into_iter().peekable();
        if audiences.peek().is_some() {
            self.pending.lock().changed.extend(audiences);
            self.changed.notify_one();
        }
    }

    /// Notes that the layer has lost its groups.
    pub(crate) fn lost(&self) {
        self.pending.lock().lost = true;
        self.changed.notify_one();
    }

    /// Works until `stop`, and then leaves all groups.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        let every = renewal(self.layer.group_expiry());
        let mut held = HashMap::new();
        // Points in time, so that however much changes meanwhile they come.
        let (mut renewal, mut retry) = (Instant::now() + every, None::<Instant>);
        loop {
            tokio::select! {
                () = self.changed.notified() => {}
                () = sleep_until(retry.map_or(renewal, |retry| retry.min(renewal))) => {}
                () = stop.cancelled() => break,
            };
            let now = Instant::now();
            let scope = match retry {
                _ if now >= renewal => Scope::Renewal,
                Some(retry) if now >= retry => Scope::Failures,
                _ => Scope::Changes,
            };
            if scope == Scope::Renewal {
                renewal = now + every;
            }
            let failed = self.round(&mut held, scope).await.then(|| Instant::now() + RETRY);
            retry = if scope == Scope::Changes { retry.or(failed) } else { failed };
        }
        // Whoever waits is told by the drop.
        *self.pending.lock() = Pending { ended: true, ..Pending::default() };
        let leaving = held.into_keys().map(async |audience| {
            // A group that cannot be left forgets this process by itself.
            let _ =
                self.layer.group_discard(&self.names.group(audience.kind, &audience.name), self.names.member()).await;
        });
        let _ = timeout(LEAVING, stream::iter(leaving).for_each_concurrent(AT_ONCE, |left| left)).await;
    }

    /// Gives whether something failed.
    async fn round(&self, held: &mut HashMap<Audience, Held>, scope: Scope) -> bool {
        let Pending { changed: mut audiences, waiting, lost, .. } = std::mem::take(&mut *self.pending.lock());
        if lost {
            for (audience, held) in held.iter_mut() {
                self.index.set_subscribed(audience, false);
                *held = Held::Unknown;
            }
        }
        let looked_at = |held: &Held| match scope {
            Scope::Changes => lost,
            Scope::Failures => *held == Held::Unknown,
            Scope::Renewal => true,
        };
        audiences.extend(held.iter().filter(|(_, held)| looked_at(held)).map(|(audience, _)| audience.clone()));
        let mut waiters: HashMap<Audience, Vec<_>> = HashMap::new();
        for (audience, done) in waiting {
            audiences.insert(audience.clone());
            waiters.entry(audience).or_default().push(done);
        }
        let known: Vec<_> = audiences.into_iter().map(|audience| (held.get(&audience).copied(), audience)).collect();
        let settling = known.into_iter().map(|(known, audience)| self.settle(audience, known, scope));
        let mut settling = stream::iter(settling).buffer_unordered(AT_ONCE);
        let mut failures = Failures::default();
        while let Some(Settled { audience, held: now, result }) = settling.next().await {
            failures.note(&result);
            // At once: another group may take as long as the layer may.
            for done in waiters.remove(&audience).into_iter().flatten() {
                // Nobody may wait any more.
                let _ = done.send(result.clone());
            }
            match now {
                Some(now) => held.insert(audience, now),
                None => held.remove(&audience),
            };
        }
        failures.report()
    }

    /// Brings one group to what it should be.
    async fn settle(&self, audience: Audience, known: Option<Held>, scope: Scope) -> Settled {
        let group = self.names.group(audience.kind, &audience.name);
        let (held, result) = if self.index.retire(&audience) {
            match known {
                None => (None, Ok(())),
                Some(_) => match self.layer.group_discard(&group, self.names.member()).await {
                    Ok(()) => (None, Ok(())),
                    Err(error) => (Some(Held::Unknown), Err(error)),
                },
            }
        } else if known == Some(Held::Member) && scope != Scope::Renewal {
            (known, Ok(()))
        } else {
            match self.layer.group_add(&group, self.names.member()).await {
                Ok(()) => (Some(Held::Member), Ok(())),
                Err(error) => (Some(Held::Unknown), Err(error)),
            }
        };
        if held == Some(Held::Member) {
            self.index.set_subscribed(&audience, true);
        }
        Settled { audience, held, result: result.map_err(Arc::new) }
    }
}

/// What failed in one round.
#[derive(Default)]
struct Failures {
    first: Option<Arc<Error>>,
    groups: usize,
}

impl Failures {
    fn note(&mut self, result: &Outcome) {
        if let Err(error) = result {
            self.groups += 1;
            self.first.get_or_insert_with(|| error.clone());
        }
    }

    /// One line for all that failed together; gives whether there were any.
    fn report(self) -> bool {
        if let Some(error) = &self.first {
            let (error, groups): (&dyn std::error::Error, _) = (&**error, self.groups);
            tracing::warn!(error, groups, "groups could not be changed, trying again");
        }
        self.first.is_some()
    }
}
