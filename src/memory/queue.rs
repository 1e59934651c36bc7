//! The messages that wait in one channel in memory, in the order in which they were sent.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::time::Instant;

use crate::drops::{self, DropReason};
use crate::layer::{Delivery, Sink};
use crate::message::Message;
use crate::name::ChannelName;

/// The queue of a channel.
#[derive(Debug, Default)]
pub(super) struct Queue {
    entries: VecDeque<Entry>,
    /// The sizes of all entries.
    bytes: usize,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) expires: Instant,
    /// The epoch in which it was sent, which never decreases along the queue.
    pub(super) epoch: u64,
    /// Bytes that it takes; 0 where they are not bounded.
    pub(super) size: usize,
    pub(super) message: Message,
    pub(super) to: To,
}

/// Whom an entry of the queue is for.
#[derive(Clone, Debug)]
pub(super) enum To {
    /// The channel that has the queue.
    Channel,
    /// One process-local channel of it.
    Local(ChannelName),
    /// The members of a group at the time of the send. They share one entry, which stays at the head until the last of
    /// them is served.
    Members {
        members: Arc<[ChannelName]>,
        /// Position of the first who has not been served.
        next: usize,
    },
}

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The entry that has waited longest.
    pub(super) fn front(&self) -> Option<&Entry> {
        self.entries.front()
    }

    /// Whether an entry of `size` fits beside the others into `bytes`. An empty queue holds any one entry.
    pub(super) fn fits(&self, size: usize, bytes: usize) -> bool {
        self.is_empty() || self.bytes.saturating_add(size) <= bytes
    }

    pub(super) fn push(&mut self, entry: Entry) {
        self.bytes += entry.size;
        self.entries.push_back(entry);
    }

    /// Takes the entry that has waited longest out.
    pub(super) fn pop(&mut self) -> Option<Entry> {
        let entry = self.entries.pop_front()?;
        self.bytes -= entry.size;
        Some(entry)
    }

    /// Hands up to `limit` deliveries of entries from before `epoch` to `sink`; returns how many.
    pub(super) fn take(&mut self, channel: &ChannelName, epoch: u64, sink: Sink<'_>, limit: usize) -> usize {
        if self.is_empty() {
            return 0;
        }
        self.drop_expired(Instant::now());
        let mut taken = 0;
        while taken < limit
            && let Some(head) = self.entries.front_mut().filter(|head| head.epoch < epoch)
        {
            taken += 1;
            if let Some(delivery) = head.next_but_last() {
                sink(delivery);
            } else if let Some(last) = self.pop() {
                sink(last.into_delivery(channel));
            }
        }
        taken
    }

    /// All messages wait equally long, so that the expired ones are at the head.
    pub(super) fn drop_expired(&mut self, now: Instant) {
        let before = self.len();
        while self.front().is_some_and(|entry| now >= entry.expires) {
            self.pop();
        }
        drops::count(DropReason::Expired, before - self.len());
    }

    /// Frees what a queue that was long once has reserved.
    pub(super) fn shrink(&mut self) {
        if self.entries.capacity() / 4 > self.len() {
            self.entries.shrink_to(self.len() * 2);
        }
    }
}

impl Entry {
    /// The next delivery of an entry that has more than one left.
    fn next_but_last(&mut self) -> Option<Delivery> {
        let To::Members { members, next } = &mut self.to else { return None };
        if *next + 1 >= members.len() {
            return None;
        }
        let member = members[*next].clone();
        *next += 1;
        Some(Delivery::new(member, self.message.clone()))
    }

    fn into_delivery(self, channel: &ChannelName) -> Delivery {
        let channel = match self.to {
            To::Channel => channel.clone(),
            To::Local(name) => name,
            To::Members { members, next } => members[next].clone(),
        };
        Delivery::new(channel, self.message)
    }
}
