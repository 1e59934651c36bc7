//! `Arrivals`: what a read brought, until the recipients of all its messages have been looked up.

use std::collections::VecDeque;
use std::sync::Arc;

use super::buffered_entry::BufferedEntry;
use crate::name::ChannelName;
use crate::redis::node::shard::Shard;
use crate::redis::receive::raw::Raw;
use crate::redis::topology::lists::ListName;

/// The messages of a read, and the entries that have been made of the first ones. They stay here during the lookups, so
/// that a panic or the end of the runtime loses none of them uncounted.
#[derive(Default)]
pub(crate) struct Arrivals {
    waiting: VecDeque<Arrival>,
    entries: Vec<BufferedEntry>,
}

/// A message whose recipients have not been looked up.
#[derive(Clone)]
pub(crate) struct Arrival {
    pub(crate) shard: Arc<Shard>,
    pub(crate) source: ChannelName,
    list: ListName,
    pub(crate) raw: Raw,
}

impl Arrivals {
    /// Adds the messages that a read took from a list of `source` on `shard`.
    pub(crate) fn add(&mut self, shard: &Arc<Shard>, source: &ChannelName, list: &ListName, raw: Vec<Raw>) {
        let arrival = |raw| Arrival { shard: shard.clone(), source: source.clone(), list: list.clone(), raw };
        self.waiting.extend(raw.into_iter().map(arrival));
    }

    /// The first message whose recipients have not been looked up.
    pub(crate) fn first(&self) -> Option<Arrival> {
        self.waiting.front().cloned()
    }

    /// Replaces the first message by its entry; `None` if it needs none.
    pub(crate) fn replace_first(&mut self, entry: Option<BufferedEntry>) {
        let list = self.waiting.pop_front().map(|arrival| arrival.list).unwrap_or_default();
        self.entries.extend(entry.map(|entry| entry.in_list(list)));
    }

    /// Takes the entries out, in order.
    pub(super) fn take_entries(&mut self) -> Vec<BufferedEntry> {
        std::mem::take(&mut self.entries)
    }

    /// Takes out the messages whose recipients have not been looked up.
    pub(super) fn take_waiting(&mut self) -> VecDeque<Arrival> {
        std::mem::take(&mut self.waiting)
    }
}
