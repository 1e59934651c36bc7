//! `MembershipJournal`: membership changes that the remote layer has not received.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::error::Result;
use crate::layer::ChannelLayer;
use crate::name::{ChannelName, GroupName};

/// A membership: its group and its channel.
pub(crate) type Key = (GroupName, ChannelName);

/// A change of a membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Added,
    Discarded,
}

/// Maximum number of discarded memberships in the journal, at about 230 bytes each. Every client that leaves during an
/// outage would otherwise add an entry, which stays until `group_expiry` has passed. Added memberships need no limit:
/// the journal holds at most as many of them as the process has memberships.
const MAX_DISCARDED: usize = 100_000;

/// The last change of each membership that the remote layer has not received.
///
/// The journal holds no membership that the remote layer knows. The local layer holds those, in case the remote layer
/// loses its data.
#[derive(Debug, Default)]
pub(crate) struct MembershipJournal {
    pending: HashMap<Key, Entry>,
    /// Number of discarded memberships in `pending`.
    discarded: usize,
    /// Whether a discarded membership was left out since the journal last held none.
    overflowed: bool,
    /// The number of the last recorded change.
    last: u64,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    change: Change,
    /// End of the membership. After a discard, the latest end that the discarded membership can have had.
    until: Instant,
    /// Tells changes of the same membership apart.
    number: u64,
    /// Whether the remote layer has refused the change, for example because it lacks memory.
    refused: bool,
}

/// A change to replay to the remote layer.
#[derive(Clone, Debug)]
pub(crate) struct PendingChange {
    pub(crate) key: Key,
    change: Change,
    until: Instant,
    number: u64,
}

impl Change {
    /// Applies this change to the membership `key` in `layer`. An added membership is valid for `lasts`.
    pub(crate) async fn apply(
        self,
        layer: &(impl ChannelLayer + ?Sized),
        (group, channel): &Key,
        lasts: Duration,
    ) -> Result<()> {
        match self {
            Self::Added => layer.group_add_for(group.as_str(), channel.as_str(), lasts).await,
            Self::Discarded => layer.group_discard(group.as_str(), channel.as_str()).await,
        }
    }
}

impl PendingChange {
    /// Replays the change to `layer`. A membership keeps its end.
    pub(crate) async fn replay(&self, layer: &(impl ChannelLayer + ?Sized)) -> Result<()> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() { Ok(()) } else { self.change.apply(layer, &self.key, left).await }
    }
}

impl MembershipJournal {
    /// Records the last change of a membership, which has to be replayed until `until`. `synced` says whether the
    /// remote layer has received the change.
    pub(crate) fn record(&mut self, key: Key, change: Change, until: Instant, synced: bool) {
        self.remove(&key);
        if synced {
            return;
        }
        if change == Change::Discarded {
            if self.discarded == MAX_DISCARDED {
                return self.report_overflow();
            }
            self.discarded += 1;
        }
        self.last += 1;
        self.pending.insert(key, Entry { change, until, number: self.last, refused: false });
    }

    /// Logs, once until the journal has room again, that the remote layer keeps discarded memberships until they
    /// expire.
    fn report_overflow(&mut self) {
        if !std::mem::replace(&mut self.overflowed, true) {
            tracing::warn!(
                limit = MAX_DISCARDED,
                "too many memberships ended during an outage; the remote layer keeps the rest of them until they expire"
            );
        }
    }

    fn remove(&mut self, key: &Key) {
        let removed = self.pending.remove(key);
        self.discarded -= usize::from(removed.is_some_and(|entry| entry.change == Change::Discarded));
    }

    /// Records memberships that the remote layer may have lost. Changes that are already pending are newer and stay.
    pub(crate) fn record_lost(&mut self, memberships: impl IntoIterator<Item = (Key, Instant)>) {
        for (key, until) in memberships {
            self.last += 1;
            let lost = Entry { change: Change::Added, until, number: self.last, refused: false };
            self.pending.entry(key).or_insert(lost);
        }
    }

    /// Whether the remote layer has yet to receive a change of this membership.
    pub(crate) fn is_pending(&self, key: &Key) -> bool {
        self.pending.contains_key(key)
    }

    /// Returns the changes to replay, without those that the remote layer has refused.
    pub(crate) fn pending_changes(&mut self) -> Vec<PendingChange> {
        self.changes(false)
    }

    /// Returns the changes that the remote layer has refused.
    pub(crate) fn refused_changes(&mut self) -> Vec<PendingChange> {
        self.changes(true)
    }

    fn changes(&mut self, refused: bool) -> Vec<PendingChange> {
        self.prune();
        let change = |(key, entry): (&Key, &Entry)| {
            let Entry { change, until, number, .. } = *entry;
            PendingChange { key: key.clone(), change, until, number }
        };
        self.pending.iter().filter(|(_, entry)| entry.refused == refused).map(change).collect()
    }

    /// Records that the remote layer has refused `change`. Returns whether this is the first refusal of the change.
    pub(crate) fn refuse(&mut self, change: &PendingChange) -> bool {
        let entry = self.pending.get_mut(&change.key).filter(|entry| entry.number == change.number);
        entry.is_some_and(|entry| !std::mem::replace(&mut entry.refused, true))
    }

