//! `Managers`: the subscription managers of all servers, and which of them has the subscriptions of a place.
//!
//! A *place* is a server, or in a cluster a [`Partition`], which moves between servers ([`moving`]). Both have an
//! index. Names are hashed to places, and all subscriptions of a place are with one manager.

pub(crate) mod moving;
pub(crate) mod partition;
pub(crate) mod unserved;

use std::sync::Arc;

use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::sync::{MutexGuard, OwnedRwLockReadGuard, watch};
use tokio::time::Instant;

use self::moving::Leaving;
use self::partition::Partition;
use self::unserved::{Refusal, Unserved};
use super::topic::Subscription;
use crate::config::Fallback;
use crate::error::{Error, Result};
use crate::redis::node::fault::Fault;
use crate::redis::node::shard::Shard;
use crate::redis::pubsub::subscribe::manager::{Reachability, SubscriptionManager};
use crate::redis::topology::places::Places;

/// The managers of a layer.
pub(crate) struct Managers {
    /// By the number of the shard. Managers are only added, when a cluster grows.
    all: boxcar::Vec<Arc<SubscriptionManager>>,
    places: Arc<Places>,
    create: Create,
    /// Of each partition of a cluster; empty outside of a cluster. Held only to read or change it, together with the
    /// subscriptions of managers.
    partitions: Mutex<Vec<Assignment>>,
    /// By partition; empty outside of a cluster. Held while a batch is published, so that the subscriptions end behind
    /// it.
    publishing: Vec<tokio::sync::Mutex<()>>,
    unserved: Arc<Unserved>,
    /// Counts the changes of assignments.
    changes: watch::Sender<u64>,
}

/// Creates the manager of a shard.
type Create = Box<dyn Fn(&Arc<Shard>) -> Arc<SubscriptionManager> + Send + Sync>;

/// Where the subscriptions of a partition are.
enum Assignment {
    /// They end at the former server.
    Leaving(Leaving),
    /// The manager with this number has them, and waits for the answers of its server.
    Arriving(usize),
    /// A manager has them.
    Settled(Settled),
}

/// A manager that has the subscriptions of a partition.
struct Settled {
    /// Its number.
    manager: usize,
    since: Instant,
    /// Since when the layout gives the partition to another one.
    doubted: Option<Instant>,
    /// Whether the partition leaves it when the batch under way has been published.
    leaves: bool,
}

impl Settled {
    fn now(manager: usize) -> Self {
        Self { manager, since: Instant::now(), doubted: None, leaves: false }
    }
}

/// The turn of a batch to be published at a place.
pub(crate) struct Turn<'m> {
    pub(crate) manager: Arc<SubscriptionManager>,
    pub(crate) reachability: Reachability,
    /// Keeps a partition of a cluster where it is, and its connection.
    _stays: Option<(MutexGuard<'m, ()>, OwnedRwLockReadGuard<()>)>,
}

impl Assignment {
    fn manager(&self) -> Option<usize> {
        match self {
            Self::Leaving(_) => None,
            Self::Arriving(manager) | Self::Settled(Settled { manager, .. }) => Some(*manager),
        }
    }

    fn settled(&self) -> Option<usize> {
        match self {
            Self::Settled(settled) => Some(settled.manager),
            _ => None,
        }
    }
}

impl Managers {
    /// The managers of the shards of `places`, which `create` creates.
    pub(crate) fn new(
        places: Arc<Places>,
        unserved: Arc<Unserved>,
        create: impl Fn(&Arc<Shard>) -> Arc<SubscriptionManager> + Send + Sync + 'static,
    ) -> Self {
        let (create, changes) = (Box::new(create), watch::Sender::new(0));
        let movable = if places.is_cluster() { Partition::COUNT } else { 0 };
        let publishing = (0..movable).map(|_| tokio::sync::Mutex::default()).collect();
        let (all, partitions) = (boxcar::Vec::new(), Mutex::default());
        let managers = Self { all, places, create, partitions, publishing, unserved, changes };
        managers.add_new();
        if let Some(cluster) = managers.places.cluster() {
            // The first manager gets what has no other yet, until the cluster is followed.
            let number = |partition: Partition| Some(cluster.shard_of(partition.slot())).filter(|&it| managers.has(it));
            let assigned = |partition| Assignment::Settled(Settled::now(number(partition).unwrap_or_default()));
            *managers.partitions.lock() = Partition::all().map(assigned).collect();
        }
        managers
    }

    /// Adds the managers of shards that are new in the cluster. Returns them.
    fn add_new(&self) -> Vec<Arc<SubscriptionManager>> {
        self.places.add_new_shards();
        let added = (self.all.count()..self.places.count()).map(|number| {
            let manager = (self.create)(self.places.shard(number));
            self.all.push(manager.clone());
            manager
        });
        added.collect()
    }

