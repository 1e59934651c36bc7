//! `Held`: group messages whose members are unknown because the server of their group is unreachable, and the messages behind
//! them.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::drops::{self, DropReason};
use crate::name::ChannelName;
use crate::redis::node::shard::Shard;
use crate::redis::receive::buffer::entry::BufferedEntry;

/// The most messages, and the most bytes of them, that one reader holds.
const MAX_ENTRIES: usize = 10_000;
const MAX_BYTES: usize = 16 << 20;
/// The time between two lookups of the members.
const RESOLVE_AGAIN: Duration = Duration::from_millis(100);
/// How long newer messages of the same channel wait behind a held message. After that the server of the group is unreachable
/// for longer than a restart takes, and channels on other servers must not stop with it.
const KEEP_ORDER: Duration = Duration::from_secs(5);

/// A bounded buffer of group messages that wait for the server of their group, and of newer messages of the same channels that
/// keep their order behind them. The first held message of a channel is always one without known members.
#[derive(Default)]
pub(crate) struct Held {
    entries: VecDeque<BufferedEntry>,
    bytes: usize,
    /// When the members were last looked up.
    resolved_at: Option<Instant>,
}

impl Held {
    /// Adds `entry` behind the others. If there is no room, the entry is dropped and counted.
    pub(crate) fn push(&mut self, entry: BufferedEntry) {
        if self.entries.len() >= MAX_ENTRIES || self.bytes + entry.size() > MAX_BYTES {
            drops::count(DropReason::ShardDown, entry.undelivered());
            return;
        }
        self.bytes += entry.size();
        self.entries.push_back(entry);
    }

    /// Whether `entry` has to wait behind a held message of its channel. Messages of one group keep their order
    /// however long they wait.
    pub(crate) fn holds_back(&self, entry: &BufferedEntry) -> bool {
        let same_group = |held: &BufferedEntry| {
            let group = entry.group_name();
            held.source == entry.source && group.is_some() && held.group_name() == group
        };
        self.blocks(&entry.source, &entry.shard) || self.entries.iter().any(same_group)
    }

    /// Whether all messages of `source`, which are on `shard`, have to wait behind a held one. While `shard` is down, letting
    /// them pass gains nothing.
    pub(crate) fn blocks(&self, source: &ChannelName, shard: &Shard) -> bool {
        let oldest = self.entries.iter().find(|held| held.source == *source);
        oldest.is_some_and(|oldest| !shard.is_up() || oldest.unresolved_for().is_some_and(|time| time < KEEP_ORDER))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// When to look up the members again; `None` if no message is held.
    pub(crate) fn resolve_again_at(&self) -> Option<Instant> {
        (!self.is_empty()).then(|| self.resolved_at.map_or_else(Instant::now, |last| last + RESOLVE_AGAIN))
    }

    /// Removes all messages, in order, for a lookup of their members.
    pub(crate) fn take(&mut self) -> VecDeque<BufferedEntry> {
        self.bytes = 0;
        self.resolved_at = Some(Instant::now());
        std::mem::take(&mut self.entries)
    }
}
