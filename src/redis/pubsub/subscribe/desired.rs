//! `DesiredSubscriptions`: the subscriptions that a server should have, and the changes that it has not been sent yet.

use std::collections::{HashMap, HashSet};

use crate::redis::node::fault::Fault;
use crate::redis::pubsub::managers::partition::Partition;
use crate::redis::pubsub::topic::Subscription;

/// The number of a change. A change has been applied when all changes up to its number have been.
pub(crate) type ChangeNumber = u64;

/// The subscriptions that one server should have.
#[derive(Default)]
pub(crate) struct DesiredSubscriptions {
    desired: HashMap<Subscription, ChangeNumber>,
    /// Whether there is a connection that needs changes. A new connection needs everything.
    connected: bool,
    /// The subscriptions that were changed since the last [`take_change`](Self::take_change).
    changed: HashSet<Subscription>,
    last: ChangeNumber,
    /// The subscriptions that the server refused, and the reasons.
    refused: HashMap<Subscription, Fault>,
    /// The subscriptions that the server of a cluster does not serve now, or has ended.
    postponed: HashSet<Subscription>,
}

/// The commands that apply all changes up to a number.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) subscribe: Vec<Subscription>,
    pub(crate) unsubscribe: Vec<Subscription>,
    pub(crate) up_to: ChangeNumber,
}

impl DesiredSubscriptions {
    /// Adds `subscription`. Returns the number of the change.
    pub(crate) fn add(&mut self, subscription: &Subscription) -> ChangeNumber {
        self.last += 1;
        self.desired.insert(subscription.clone(), self.last);
        self.mark_changed(subscription);
        self.last
    }

    /// Removes `subscription`. Returns the number of the change.
    pub(crate) fn remove(&mut self, subscription: &Subscription) -> ChangeNumber {
        self.last += 1;
        self.desired.remove(subscription);
        self.refused.remove(subscription);
        self.postponed.remove(subscription);
        self.mark_changed(subscription);
        self.last
    }

    /// Removes all subscriptions that `belong`. Returns them and the number of the change.
    pub(crate) fn remove_all(&mut self, belong: impl Fn(&Subscription) -> bool) -> (Vec<Subscription>, ChangeNumber) {
        let removed: Vec<_> = self.desired.keys().filter(|subscription| belong(subscription)).cloned().collect();
        for subscription in &removed {
            self.remove(subscription);
        }
        (removed, self.last)
    }

    /// Records a change only while there is a connection, so that a long outage does not accumulate changes.
    fn mark_changed(&mut self, subscription: &Subscription) {
        if self.connected {
            self.changed.insert(subscription.clone());
        }
    }

    /// The pending change for a connection that has the subscriptions `held`.
    pub(crate) fn take_change(&mut self, held: &HashSet<Subscription>) -> Change {
        let changed = std::mem::take(&mut self.changed);
        let (desired, unwanted): (Vec<_>, Vec<_>) = changed.into_iter().partition(|one| self.desired.contains_key(one));
        let subscribe = desired.into_iter().filter(|one| !held.contains(one)).collect();
        let unsubscribe = unwanted.into_iter().filter(|one| held.contains(one)).collect();
        Change { subscribe, unsubscribe, up_to: self.last }
    }

    /// The change for a new connection.
    pub(crate) fn take_all(&mut self) -> Change {
        self.connected = true;
        self.changed.clear();
        self.refused.clear();
        self.postponed.clear();
        Change { subscribe: self.desired.keys().cloned().collect(), unsubscribe: Vec::new(), up_to: self.last }
    }

    /// Records that the connection has ended.
    pub(crate) fn disconnect(&mut self) {
        self.connected = false;
        self.changed = HashSet::new();
    }

    /// Adds the refused subscriptions to the pending change.
    pub(crate) fn retry_refused(&mut self) {
        self.changed.extend(self.refused.keys().cloned());
    }

    /// Whether there is a connection that needs changes.
    pub(crate) fn is_connected(&self) -> bool {
        self.connected
    }

    /// The number of the change that added `subscription`. `None` if it is not desired.
    pub(crate) fn number(&self, subscription: &Subscription) -> Option<ChangeNumber> {
        self.desired.get(subscription).copied()
    }

    /// Records that the server does not serve `subscription` now, for [`retry_postponed`](Self::retry_postponed).
    pub(crate) fn postpone(&mut self, subscription: &Subscription) {
        if self.desired.contains_key(subscription) {
            self.refused.remove(subscription);
            self.postponed.insert(subscription.clone());
        }
    }

    /// Whether any subscription is postponed.
    pub(crate) fn has_postponed(&self) -> bool {
        !self.postponed.is_empty()
    }

    /// Whether `subscription` is postponed.
    pub(crate) fn is_postponed(&self, subscription: &Subscription) -> bool {
        self.postponed.contains(subscription)
    }

