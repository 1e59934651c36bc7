//! `Buffer`: the entries of a reader in the order of their channels.

use std::collections::{HashMap, VecDeque};

use super::arrivals::Arrivals;
use super::buffered_entry::{BufferedEntry, DeliveryOutcome, GroupSend};
use super::held::{Held, Lookup};
use crate::drops::{DropReason, Drops};
use crate::layer::Sink;
use crate::redis::receive::raw::EntryFormat;

/// The entries of a reader: those that consumers can take, and those that are held for their group.
#[derive(Default)]
pub(crate) struct Buffer {
    /// Entries that consumers can take.
    pub(crate) ready: VecDeque<BufferedEntry>,
    /// Entries that wait for unknown members. Within a channel they follow the ready ones.
    pub(crate) held: Held,
    /// Messages that are being added. Within a channel they follow all others.
    pub(crate) arrivals: Arrivals,
    /// Messages that were dropped. They are counted after the change of the buffer that dropped them, outside the lock.
    pub(crate) dropped: Drops,
}

impl Buffer {
    /// Whether it has neither ready nor held entries.
    pub(crate) fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.held.is_empty()
    }

    /// Adds an entry behind all others of its channel. The entry is held if its recipients are unknown, or if it has to
    /// wait behind a held entry. A held entry for which there is no room is dropped.
    pub(crate) fn push(&mut self, entry: BufferedEntry) {
        if entry.unresolved_recipients().is_none() && !self.held.holds_back(&entry) {
            self.ready.push_back(entry);
        } else if let Some(refused) = self.held.push(entry) {
            self.dropped.add(DropReason::ShardDown, refused.undelivered());
        }
    }

    /// Adds the entries that have been made of the messages of a read.
    pub(crate) fn push_arrivals(&mut self) {
        self.arrivals.take_entries().into_iter().for_each(|entry| self.push(entry));
    }

    /// Applies the results of lookups to held entries, and makes the entries ready that have to wait no longer. Expired
    /// entries and those whose lookup failed are dropped.
    pub(crate) fn apply_lookups(&mut self, lookups: &HashMap<GroupSend, Lookup>) {
        for mut entry in self.held.take() {
            if entry.has_expired() {
                self.dropped.add(DropReason::Expired, entry.undelivered());
                continue;
            }
            match entry.unresolved_recipients().and_then(|unresolved| lookups.get(&unresolved.send)) {
                Some(Lookup::Members(members)) if members.is_empty() => continue,
                Some(Lookup::Members(members)) => entry.set_recipients(members.clone()),
                Some(Lookup::Failed) => {
                    self.dropped.add(DropReason::ShardDown, entry.undelivered());
                    continue;
                }
                Some(Lookup::Unavailable { .. }) | None => {}
            }
            self.push(entry);
        }
    }

    /// Adds entries in front of all others.
    pub(crate) fn prepend(&mut self, entries: Vec<BufferedEntry>) {
        let behind = self.take_all();
        entries.into_iter().chain(behind).for_each(|entry| self.push(entry));
    }

    /// Removes all ready and held entries. Those of each channel are in order.
    pub(crate) fn take_all(&mut self) -> Vec<BufferedEntry> {
        std::mem::take(&mut self.ready).into_iter().chain(self.held.take()).collect()
    }

    /// Drops everything. Returns the index of a shard whose messages were dropped.
    pub(crate) fn abandon(&mut self) -> Option<usize> {
        let mut entries = self.take_all();
        entries.extend(self.arrivals.take_entries());
        let waiting = self.arrivals.take_waiting();
        let recipients = entries.iter().map(BufferedEntry::undelivered).sum::<usize>() + waiting.len();
        self.dropped.add(DropReason::ShardDown, recipients);
        let shards = entries.iter().map(|entry| &entry.shard).chain(waiting.iter().map(|arrival| &arrival.shard));
        shards.map(|shard| shard.index).next()
    }

    /// Passes up to `limit` deliveries to `sink` and returns how many. Expired entries are dropped and unreadable ones
    /// rejected.
    pub(crate) fn deliver(&mut self, format: &dyn EntryFormat, sink: Sink<'_>, limit: usize) -> usize {
        let mut delivered = 0;
        while delivered < limit
            && let Some(first) = self.ready.front_mut()
        {
            let outcome = first.deliver(format, sink, limit - delivered);
            if let DeliveryOutcome::Delivered { count, more } = outcome {
                delivered += count;
                if more {
                    break;
                }
            }
            let Some(entry) = self.ready.pop_front() else { break };
            match outcome {
                DeliveryOutcome::Delivered { .. } => {}
                DeliveryOutcome::Dropped(reason) => self.dropped.add(reason, entry.undelivered()),
                DeliveryOutcome::Unreadable(unreadable) => {
                    self.dropped.add(unreadable.drop, entry.undelivered());
                    format.reject(&entry.shard, &entry.source, entry.to_bytes().into(), unreadable.reason);
                }
            }
        }
        delivered
    }
}
