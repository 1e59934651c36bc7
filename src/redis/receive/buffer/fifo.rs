//! `Buffer`: the entries of a reader in the order of their channels.

use std::collections::VecDeque;

use super::entry::{BufferedEntry, Outcome};
use super::held::Held;
use crate::layer::Sink;
use crate::redis::receive::format::ReadFormat;

/// The entries of a reader: those that consumers can take, and those that are held for their group.
#[derive(Default)]
pub(crate) struct Buffer {
    /// Entries that consumers can take.
    pub(crate) ready: VecDeque<BufferedEntry>,
    /// Entries that wait for unknown members. Within a channel they follow the ready ones.
    pub(crate) held: Held,
}

impl Buffer {
    /// Whether it has neither ready nor held entries.
    pub(crate) fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.held.is_empty()
    }

    /// Adds an entry behind all others of its channel. The entry is held if its recipients are unknown, or if it has to wait
    /// behind a held entry.
    pub(crate) fn push(&mut self, entry: BufferedEntry) {
        if entry.unresolved_for().is_some() || self.held.holds_back(&entry) {
            self.held.push(entry);
        } else {
            self.ready.push_back(entry);
        }
    }

    /// Adds entries in front of all others.
    pub(crate) fn prepend(&mut self, entries: Vec<BufferedEntry>) {
        let behind = self.take_all();
        entries.into_iter().chain(behind).for_each(|entry| self.push(entry));
    }

    /// Removes all entries. Those of each channel are in order.
    pub(crate) fn take_all(&mut self) -> Vec<BufferedEntry> {
        std::mem::take(&mut self.ready).into_iter().chain(self.held.take()).collect()
    }

    /// Passes up to `limit` deliveries to `sink` and returns how many. Expired entries are dropped and unreadable ones rejected.
    pub(crate) fn deliver(&mut self, format: &dyn ReadFormat, sink: Sink<'_>, limit: usize) -> usize {
        let mut delivered = 0;
        while delivered < limit
            && let Some(entry) = self.ready.front_mut()
        {
            match entry.deliver(format, sink, limit - delivered) {
                Outcome::Delivered { count, more } => {
                    delivered += count;
                    if more {
                        break;
                    }
                }
                Outcome::Expired => {}
                Outcome::Unreadable(unreadable) => {
                    format.reject(&entry.shard, &entry.source, entry.to_bytes().into(), unreadable.reason);
                }
            }
            self.ready.pop_front();
        }
        delivered
    }
}