    /// Whether a subscription in `partition` is postponed.
    pub(crate) fn postpones(&self, partition: Partition) -> bool {
        self.postponed.iter().any(|subscription| partition.has(subscription.topic()))
    }

    /// Adds the postponed subscriptions to the pending change.
    pub(crate) fn retry_postponed(&mut self) {
        self.changed.extend(self.postponed.iter().cloned());
    }

    /// Records that the server has the subscriptions `confirmed`.
    pub(crate) fn confirm(&mut self, confirmed: &HashSet<Subscription>) {
        self.refused.retain(|subscription, _| !confirmed.contains(subscription));
        self.postponed.retain(|subscription| !confirmed.contains(subscription));
    }

    /// Records that the server refused `subscription`, for [`retry_refused`](Self::retry_refused).
    pub(crate) fn refuse(&mut self, subscription: &Subscription, fault: Fault) {
        if self.desired.contains_key(subscription) {
            self.postponed.remove(subscription);
            self.refused.insert(subscription.clone(), fault);
        }
    }

    /// Why the server refused a subscription. `None` if it refused none.
    pub(crate) fn any_refusal(&self) -> Option<Fault> {
        self.refused.values().next().cloned()
    }

    /// Why the server refused `subscription`. `None` if it did not.
    pub(crate) fn refusal(&self, subscription: &Subscription) -> Option<Fault> {
        self.refused.get(subscription).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str) -> Subscription {
        Subscription::Channel(name.to_owned())
    }

    #[test]
    fn only_changes_are_sent() {
        let mut desired = DesiredSubscriptions::default();
        for name in ["a", "b", "c"] {
            desired.add(&of(name));
        }
        let mut change = desired.take_all();
        change.subscribe.sort_by_key(|one| format!("{one:?}"));
        assert_eq!((change.subscribe, change.up_to), (vec![of("a"), of("b"), of("c")], 3));

        let held = ["a", "b", "c"].map(of).into();
        desired.remove(&of("a"));
        desired.add(&of("d"));
        // Removed and added again before the change is taken.
        desired.remove(&of("b"));
        desired.add(&of("b"));
        let change = desired.take_change(&held);
        assert_eq!(change, Change { subscribe: vec![of("d")], unsubscribe: vec![of("a")], up_to: 7 });
        assert_eq!(desired.take_change(&held), Change { up_to: 7, ..Change::default() });
    }

    #[test]
    fn changes_without_a_connection_are_not_accumulated() {
        let mut desired = DesiredSubscriptions::default();
        let come_and_go = |desired: &mut DesiredSubscriptions| {
            for name in 0..1000 {
                desired.add(&of(&name.to_string()));
                desired.remove(&of(&name.to_string()));
            }
        };
        come_and_go(&mut desired);
        assert!(desired.changed.is_empty());
        assert_eq!(desired.take_all().subscribe, []);
        come_and_go(&mut desired);
        assert_eq!(desired.changed.len(), 1000);
        desired.add(&of("stays"));
        desired.disconnect();
        come_and_go(&mut desired);
        assert!(desired.changed.is_empty());
        assert_eq!(desired.take_all().subscribe, [of("stays")]);
    }

    #[test]
    fn a_refusal_is_forgotten_with_the_connection_and_with_the_subscription() {
        let mut desired = DesiredSubscriptions::default();
        desired.add(&of("a"));
        desired.refuse(&of("a"), Fault::unexpected("no"));
        assert!(desired.refusal(&of("a")).is_some());
        desired.take_all();
        assert!(desired.refusal(&of("a")).is_none());
        desired.refuse(&of("a"), Fault::unexpected("no"));
        assert_eq!(desired.take_change(&HashSet::new()).subscribe, []);
        desired.retry_refused();
        assert_eq!(desired.take_change(&HashSet::new()).subscribe, [of("a")]);
        desired.confirm(&[of("a")].into());
        assert!(desired.any_refusal().is_none());
        desired.refuse(&of("a"), Fault::unexpected("no"));
        desired.remove(&of("a"));
        desired.refuse(&of("a"), Fault::unexpected("no"));
        assert!(desired.refusal(&of("a")).is_none());
    }

    #[test]
    fn a_partition_has_a_postponed_subscription_until_it_is_confirmed_or_removed() {
        let mut desired = DesiredSubscriptions::default();
        let [partition, other] = [7, 8].map(Partition::at);
        let [one, another] = ["a", "b"].map(|name| Subscription::Sharded(partition.tagged(name)));
        for subscription in [&one, &another] {
            desired.add(subscription);
            desired.postpone(subscription);
        }
        assert!(desired.postpones(partition) && !desired.postpones(other));
        desired.confirm(&[one].into());
        assert!(desired.postpones(partition));
        desired.remove(&another);
        assert!(!desired.postpones(partition));
    }
}
