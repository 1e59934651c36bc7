//! `SubscriptionManager`: the desired subscriptions on one server, and whether published messages arrive from it.
//!
//! Other code changes the desired subscriptions and waits until they are in force. The task in `session` brings the
//! server to that state, again after each reconnect.

mod session;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, broadcast, watch};

use crate::config::Fallback;
use crate::error::{Error, Result};
use crate::layer::{Event, Modes};
use crate::redis::node::connection::Timing;
use crate::redis::node::fault::Fault;
use crate::redis::node::shard::Shard;
use crate::redis::pubsub::subscribe::desired::{ChangeNumber, DesiredSubscriptions};
use crate::redis::pubsub::subscribe::subscriber::Subscriber;
use crate::redis::pubsub::topic::Subscription;

/// The subscriptions of this process on one server. [`run`](Self::run) maintains them until the layer closes.
pub(crate) struct SubscriptionManager {
    pub(crate) shard: Arc<Shard>,
    pub(crate) fallback: Fallback,
    /// The command that publishes.
    pub(crate) publish: &'static str,
    timing: Timing,
    return_after: Duration,
    /// Held only to change or read it.
    desired: Mutex<DesiredSubscriptions>,
    /// Notified of each change of `desired`.
    changed: Notify,
    /// How many subscriptions the server has refused.
    refusals: watch::Sender<u64>,
    progress: watch::Sender<Progress>,
    modes: Arc<Modes>,
    events: broadcast::Sender<Event>,
}

/// The options of a [`SubscriptionManager`].
#[derive(Clone, Copy)]
pub(crate) struct SubscriptionOptions {
    pub(crate) fallback: Fallback,
    pub(crate) return_after: Duration,
    /// The command that publishes.
    pub(crate) publish: &'static str,
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
    /// Messages arrive over this connection, beside the connection for commands of this generation.
    Reachable(Subscriber, u64),
    /// Messages do not arrive for this reason. With [`Fallback::Local`] messages stay in this process.
    Unreachable(Fault),
}

impl SubscriptionManager {
    pub(crate) fn new(
        shard: Arc<Shard>,
        timing: Timing,
        options: SubscriptionOptions,
        modes: Arc<Modes>,
        events: broadcast::Sender<Event>,
    ) -> Self {
        let SubscriptionOptions { fallback, return_after, publish } = options;
        Self {
            shard,
            fallback,
            publish,
            timing,
            return_after,
            desired: Mutex::default(),
            changed: Notify::new(),
            refusals: watch::Sender::new(0),
            progress: watch::Sender::new(Progress { reachability: Reachability::Unknown, applied: 0 }),
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

    /// The progress and every change of it.
    pub(crate) fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// Waits until the server has answered the change `number` that added `subscription`. Returns at once if the server
    /// is unreachable and messages stay in this process.
    ///
    /// # Errors
    ///
    /// [`Error::Redis`] if the server refused, or if it is unreachable and messages do not stay in this process.
    pub(crate) async fn confirmed(&self, subscription: &Subscription, number: ChangeNumber) -> Result<()> {
        let mut progress = self.progress();
        let done = |progress: &Progress| match progress.reachability {
            Reachability::Unknown => false,
            Reachability::Reachable(..) => progress.applied >= number,
            Reachability::Unreachable(_) => true,
        };
        // The sender lives in `self`, so that the wait cannot fail.
        let reachability =
            progress.wait_for(done).await.map_or(Reachability::Unknown, |progress| progress.reachability.clone());
        let fault = match (reachability, self.fallback) {
            (Reachability::Unreachable(_), Fallback::Local) => None,
            (Reachability::Unreachable(fault), Fallback::Fail) => Some(fault),
            _ => self.desired.lock().refusal(subscription),
        };
        fault.map_or(Ok(()), |fault| Err(self.shard.error(fault)))
    }

    /// Waits until the server has refused `subscription`, which the change `number` added. Never returns if it does
    /// not.
    pub(crate) async fn refused(&self, subscription: &Subscription, number: ChangeNumber) -> Error {
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

    /// Waits until the reachability is known.
    pub(crate) async fn wait_until_known(&self) {
        let unknown = |progress: &Progress| matches!(progress.reachability, Reachability::Unknown);
        let _ = self.progress().wait_for(|progress| !unknown(progress)).await;
    }
}
