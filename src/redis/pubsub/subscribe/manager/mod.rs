//! `SubscriptionManager`: the desired subscriptions on one server, and whether published messages arrive from it.
//!
//! Other code changes the desired subscriptions and waits until they are in force. The task in `session` brings the
//! server to that state, again after each reconnect. `changes` sends what has changed.

mod changes;
mod session;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, RwLock, broadcast, watch};
use tokio::time::Instant;
use tracing::warn;

use crate::config::Fallback;
use crate::error::{Error, Result};
use crate::layer::{Event, Modes};
use crate::redis::node::cluster::Redirect;
use crate::redis::node::connection::Timing;
use crate::redis::node::fault::Fault;
use crate::redis::node::shard::Shard;
use crate::redis::pubsub::managers::partition::Partition;
use crate::redis::pubsub::managers::unserved::Unserved;
use crate::redis::pubsub::subscribe::desired::{ChangeNumber, DesiredSubscriptions};
use crate::redis::pubsub::subscribe::subscriber::Subscriber;
use crate::redis::pubsub::topic::Subscription;
use crate::redis::topology::places::Places;
use crate::redis::topology::routing::learn;

/// The subscriptions of this process on one server. [`run`](Self::run) maintains them until the layer closes.
pub(crate) struct SubscriptionManager {
    pub(crate) shard: Arc<Shard>,
    places: Arc<Places>,
    pub(crate) fallback: Fallback,
    /// The command that publishes.
    pub(crate) publish: &'static str,
    timing: Timing,
    return_after: Duration,
    /// Held only to change or read it.
    desired: Mutex<DesiredSubscriptions>,
    /// The partitions that the server has sent elsewhere. Held only to change or read it.
    disclaimed: Mutex<HashSet<Partition>>,
    /// Notified of each change of `desired`.
    changed: Notify,
    unserved: Arc<Unserved>,
    /// Held by each batch that is being published through a master of a cluster, to wait for them.
    pub(crate) publishing: Arc<RwLock<()>>,
    /// How many subscriptions the server has refused.
    refusals: watch::Sender<u64>,
    progress: watch::Sender<Progress>,
    modes: Arc<Modes>,
    events: broadcast::Sender<Event>,
}

/// The options of a [`SubscriptionManager`].
#[derive(Clone)]
pub(crate) struct SubscriptionOptions {
    pub(crate) timing: Timing,
    pub(crate) fallback: Fallback,
    pub(crate) return_after: Duration,
    /// The command that publishes.
    pub(crate) publish: &'static str,
    pub(crate) unserved: Arc<Unserved>,
}

/// The progress of a [`SubscriptionManager`].
#[derive(Clone)]
pub(crate) struct Progress {
    pub(crate) reachability: Reachability,
    /// The server has answered the changes up to this one.
    applied: ChangeNumber,
}

/// Whether published messages arrive from a server.
#[derive(Clone)]
pub(crate) enum Reachability {
    /// No connection has been tried yet.
    Unknown,
    /// The server of a cluster is being replaced by another one. Messages wait for that, until this time at the latest.
    Changing(Instant),
    /// Messages arrive over this connection, beside the connection for commands of this generation.
    Reachable(Subscriber, u64),
    /// Messages do not arrive for this reason. With [`Fallback::Local`] messages stay in this process.
    Unreachable(Fault),
}

impl SubscriptionManager {
    pub(crate) fn new(
        shard: Arc<Shard>,
        places: Arc<Places>,
        options: SubscriptionOptions,
        modes: Arc<Modes>,
        events: broadcast::Sender<Event>,
    ) -> Self {
        let SubscriptionOptions { timing, fallback, return_after, publish, unserved } = options;
        // A new shard of a cluster is connected soon.
        let reachability = match places.cluster() {
            Some(_) => Reachability::Changing(Instant::now() + timing.command),
            None => Reachability::Unknown,
        };
        Self {
            shard,
            places,
            fallback,
            publish,
            timing,
            return_after,
            desired: Mutex::default(),
            disclaimed: Mutex::default(),
            changed: Notify::new(),
            unserved,
            publishing: Arc::default(),
            refusals: watch::Sender::new(0),
            progress: watch::Sender::new(Progress { reachability, applied: 0 }),
            modes,
            events,
        }
    }

