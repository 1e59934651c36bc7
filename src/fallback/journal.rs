//! Changes of memberships that the remote layer has not been told of.

use std::collections::HashMap;

use tokio::time::Instant;

use crate::error::Result;
use crate::layer::ChannelLayer;
use crate::name::{ChannelName, GroupName};

/// A membership, by the names of its group and its channel.
pub(crate) type Key = (GroupName, ChannelName);

/// What a call makes of a membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Added,
    Discarded,
}

/// The last change of each membership that the remote layer has to be told of.
///
/// It holds nothing of a membership that the remote layer knows: the layer of this process has those, for the case that
/// the remote one loses its data.
#[derive(Debug, Default)]
pub(crate) struct MembershipJournal {
    untold: HashMap<Key, Line>,
    last: u64,
}

#[derive(Clone, Copy, Debug)]
struct Line {
    change: Change,
    /// The end of the membership, or of all that can have been there when it was discarded.
    until: Instant,
    /// Tells changes of one membership apart.
    number: u64,
}

/// A change that the remote layer has to be told of.
#[derive(Clone, Debug)]
pub(crate) struct Due {
    pub(crate) key: Key,
    change: Change,
    until: Instant,
    number: u64,
}

impl Change {
    /// Makes this change of the membership `key` in `layer`.
    pub(crate) async fn make(self, layer: &impl ChannelLayer, (group, channel): &Key) -> Result<()> {
        match self {
            Self::Added => layer.group_add(group.as_str(), channel.as_str()).await,
            Self::Discarded => layer.group_discard(group.as_str(), channel.as_str()).await,
        }
    }
}

impl Due {
    /// Tells `layer` of the change. A membership keeps its end.
    pub(crate) async fn tell(&self, layer: &impl ChannelLayer) -> Result<()> {
        let (group, channel) = (self.key.0.as_str(), self.key.1.as_str());
        let left = self.until.saturating_duration_since(Instant::now());
        match self.change {
            _ if left.is_zero() => Ok(()),
            Change::Added => layer.group_add_for(group, channel, left).await,
            Change::Discarded => layer.group_discard(group, channel).await,
        }
    }
}

impl MembershipJournal {
    /// Notes the last change of a membership, which matters `until` then, and whether the remote layer has been `told`.
    pub(crate) fn note(&mut self, key: Key, change: Change, until: Instant, told: bool) {
        if told {
            self.untold.remove(&key);
            return;
        }
        self.last += 1;
        self.untold.insert(key, Line { change, until, number: self.last });
    }

    /// Notes memberships that the remote layer may have lost. Changes that it has not been told of are newer.
    pub(crate) fn note_lost(&mut self, memberships: impl IntoIterator<Item = (Key, Instant)>) {
        for (key, until) in memberships {
            self.last += 1;
            self.untold.entry(key).or_insert(Line { change: Change::Added, until, number: self.last });
        }
    }

    /// Whether the remote layer has to be told of a change of this membership.
    pub(crate) fn is_untold(&self, key: &Key) -> bool {
        self.untold.contains_key(key)
    }

    /// What the remote layer has to be told of.
    pub(crate) fn due(&mut self) -> Vec<Due> {
        self.prune();
        let due = |(key, line): (&Key, &Line)| {
            let Line { change, until, number } = *line;
            Due { key: key.clone(), change, until, number }
        };
        self.untold.iter().map(due).collect()
    }

    /// Notes that the remote layer has been told of `due`. If a call has told it of a later change meanwhile, that may have
    /// arrived first, and what is true `now` of the membership has to be told once more.
    pub(crate) fn settle(&mut self, due: &Due, now: (Change, Instant)) {
        match self.untold.get(&due.key) {
            Some(line) if line.number == due.number => drop(self.untold.remove(&due.key)),
            Some(_) => {}
            None => self.note(due.key.clone(), now.0, now.1, false),
        }
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.untold = HashMap::new();
    }

    /// Forgets changes that do not matter any more.
    pub(crate) fn prune(&mut self) {
        let now = Instant::now();
        self.untold.retain(|_, line| now < line.until);
        if self.untold.is_empty() {
            // After an outage with many changes it would keep their room.
            self.untold.shrink_to_fit();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const EXPIRY: Duration = Duration::from_mins(1);

    fn key(channel: &str) -> Key {
        (GroupName::parse("room").unwrap(), ChannelName::parse(channel).unwrap())
    }

    fn end() -> Instant {
        Instant::now() + EXPIRY
    }

    fn due(journal: &mut MembershipJournal) -> Vec<(String, Change, Instant)> {
        let due = journal.due().into_iter().map(|due| (due.key.1.to_string(), due.change, due.until));
        let mut due: Vec<_> = due.collect();
        due.sort_by(|(a, ..), (b, ..)| a.cmp(b));
        due
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_change_of_each_membership_is_due() {
        let mut journal = MembershipJournal::default();
        journal.note(key("told"), Change::Added, end(), true);
        journal.note(key("came"), Change::Added, end(), false);
        journal.note(key("went"), Change::Added, end(), false);
        journal.note(key("went"), Change::Discarded, end(), false);
        journal.note(key("both"), Change::Added, end(), false);
        journal.note(key("both"), Change::Discarded, end(), true);
        let expected = [("came".to_owned(), Change::Added, end()), ("went".to_owned(), Change::Discarded, end())];
        assert_eq!(due(&mut journal), expected);
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_that_comes_while_another_is_told_stays_due() {
        let mut journal = MembershipJournal::default();
        let now = (Change::Discarded, end());
        journal.note(key("a"), Change::Added, end(), false);
        let telling = journal.due();
        journal.note(key("a"), Change::Discarded, end(), false);
        journal.settle(&telling[0], now);
        assert_eq!(due(&mut journal), [("a".to_owned(), Change::Discarded, end())]);
        let telling = journal.due();
        journal.settle(&telling[0], now);
        assert_eq!(due(&mut journal), []);
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_that_a_call_tells_while_another_is_told_is_told_again() {
        let mut journal = MembershipJournal::default();
        journal.note(key("a"), Change::Added, end(), false);
        let telling = journal.due();
        journal.note(key("a"), Change::Discarded, end(), true);
        journal.settle(&telling[0], (Change::Discarded, end()));
        assert_eq!(due(&mut journal), [("a".to_owned(), Change::Discarded, end())]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_lost_is_due_unless_it_has_changed_or_ended() {
        let mut journal = MembershipJournal::default();
        let (soon, late) = (Instant::now() + EXPIRY / 2, end());
        journal.note(key("went"), Change::Discarded, late, false);
        journal.note_lost([(key("went"), late), (key("stays"), late), (key("ends"), soon)]);
        tokio::time::advance(EXPIRY / 2).await;
        let expected = [("stays".to_owned(), Change::Added, late), ("went".to_owned(), Change::Discarded, late)];
        assert_eq!(due(&mut journal), expected);
        tokio::time::advance(EXPIRY / 2).await;
        assert_eq!(due(&mut journal), []);
    }
}