    fn has(&self, number: usize) -> bool {
        number < self.all.count()
    }

    /// All managers.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<SubscriptionManager>> {
        self.all.iter().map(|(_, manager)| manager)
    }

    /// Whether messages stay in this process during an outage.
    pub(crate) fn fallback(&self) -> Fallback {
        self.all().next().map_or(Fallback::Local, |manager| manager.fallback)
    }

    /// The manager of a shard.
    pub(crate) fn of_shard(&self, shard: usize) -> Option<&Arc<SubscriptionManager>> {
        self.all.get(shard)
    }

    /// The number of the shard at `place` now.
    pub(crate) fn shard_at(&self, place: usize) -> usize {
        self.places.cluster().map_or(place, |cluster| cluster.shard_of(Partition::at(place).slot()))
    }

    /// Whether a shard is at any place.
    pub(crate) fn is_used(&self, shard: usize) -> bool {
        self.places.cluster().is_none() || Partition::all().any(|place| self.shard_at(place.index()) == shard)
    }

    /// Begins `subscription` at `place`.
    pub(crate) fn add(&self, place: usize, subscription: &Subscription) {
        let mut partitions = self.partitions.lock();
        match partitions.get_mut(place) {
            Some(Assignment::Leaving(leaving)) => drop(leaving.kept.insert(subscription.clone())),
            assigned => drop(self.number(place, assigned.as_deref()).add(subscription)),
        }
    }

    /// Ends `subscription` at `place`.
    pub(crate) fn remove(&self, place: usize, subscription: &Subscription) {
        let mut partitions = self.partitions.lock();
        match partitions.get_mut(place) {
            Some(Assignment::Leaving(leaving)) => drop(leaving.kept.remove(subscription)),
            assigned => self.number(place, assigned.as_deref()).remove(subscription),
        }
    }

    /// The manager of a place with this assignment, which is `None` outside of a cluster.
    fn number(&self, place: usize, assigned: Option<&Assignment>) -> &SubscriptionManager {
        &self.all[assigned.and_then(Assignment::manager).unwrap_or(place)]
    }

    /// The manager that `which` returns for the assignment of `place`, or outside of a cluster its only one.
    fn assigned(&self, place: usize, which: fn(&Assignment) -> Option<usize>) -> Option<Arc<SubscriptionManager>> {
        let number = self.partitions.lock().get(place).map_or(Some(place), which);
        number.map(|number| self.all[number].clone())
    }

    /// Waits until there is a manager that `which` returns for the assignment of `place`.
    async fn wait_for(&self, place: usize, which: fn(&Assignment) -> Option<usize>) -> Arc<SubscriptionManager> {
        let mut changes = self.changes.subscribe();
        loop {
            changes.borrow_and_update();
            if let Some(manager) = self.assigned(place, which) {
                return manager;
            }
            // The sender lives in `self`, so that the wait cannot fail.
            let _ = changes.changed().await;
        }
    }

    /// Waits until `place` has another manager than `before`, or none.
    pub(crate) async fn reassigned(&self, place: usize, before: &Arc<SubscriptionManager>) {
        let mut changes = self.changes.subscribe();
        let is_same = |manager: Arc<SubscriptionManager>| Arc::ptr_eq(&manager, before);
        let is_assigned = |_: &u64| self.assigned(place, Assignment::manager).is_some_and(is_same);
        let _ = changes.wait_for(|changes| !is_assigned(changes)).await;
    }

    /// Calls `ask` with the manager of `place`, and again whenever that is another one, until it returns.
    async fn ask<F: Future>(&self, place: usize, ask: impl Fn(Arc<SubscriptionManager>) -> F) -> F::Output {
        loop {
            let manager = self.wait_for(place, Assignment::manager).await;
            tokio::select! {
                answer = ask(manager.clone()) => return answer,
                () = self.reassigned(place, &manager) => {}
            }
        }
    }

    /// Waits until the server at `place` has answered `subscription`, which has been added. If messages stay in this
    /// process, does not wait for an unreachable server, nor for longer than a command may take for a server that
    /// serves the place. Returns at once if the subscription has been removed.
    ///
    /// # Errors
    ///
    /// [`Error::Redis`] if the server refused, or if no server is reachable and messages do not stay in this process.
    pub(crate) async fn confirmed(&self, place: usize, subscription: &Subscription) -> Result<()> {
        let confirming = self.ask(place, |manager| async move {
            match manager.confirmed(subscription).await {
                Some(confirmed) => confirmed,
                None if self.has_removed(place, &manager, subscription) => Ok(()),
                // The next manager has it.
                None => std::future::pending().await,
            }
        });
        tokio::select! {
            biased;
            confirmed = confirming => confirmed,
            refusal = self.wait_until_unserved(place) => match self.fallback() {
                Fallback::Local => Ok(()),
                Fallback::Fail => Err(self.places.error(refusal.shard, refusal.fault)),
            },
        }
    }

    /// Whether `manager` has the subscriptions of `place`, and `subscription` is none of them.
    fn has_removed(&self, place: usize, manager: &Arc<SubscriptionManager>, subscription: &Subscription) -> bool {
        let partitions = self.partitions.lock();
        let number = partitions.get(place).map_or(Some(place), Assignment::manager);
        number.is_some_and(|number| Arc::ptr_eq(&self.all[number], manager)) && !manager.has(subscription)
    }

    /// Waits until the server at `place` has refused `subscription`. Never returns if it does not.
    pub(crate) async fn refused(&self, place: usize, subscription: &Subscription) -> Error {
        self.ask(place, |manager| async move { manager.refused(subscription).await }).await
    }

    /// Waits until the server at `place` is unreachable, or until no server has served the place for longer than a
    /// command may take. Returns why.
    pub(crate) async fn outage(&self, place: usize) -> Error {
        tokio::select! {
            error = self.ask(place, |manager| async move { manager.outage().await }) => error,
            refusal = self.wait_until_unserved(place) => self.places.error(refusal.shard, refusal.fault),
        }
    }

    /// Waits until messages arrive from the server at `place`.
    pub(crate) async fn reachable(&self, place: usize) {
        self.ask(place, |manager| async move { manager.reachable().await }).await;
        if self.places.is_cluster() {
            self.unserved.wait_until_served(Partition::at(place)).await;
        }
    }

    /// Waits until messages for `place` can be published or stay in this process. No partition moves before the turn is
    /// dropped.
    ///
    /// # Errors
    ///
    /// The last answer, if no server has served the place for longer than a command may take, and the manager of the
    /// server that has answered.
    pub(crate) async fn turn(&self, place: usize) -> Result<Turn<'_>, (Arc<SubscriptionManager>, Fault)> {
        tokio::select! {
            biased;
            turn = self.next_turn(place) => Ok(turn),
            refusal = self.wait_until_unserved(place) => Err((self.all[refusal.shard].clone(), refusal.fault)),
        }
    }

    async fn next_turn(&self, place: usize) -> Turn<'_> {
        loop {
            let manager = self.wait_for(place, Assignment::settled).await;
            tokio::select! {
                () = manager.accepting(place) => {}
                () = self.reassigned(place, &manager) => continue,
            }
            let stays = match self.publishing.get(place) {
                Some(publishing) => Some((publishing.lock().await, manager.publishing.clone().read_owned().await)),
                None => None,
            };
            let reachability = manager.reachability();
            let is_here = self.assigned(place, Assignment::settled).is_some_and(|now| Arc::ptr_eq(&now, &manager));
            if is_here && manager.accepts(place, &reachability) {
                return Turn { manager, reachability, _stays: stays };
            }
        }
    }

    /// The last answer at `place`, if no server has served it for longer than a command may take.
    pub(crate) fn unserved(&self, place: usize) -> Option<Refusal> {
        self.places.is_cluster().then(|| self.unserved.expired(Partition::at(place))).flatten()
    }

    /// The shards of all places that no server has served for longer than a command may take, and the errors.
    pub(crate) fn all_unserved(&self) -> impl Iterator<Item = (usize, Error)> {
        let refusals = self.unserved.all_expired().into_iter();
        refusals.map(|refusal| (refusal.shard, self.places.error(refusal.shard, refusal.fault)))
    }

    async fn wait_until_unserved(&self, place: usize) -> Refusal {
        if !self.places.is_cluster() {
            return std::future::pending().await;
        }
        self.unserved.wait_until_expired(Partition::at(place)).await
    }

    /// Waits until all messages have arrived that were published before the call.
    pub(crate) async fn catch_up(&self) {
        join_all(self.all().map(|manager| manager.catch_up())).await;
    }

    /// Waits until all messages for `place` have arrived that were published before the call.
    pub(crate) async fn catch_up_at(&self, place: usize) {
        self.ask(place, |manager| async move { manager.catch_up().await }).await;
    }

    /// The error of a call for `place` that failed with `fault`.
    pub(crate) fn error(&self, place: usize, fault: Fault) -> Error {
        self.places.error(self.shard_at(place), fault)
    }
}
