//! What a server should be subscribed to, and which changes of that it has been told.

use std::collections::{HashMap, HashSet};

use crate::redis::node::fault::Fault;
use crate::redis::pubsub::topic::Subscription;

/// The number of a change; the server has been told of a change when it has been told of all up to its number.
pub(crate) type Wish = u64;

/// What one server should be subscribed to.
#[derive(Default)]
pub(crate) struct DesiredSubscriptions {
    wanted: HashMap<Subscription, Wish>,
    /// Whether there is a connection that is told of changes. A new one is told everything.
    listening: bool,
    /// Changed since the server was told last.
    changed: HashSet<Subscription>,
    last: Wish,
    /// What the server refused, and why.
    refused: HashMap<Subscription, Fault>,
}

/// What has to be done so that a server knows all changes up to one.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) subscribe: Vec<Subscription>,
    pub(crate) unsubscribe: Vec<Subscription>,
    pub(crate) up_to: Wish,
}

impl DesiredSubscriptions {
    /// Wants `subscription`.
    pub(crate) fn want(&mut self, subscription: &Subscription) -> Wish {
        self.last += 1;
        self.wanted.insert(subscription.clone(), self.last);
        self.note(subscription);
        self.last
    }

    /// Wants `subscription` no more.
    pub(crate) fn give_up(&mut self, subscription: &Subscription) {
        self.last += 1;
        self.wanted.remove(subscription);
        self.refused.remove(subscription);
        self.note(subscription);
    }

    /// In a long outage much may come and go, of which nobody has to hear.
    fn note(&mut self, subscription: &Subscription) {
        if self.listening {
            self.changed.insert(subscription.clone());
        }
    }

    /// What to do on a connection that has `held` so far.
    pub(crate) fn take_change(&mut self, held: &HashSet<Subscription>) -> Change {
        let changed = std::mem::take(&mut self.changed);
        let (wanted, unwanted): (Vec<_>, Vec<_>) = changed.into_iter().partition(|one| self.wanted.contains_key(one));
        let subscribe = wanted.into_iter().filter(|one| !held.contains(one)).collect();
        let unsubscribe = unwanted.into_iter().filter(|one| held.contains(one)).collect();
        Change { subscribe, unsubscribe, up_to: self.last }
    }

    /// What to do on a new connection.
    pub(crate) fn take_all(&mut self) -> Change {
        self.listening = true;
        self.changed.clear();
        self.refused.clear();
        Change { subscribe: self.wanted.keys().cloned().collect(), unsubscribe: Vec::new(), up_to: self.last }
    }

    /// The connection has ended.
    pub(crate) fn hang_up(&mut self) {
        self.listening = false;
        self.changed = HashSet::new();
    }

    /// Asks again for what the server refused.
    pub(crate) fn insist(&mut self) {
        self.changed.extend(self.refused.keys().cloned());
    }

    /// Notes that the server has `granted` these.
    pub(crate) fn grant(&mut self, granted: &HashSet<Subscription>) {
        self.refused.retain(|subscription, _| !granted.contains(subscription));
    }

    /// Notes that the server refused `subscription`, which is asked for again later.
    pub(crate) fn refuse(&mut self, subscription: &Subscription, fault: Fault) {
        if self.wanted.contains_key(subscription) {
            self.refused.insert(subscription.clone(), fault);
        }
    }

    /// Why the server refused something, if it did.
    pub(crate) fn any_refusal(&self) -> Option<Fault> {
        self.refused.values().next().cloned()
    }

    /// Why the server refused `subscription`, if it did.
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
    fn only_what_has_changed_is_told() {
        let mut wishes = DesiredSubscriptions::default();
        for name in ["a", "b", "c"] {
            wishes.want(&of(name));
        }
        let mut change = wishes.take_all();
        change.subscribe.sort_by_key(|one| format!("{one:?}"));
        assert_eq!((change.subscribe, change.up_to), (vec![of("a"), of("b"), of("c")], 3));

        let held = ["a", "b", "c"].map(of).into();
        wishes.give_up(&of("a"));
        wishes.want(&of("d"));
        // Gone and back again before anybody was told.
        wishes.give_up(&of("b"));
        wishes.want(&of("b"));
        let change = wishes.take_change(&held);
        assert_eq!(change, Change { subscribe: vec![of("d")], unsubscribe: vec![of("a")], up_to: 7 });
        assert_eq!(wishes.take_change(&held), Change { up_to: 7, ..Change::default() });
    }

    #[test]
    fn what_comes_and_goes_while_nobody_listens_leaves_nothing() {
        let mut wishes = DesiredSubscriptions::default();
        let come_and_go = |wishes: &mut DesiredSubscriptions| {
            for name in 0..1000 {
                wishes.want(&of(&name.to_string()));
                wishes.give_up(&of(&name.to_string()));
            }
        };
        come_and_go(&mut wishes);
        assert!(wishes.changed.is_empty());
        assert_eq!(wishes.take_all().subscribe, []);
        come_and_go(&mut wishes);
        assert_eq!(wishes.changed.len(), 1000);
        wishes.want(&of("stays"));
        wishes.hang_up();
        come_and_go(&mut wishes);
        assert!(wishes.changed.is_empty());
        assert_eq!(wishes.take_all().subscribe, [of("stays")]);
    }

    #[test]
    fn a_refusal_is_forgotten_with_the_connection_and_with_the_wish() {
        let mut wishes = DesiredSubscriptions::default();
        wishes.want(&of("a"));
        wishes.refuse(&of("a"), Fault::unexpected("no"));
        assert!(wishes.refusal(&of("a")).is_some());
        wishes.take_all();
        assert!(wishes.refusal(&of("a")).is_none());
        wishes.refuse(&of("a"), Fault::unexpected("no"));
        assert_eq!(wishes.take_change(&HashSet::new()).subscribe, []);
        wishes.insist();
        assert_eq!(wishes.take_change(&HashSet::new()).subscribe, [of("a")]);
        wishes.grant(&[of("a")].into());
        assert!(wishes.any_refusal().is_none());
        wishes.refuse(&of("a"), Fault::unexpected("no"));
        wishes.give_up(&of("a"));
        wishes.refuse(&of("a"), Fault::unexpected("no"));
        assert!(wishes.refusal(&of("a")).is_none());
    }
}