    /// Makes all refused changes pending again, because the server may take them now.
    pub(crate) fn forget_refusals(&mut self) {
        self.pending.values_mut().for_each(|entry| entry.refused = false);
    }

    /// Records that the remote layer has received `change`. If a call sent a later change to the remote layer
    /// meanwhile, the two may have arrived in either order, so the `current` state becomes pending once more.
    pub(crate) fn confirm(&mut self, change: &PendingChange, current: (Change, Instant)) {
        match self.pending.get(&change.key) {
            Some(entry) if entry.number == change.number => self.remove(&change.key),
            Some(_) => {}
            None => self.record(change.key.clone(), current.0, current.1, false),
        }
    }

    /// Removes all changes.
    pub(crate) fn clear(&mut self) {
        (self.pending, self.discarded) = (HashMap::new(), 0);
    }

    /// Removes changes that need not be replayed any more, because the membership would have ended.
    pub(crate) fn prune(&mut self) {
        let now = Instant::now();
        self.pending.retain(|_, entry| now < entry.until);
        self.discarded = self.pending.values().filter(|entry| entry.change == Change::Discarded).count();
        self.overflowed &= self.discarded > 0;
        if self.pending.is_empty() {
            // Frees the memory of an outage with many changes.
            self.pending.shrink_to_fit();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPIRY: Duration = Duration::from_mins(1);

    fn key(channel: &str) -> Key {
        (GroupName::parse("room").unwrap(), ChannelName::parse(channel).unwrap())
    }

    fn end() -> Instant {
        Instant::now() + EXPIRY
    }

    fn pending(journal: &mut MembershipJournal) -> Vec<(String, Change, Instant)> {
        let changes = journal.pending_changes().into_iter();
        let mut changes: Vec<_> =
            changes.map(|change| (change.key.1.to_string(), change.change, change.until)).collect();
        changes.sort_by(|(a, ..), (b, ..)| a.cmp(b));
        changes
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_change_of_each_membership_is_pending() {
        let mut journal = MembershipJournal::default();
        journal.record(key("synced"), Change::Added, end(), true);
        journal.record(key("added"), Change::Added, end(), false);
        journal.record(key("discarded"), Change::Added, end(), false);
        journal.record(key("discarded"), Change::Discarded, end(), false);
        journal.record(key("both"), Change::Added, end(), false);
        journal.record(key("both"), Change::Discarded, end(), true);
        let expected = [("added".to_owned(), Change::Added, end()), ("discarded".to_owned(), Change::Discarded, end())];
        assert_eq!(pending(&mut journal), expected);
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_during_a_replay_stays_pending() {
        let mut journal = MembershipJournal::default();
        let now = (Change::Discarded, end());
        journal.record(key("a"), Change::Added, end(), false);
        let replaying = journal.pending_changes();
        journal.record(key("a"), Change::Discarded, end(), false);
        journal.confirm(&replaying[0], now);
        assert_eq!(pending(&mut journal), [("a".to_owned(), Change::Discarded, end())]);
        let replaying = journal.pending_changes();
        journal.confirm(&replaying[0], now);
        assert_eq!(pending(&mut journal), []);
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_sent_during_a_replay_is_replayed() {
        let mut journal = MembershipJournal::default();
        journal.record(key("a"), Change::Added, end(), false);
        let replaying = journal.pending_changes();
        journal.record(key("a"), Change::Discarded, end(), true);
        journal.confirm(&replaying[0], (Change::Discarded, end()));
        assert_eq!(pending(&mut journal), [("a".to_owned(), Change::Discarded, end())]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_membership_is_pending_unless_it_changed_or_ended() {
        let mut journal = MembershipJournal::default();
        let (soon, late) = (Instant::now() + EXPIRY / 2, end());
        journal.record(key("discarded"), Change::Discarded, late, false);
        journal.record_lost([(key("discarded"), late), (key("stays"), late), (key("ends"), soon)]);
        tokio::time::advance(EXPIRY / 2).await;
        let expected = [("discarded".to_owned(), Change::Discarded, late), ("stays".to_owned(), Change::Added, late)];
        assert_eq!(pending(&mut journal), expected);
        tokio::time::advance(EXPIRY / 2).await;
        assert_eq!(pending(&mut journal), []);
    }

    #[tokio::test(start_paused = true)]
    async fn clients_that_come_and_go_in_a_long_outage_use_bounded_memory() {
        let mut journal = MembershipJournal::default();
        for n in 0..MAX_DISCARDED + 1000 {
            journal.record(key(&format!("p!{n}")), Change::Added, end(), false);
            journal.record(key(&format!("p!{n}")), Change::Discarded, end(), false);
        }
        journal.record(key("stays"), Change::Added, end(), false);
        assert_eq!(journal.pending.len(), MAX_DISCARDED + 1);
        // A membership that is added again makes room for another.
        journal.record(key("p!0"), Change::Added, end(), false);
        journal.record(key("q"), Change::Discarded, end(), false);
        assert!(journal.is_pending(&key("q")));
        tokio::time::advance(EXPIRY).await;
        assert!(journal.pending_changes().is_empty());
        assert_eq!((journal.pending.capacity(), journal.discarded), (0, 0));
    }
}