    /// Adds `subscription` to the desired ones. Returns the number of the change.
    pub(crate) fn add(&self, subscription: &Subscription) -> ChangeNumber {
        let number = self.desired.lock().add(subscription);
        self.changed.notify_one();
        number
    }

    /// Removes `subscription` from the desired ones.
    pub(crate) fn remove(&self, subscription: &Subscription) {
        self.desired.lock().remove(subscription);
        self.changed.notify_one();
    }

    /// Removes the subscriptions in `partition` from the desired ones. Returns them and the number of the change.
    pub(crate) fn remove_partition(&self, partition: Partition) -> (Vec<Subscription>, ChangeNumber) {
        let is_in = |subscription: &Subscription| partition.has(subscription.topic());
        let removed = self.desired.lock().remove_all(is_in);
        self.changed.notify_one();
        removed
    }

    /// The progress and every change of it.
    pub(crate) fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// Whether `subscription` is desired.
    pub(crate) fn has(&self, subscription: &Subscription) -> bool {
        self.desired.lock().number(subscription).is_some()
    }

    /// Waits until the server has answered `subscription`. Returns `None` at once if it is not desired. Does not wait
    /// for an unreachable server if messages stay in this process.
    ///
    /// # Errors
    ///
    /// [`Error::Redis`] if the server refused, or if it is unreachable and messages do not stay in this process.
    pub(crate) async fn confirmed(&self, subscription: &Subscription) -> Option<Result<()>> {
        let done = |progress: &Progress| {
            let desired = self.desired.lock();
            match (desired.number(subscription), &progress.reachability) {
                (None, _) | (_, Reachability::Unreachable(_)) => true,
                (_, Reachability::Unknown | Reachability::Changing(_)) => false,
                (Some(number), Reachability::Reachable(..)) => {
                    progress.applied >= number && !desired.is_postponed(subscription)
                }
            }
        };
        let mut progress = self.progress();
        // The sender lives in `self`, so that the wait cannot fail.
        let reachability =
            progress.wait_for(done).await.map_or(Reachability::Unknown, |progress| progress.reachability.clone());
        if !self.has(subscription) {
            return None;
        }
        let fault = match (reachability, self.fallback) {
            (Reachability::Unreachable(_), Fallback::Local) => None,
            (Reachability::Unreachable(fault), Fallback::Fail) => Some(fault),
            _ => self.desired.lock().refusal(subscription),
        };
        Some(fault.map_or(Ok(()), |fault| Err(self.shard.error(fault))))
    }

    /// Waits until the server has refused `subscription`, which has been added. Never returns if it does not, or if the
    /// subscription has been removed.
    pub(crate) async fn refused(&self, subscription: &Subscription) -> Error {
        let Some(number) = self.desired.lock().number(subscription) else { return std::future::pending().await };
        let answered = |progress: &Progress| {
            matches!(progress.reachability, Reachability::Reachable(..)) && progress.applied >= number
        };
        let mut refusals = self.refusals.subscribe();
        let _ = self.progress().wait_for(answered).await;
        loop {
            let refusal = self.desired.lock().refusal(subscription);
            if let Some(fault) = refusal {
                return self.shard.error(fault);
            }
            // The sender lives in `self`, so that the wait cannot fail.
            let _ = refusals.changed().await;
        }
    }

    /// Waits until no message arrives any more for subscriptions that the change `number` removed.
    pub(crate) async fn ended(&self, number: ChangeNumber) {
        // A closed fence stops the messages of a lost connection.
        let has_ended = |progress: &Progress| progress.applied >= number || !self.desired.lock().is_connected();
        let _ = self.progress().wait_for(has_ended).await;
    }

