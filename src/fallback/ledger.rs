//! The memberships that this process has made, and which of them the remote layer has not been told of.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::error::Result;
use crate::layer::ChannelLayer;
use crate::name::{ChannelName, GroupName};

/// A membership, by the names of its group and its channel.
pub(super) type Key = (GroupName, ChannelName);

/// What a call made of a membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Added,
    Discarded,
}

impl Change {
    /// Makes this change of the membership `key` in `layer`.
    pub(super) async fn make(self, layer: &impl ChannelLayer, (group, channel): &Key) -> Result<()> {
        match self {
            Self::Added => layer.group_add(group.as_str(), channel.as_str()).await,
            Self::Discarded => layer.group_discard(group.as_str(), channel.as_str()).await,
        }
    }
}

/// The last change of each membership, as this process made it.
#[derive(Debug)]
pub(super) struct Ledger {
    lines: HashMap<Key, Line>,
    /// Those of which the remote layer has not been told.
    untold: HashSet<Key>,
    group_expiry: Duration,
    last: u64,
}

#[derive(Clone, Copy, Debug)]
struct Line {
    change: Change,
    at: Instant,
    /// Tells changes of one membership apart.
    number: u64,
}

/// A change that the remote layer has to be told of.
#[derive(Clone, Debug)]
pub(super) struct Due {
    pub(super) key: Key,
    pub(super) change: Change,
    number: u64,
}

impl Ledger {
    /// For memberships that last for `group_expiry`.
    pub(super) fn new(group_expiry: Duration) -> Self {
        Self { lines: HashMap::new(), untold: HashSet::new(), group_expiry, last: 0 }
    }

    /// Notes a change, and whether the remote layer has been `told`.
    pub(super) fn note(&mut self, key: Key, change: Change, told: bool) {
        if change == Change::Discarded && told {
            self.lines.remove(&key);
            self.untold.remove(&key);
            return;
        }
        self.last += 1;
        if told {
            self.untold.remove(&key);
        } else {
            self.untold.insert(key.clone());
        }
        self.lines.insert(key, Line { change, at: Instant::now(), number: self.last });
    }

    /// What the remote layer has to be told of.
    pub(super) fn due(&mut self) -> Vec<Due> {
        if self.untold.is_empty() {
            return Vec::new();
        }
        self.prune();
        let due = self.untold.iter().filter_map(|key| Some((key, self.lines.get(key)?)));
        due.map(|(key, line)| Due { key: key.clone(), change: line.change, number: line.number }).collect()
    }

    /// Notes that the remote layer has been told of `due`, unless another change has come since.
    pub(super) fn settle(&mut self, due: &Due) {
        let Some(line) = self.lines.get(&due.key) else { return };
        if line.number != due.number {
            return;
        }
        self.untold.remove(&due.key);
        if line.change == Change::Discarded {
            self.lines.remove(&due.key);
        }
    }

    /// The remote layer has forgotten everything, and has to be told of all memberships again.
    pub(super) fn forget_told(&mut self) {
        self.untold.extend(self.lines.keys().cloned());
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.lines.clear();
        self.untold.clear();
    }

    /// Forgets what has expired.
    pub(super) fn prune(&mut self) {
        let now = Instant::now();
        self.lines.retain(|_, line| now < line.at + self.group_expiry);
        self.untold.retain(|key| self.lines.contains_key(key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPIRY: Duration = Duration::from_mins(1);

    fn key(channel: &str) -> Key {
        (GroupName::parse("room").unwrap(), ChannelName::parse(channel).unwrap())
    }

    fn due(ledger: &mut Ledger) -> Vec<(String, Change)> {
        let mut due: Vec<_> = ledger.due().into_iter().map(|due| (due.key.1.to_string(), due.change)).collect();
        due.sort_by(|(a, _), (b, _)| a.cmp(b));
        due
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_change_of_each_membership_is_due() {
        let mut ledger = Ledger::new(EXPIRY);
        ledger.note(key("told"), Change::Added, true);
        ledger.note(key("came"), Change::Added, false);
        ledger.note(key("went"), Change::Added, true);
        ledger.note(key("went"), Change::Discarded, false);
        assert_eq!(due(&mut ledger), [("came".to_owned(), Change::Added), ("went".to_owned(), Change::Discarded)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_that_comes_while_another_is_told_stays_due() {
        let mut ledger = Ledger::new(EXPIRY);
        ledger.note(key("a"), Change::Added, false);
        let telling = ledger.due();
        ledger.note(key("a"), Change::Discarded, false);
        ledger.settle(&telling[0]);
        assert_eq!(due(&mut ledger), [("a".to_owned(), Change::Discarded)]);
        let telling = ledger.due();
        ledger.settle(&telling[0]);
        assert!(ledger.lines.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn all_that_lives_is_due_when_it_was_forgotten() {
        let mut ledger = Ledger::new(EXPIRY);
        ledger.note(key("old"), Change::Added, true);
        tokio::time::advance(EXPIRY / 2).await;
        ledger.note(key("new"), Change::Added, true);
        ledger.note(key("gone"), Change::Discarded, true);
        tokio::time::advance(EXPIRY / 2).await;
        ledger.forget_told();
        assert_eq!(due(&mut ledger), [("new".to_owned(), Change::Added)]);
    }
}
