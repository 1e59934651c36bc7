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
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::index::Index;
use super::names::{Audience, Names};
use crate::error::Error;
use crate::layer::ChannelLayer;

/// Groups changed at the same time.
const AT_ONCE: usize = 64;

/// When what failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

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
        self.pending.lock().waiting.push((audience, done));
        self.changed.notify_one();
        settled.await.unwrap_or_else(|_ended| Err(Arc::new(Error::Closed)))
    }

    /// Notes that audiences have no members here any more.
    pub(crate) fn emptied(&self, audiences: impl IntoIterator<Item = Audience>) {
        self.pending.lock().changed.extend(audiences);
        self.changed.notify_one();
    }

    /// Notes that the layer has lost its groups.
    pub(crate) fn lost(&self) {
        self.pending.lock().lost = true;
        self.changed.notify_one();
    }

    /// Works until `stop`, and then leaves all groups.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        let every = renewal(self.layer.group_expiry());
        let (mut held, mut renewed) = (HashMap::new(), Instant::now());
        loop {
            let failed = held.values().any(|held| *held == Held::Unknown);
            let next = if failed { Instant::now() + RETRY } else { renewed + every };
            let due = tokio::select! {
                () = self.changed.notified() => false,
                () = sleep_until(next) => true,
                () = stop.cancelled() => break,
            };
            if due {
                renewed = Instant::now();
            }
            self.round(&mut held, due).await;
        }
        let pending = std::mem::take(&mut *self.pending.lock());
        drop(pending.waiting);
        let leaving = held.into_keys().map(async |audience| {
            // A group that cannot be left forgets this process by itself.
            let _ =
                self.layer.group_discard(&self.names.group(audience.kind, &audience.name), self.names.member()).await;
        });
        stream::iter(leaving).for_each_concurrent(AT_ONCE, |left| left).await;
    }

    async fn round(&self, held: &mut HashMap<Audience, Held>, renew: bool) {
        let Pending { changed: mut audiences, waiting, lost } = std::mem::take(&mut *self.pending.lock());
        if lost {
            for (audience, held) in held.iter_mut() {
                self.index.set_subscribed(audience, false);
                *held = Held::Unknown;
            }
        }
        if lost || renew {
            audiences.extend(held.keys().cloned());
        }
        audiences.extend(waiting.iter().map(|(audience, _)| audience.clone()));
        let settling = audiences.into_iter().map(|audience| {
            let known = held.get(&audience).copied();
            self.settle(audience, known, renew)
        });
        let settled: Vec<_> = stream::iter(settling).buffer_unordered(AT_ONCE).collect().await;
        report(&settled);
        let mut results = HashMap::new();
        for Settled { audience, held: now, result } in settled {
            match now {
                Some(now) => held.insert(audience.clone(), now),
                None => held.remove(&audience),
            };
            results.insert(audience, result);
        }
        for (audience, done) in waiting {
            // Nobody may wait any more.
            let _ = done.send(results.get(&audience).cloned().unwrap_or(Ok(())));
        }
    }

    /// Brings one group to what it should be.
    async fn settle(&self, audience: Audience, known: Option<Held>, renew: bool) -> Settled {
        let group = self.names.group(audience.kind, &audience.name);
        let (held, result) = if self.index.retire(&audience) {
            match known {
                None => (None, Ok(())),
                Some(_) => match self.layer.group_discard(&group, self.names.member()).await {
                    Ok(()) => (None, Ok(())),
                    Err(error) => (Some(Held::Unknown), Err(error)),
                },
            }
        } else if known == Some(Held::Member) && !renew {
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

/// One line for all that failed together.
fn report(settled: &[Settled]) {
    let mut errors = settled.iter().filter_map(|settled| settled.result.as_ref().err());
    if let Some(error) = errors.next() {
        let groups = 1 + errors.count();
        tracing::warn!(error = &**error as &dyn std::error::Error, groups, "groups could not be changed, trying again");
    }
}
