//! `Held`: group messages whose members are unknown because the server of their group is unreachable, and the messages
//! behind them.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::buffered_entry::{BufferedEntry, GroupSend, Unresolved};
use crate::name::ChannelName;
use crate::redis::groups::membership::Recipients;
use crate::redis::node::shard::Shard;

/// The most messages, and the most bytes of them, that one reader holds.
const MAX_ENTRIES: usize = 10_000;
const MAX_BYTES: usize = 16 << 20;
/// The time between two lookups of the members.
const RESOLVE_AGAIN: Duration = Duration::from_millis(100);
/// How long a server of a group may be unreachable while newer messages wait behind held messages of the group. After
/// that it is unreachable for longer than a restart takes, and channels on other servers must not stop with it.
const KEEP_ORDER: Duration = Duration::from_secs(5);

/// The result of a lookup of a group's members.
#[derive(Debug)]
pub(crate) enum Lookup {
    Members(Recipients),
    /// The server of the group is unreachable, or cannot answer now. Lookups have failed there `since` then.
    Unavailable {
        since: Instant,
    },
    /// The server of the group answered with a permanent error.
    Failed,
}

/// A bounded buffer of group messages that wait for the server of their group, and of newer messages of the same
/// channels that keep their order behind them. The first held message of a channel is always one without known members.
#[derive(Default)]
pub(crate) struct Held {
    entries: VecDeque<BufferedEntry>,
    bytes: usize,
    /// For each channel with held messages and each server of a group, the message whose lookups began to fail last.
    unresolved: HashMap<ChannelName, Vec<Unresolved>>,
    /// When the members were last looked up.
    resolved_at: Option<Instant>,
}

impl Held {
    /// Adds `entry` behind the others. Returns it if there is no room.
    #[must_use]
    pub(super) fn push(&mut self, entry: BufferedEntry) -> Option<BufferedEntry> {
        if self.entries.len() >= MAX_ENTRIES || self.bytes + entry.size() > MAX_BYTES {
            return Some(entry);
        }
        if let Some(last) = entry.unresolved_recipients() {
            let known = self.unresolved.entry(entry.source.clone()).or_default();
            match known.iter_mut().find(|known| known.home.index == last.home.index) {
                Some(known) if known.since >= last.since => {}
                Some(known) => *known = last.clone(),
                None => known.push(last.clone()),
            }
        }
        self.bytes += entry.size();
        self.entries.push_back(entry);
        None
    }

    /// Whether `entry` has to wait behind a held message of its channel. Messages of one group keep their order
    /// however long they wait.
    pub(super) fn holds_back(&self, entry: &BufferedEntry) -> bool {
        let same_group = |held: &BufferedEntry| {
            let group = entry.group_name();
            held.source == entry.source && group.is_some() && held.group_name() == group
        };
        self.blocks(&entry.source, &entry.shard) || self.entries.iter().any(same_group)
    }

    /// Whether all messages of `source`, which are on `shard`, have to wait behind held ones: the server of a group of
    /// any of them is unreachable, but not yet for long. While `shard` is down, letting messages pass gains nothing. In
    /// a cluster the channel may have moved to another shard since.
    pub(crate) fn blocks(&self, source: &ChannelName, shard: &Shard) -> bool {
        let Some(held) = self.unresolved.get(source) else { return false };
        let keeps_order = |unresolved: &Unresolved| unresolved.unavailable_for() < KEEP_ORDER;
        held.iter().any(keeps_order) || (!shard.is_up() && shard.holds(source.non_local()))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// When to look up the members again; `None` if no message is held.
    pub(crate) fn resolve_again_at(&self) -> Option<Instant> {
        (!self.is_empty()).then(|| self.resolved_at.map_or_else(Instant::now, |last| last + RESOLVE_AGAIN))
    }

    /// Begins a lookup of all unknown members. Returns the sends of their messages, in order. If there are none,
    /// nothing is held.
    pub(crate) fn begin_lookups(&mut self) -> Vec<GroupSend> {
        self.resolved_at = Some(Instant::now());
        let unresolved = self.entries.iter().filter_map(BufferedEntry::unresolved_recipients);
        unresolved.map(|unresolved| unresolved.send.clone()).collect()
    }

    /// Removes all messages, in order.
    pub(super) fn take(&mut self) -> VecDeque<BufferedEntry> {
        self.bytes = 0;
        self.unresolved.clear();
        std::mem::take(&mut self.entries)
    }
}