    /// Waits until the server has answered the change `number`, or is unreachable.
    pub(crate) async fn answered(&self, number: ChangeNumber) {
        let is_answered = |progress: &Progress| match progress.reachability {
            Reachability::Unknown | Reachability::Changing(_) => false,
            Reachability::Reachable(..) => progress.applied >= number,
            Reachability::Unreachable(_) => true,
        };
        let _ = self.progress().wait_for(is_answered).await;
    }

    /// Why the server refuses a desired subscription. `None` if it refuses none.
    pub(crate) fn refusal(&self) -> Option<Fault> {
        self.desired.lock().any_refusal()
    }

    /// Waits until all messages have arrived that were published before the call. Returns at once if the server is
    /// unreachable.
    pub(crate) async fn catch_up(&self) {
        let Reachability::Reachable(subscriber, _) = self.reachability() else { return };
        // If the connection fails, no more messages arrive. The task of the manager detects that itself.
        let _ = subscriber.catch_up().await;
    }

    /// Whether messages arrive from the server now.
    pub(crate) fn reachability(&self) -> Reachability {
        self.progress.borrow().reachability.clone()
    }

    /// Waits until the connection of `reachability` has been lost or replaced. Returns at once if it has none.
    pub(crate) async fn wait_until_lost(&self, reachability: &Reachability) {
        let Reachability::Reachable(_, before) = reachability else { return };
        let same = |progress: &Progress| matches!(progress.reachability, Reachability::Reachable(_, current) if current == *before);
        let _ = self.progress().wait_for(|progress| !same(progress)).await;
    }

    /// Waits until the server is unreachable. Returns why.
    pub(crate) async fn outage(&self) -> Error {
        let is_unreachable = |progress: &Progress| matches!(progress.reachability, Reachability::Unreachable(_));
        match self.progress().wait_for(is_unreachable).await.map(|progress| progress.reachability.clone()) {
            Ok(Reachability::Unreachable(fault)) => self.shard.error(fault),
            _ => std::future::pending().await,
        }
    }

    /// Waits until messages arrive from the server.
    pub(crate) async fn reachable(&self) {
        let is_reachable = |progress: &Progress| matches!(progress.reachability, Reachability::Reachable(..));
        let _ = self.progress().wait_for(is_reachable).await;
    }

    /// Whether messages at `place` can be published now or stay in this process: the server is not being replaced, and
    /// in a cluster it has confirmed the own subscriptions in the partition, which may have to get the messages.
    pub(crate) fn accepts(&self, place: usize, reachability: &Reachability) -> bool {
        match reachability {
            Reachability::Changing(_) => false,
            Reachability::Reachable(..) if self.is_in_cluster() => {
                let partition = Partition::at(place);
                !self.desired.lock().postpones(partition) || self.unserved.expired(partition).is_some()
            }
            _ => true,
        }
    }

    /// Waits until messages at `place` can be published or stay in this process.
    pub(crate) async fn accepting(&self, place: usize) {
        let _ = self.progress().wait_for(|progress| self.accepts(place, &progress.reachability)).await;
    }

    /// Waits until the reachability is known.
    pub(crate) async fn wait_until_known(&self) {
        let is_known = |progress: &Progress| {
            matches!(progress.reachability, Reachability::Reachable(..) | Reachability::Unreachable(_))
        };
        let _ = self.progress().wait_for(is_known).await;
    }

    /// Records that the server has not accepted a command for `partition`, because of `fault`.
    pub(crate) fn record_refused(&self, partition: Partition, fault: &Fault) {
        // A server that has the command wait does not say that another one has the partition.
        if matches!(fault.redirect, Some(Redirect::Moved(..) | Redirect::Unnamed)) {
            self.disclaimed.lock().insert(partition);
        }
        if self.unserved.record(partition, self.shard.index, fault) {
            let (shard, slot) = (self.shard.index, partition.slot().index());
            let reason = self.shard.error(fault.clone()).to_string();
            warn!(shard, slot, reason, "no node of the cluster serves a slot of published messages");
        }
    }

    /// Records that the server has accepted a command for `partition`.
    pub(crate) fn record_accepted(&self, partition: Partition) {
        self.trust(partition);
        self.unserved.clear(partition);
    }

    /// Follows the redirection in `fault`, an answer of the server, if it has one: learns which server has the slot.
    pub(crate) async fn follow(&self, fault: &Fault) {
        if let (Some(cluster), Some(redirect)) = (self.places.cluster(), &fault.redirect) {
            learn(cluster, &self.shard, redirect).await;
        }
    }

    /// Whether the server serves `partition`, as far as it has said: messages arrive from it, and it has not sent
    /// commands elsewhere.
    pub(crate) fn claims(&self, partition: Partition) -> bool {
        matches!(self.reachability(), Reachability::Reachable(..)) && !self.disclaimed.lock().contains(&partition)
    }

    /// Forgets that the server has sent commands for `partition` elsewhere.
    pub(crate) fn trust(&self, partition: Partition) {
        self.disclaimed.lock().remove(&partition);
    }

    /// Whether the server is a master of a cluster.
    pub(crate) fn is_in_cluster(&self) -> bool {
        self.places.is_cluster()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::redis::node::cluster::Cluster;
    use crate::redis::node::connection::{Requirements, Version};

    /// The manager of a shard of a cluster. It has no connection.
    fn manager() -> SubscriptionManager {
        let config = Config::new().cluster(true).sharded_pubsub(true).hosts(["redis://127.0.0.1"]);
        let requirements = Requirements::new(&config, Version(7, 0), &[], None);
        let (timing, (events, _)) = (requirements.timing.clone(), broadcast::channel(1));
        let cluster = Arc::new(Cluster::new(&config).unwrap());
        let places = Arc::new(Places::of_cluster(cluster, requirements, config.spreads().unwrap(), events.clone()));
        let unserved = Arc::new(Unserved::new(timing.command));
        let (fallback, publish, return_after) = (Fallback::Local, "SPUBLISH", Duration::ZERO);
        let options = SubscriptionOptions { timing, fallback, return_after, publish, unserved };
        SubscriptionManager::new(places.shard(0).clone(), places, options, Modes::new(1, events.clone()), events)
    }

    fn refusal(redirect: Redirect) -> Fault {
        let mut fault = Fault::busy("no");
        fault.redirect = Some(redirect);
        fault
    }

    #[tokio::test]
    async fn a_server_disclaims_a_partition_from_a_redirection_to_the_next_accepted_command() {
        let (manager, partition) = (manager(), Partition::at(7));
        let is_disclaimed = || manager.disclaimed.lock().contains(&partition);
        manager.record_refused(partition, &refusal(Redirect::Wait));
        assert!(!is_disclaimed(), "a master that is being replaced names no other");
        manager.record_refused(partition, &refusal(Redirect::Unnamed));
        assert!(is_disclaimed());
        manager.record_accepted(partition);
        assert!(!is_disclaimed());
    }

    #[tokio::test]
    async fn a_removed_subscription_is_not_confirmed() {
        let manager = manager();
        let subscription = Subscription::Sharded(Partition::at(7).tagged("news"));
        assert!(manager.confirmed(&subscription).await.is_none());
        manager.add(&subscription);
        let mut confirmed = Box::pin(manager.confirmed(&subscription));
        assert!(futures_util::poll!(&mut confirmed).is_pending());
        manager.remove(&subscription);
        manager.progress.send_modify(|progress| progress.applied += 1);
        assert!(confirmed.await.is_none());
    }
}
