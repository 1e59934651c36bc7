//! `Queue`: the waiting messages of one channel, in the order in which they were sent.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::time::Instant;

use crate::drops::{DropReason, Drops};
use crate::layer::{Delivery, Sink};
use crate::message::Message;
use crate::name::ChannelName;

/// The queue of a channel.
#[derive(Debug, Default)]
pub(super) struct Queue {
    entries: VecDeque<Entry>,
    /// Sum of the sizes of all entries.
    bytes: usize,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) expires: Instant,
    /// The epoch in which the message was sent. It never decreases along the queue.
    pub(super) epoch: u64,
    /// Size in bytes; 0 if the layer has no limit in bytes.
    pub(super) size: usize,
    pub(super) message: Message,
    pub(super) recipients: Recipients,
}

/// The recipients of an entry.
#[derive(Clone, Debug)]
pub(super) enum Recipients {
    /// The channel of the queue.
    Channel,
    /// One process-local channel.
    Local(ChannelName),
    /// The members of a group at the time of the send. They share one entry, which stays at the head of the queue until
    /// each of them has had its delivery.
    Members {
        members: Arc<[ChannelName]>,
        /// Index of the next member to deliver to.
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

    /// Returns the oldest entry.
    pub(super) fn front(&self) -> Option<&Entry> {
        self.entries.front()
    }

    /// Whether an entry of `size` fits into `bytes` together with the others. An empty queue accepts any entry.
    pub(super) fn fits(&self, size: usize, bytes: usize) -> bool {
        self.is_empty() || self.bytes.saturating_add(size) <= bytes
    }

    pub(super) fn push(&mut self, entry: Entry) {
        self.bytes += entry.size;
        self.entries.push_back(entry);
    }

    /// Removes the oldest entry.
    pub(super) fn pop(&mut self) -> Option<Entry> {
        let entry = self.entries.pop_front()?;
        self.bytes -= entry.size;
        Some(entry)
    }

    /// Hands up to `limit` deliveries of entries sent before `epoch` to `sink`. Returns their number. Adds the messages
    /// that it drops to `drops`.
    pub(super) fn take(
        &mut self,
        channel: &ChannelName,
        epoch: u64,
        sink: Sink<'_>,
        limit: usize,
        drops: &mut Drops,
    ) -> usize {
        if self.is_empty() {
            return 0;
        }
        self.drop_expired(Instant::now(), drops);
        let mut taken = 0;
        while taken < limit
            && let Some(head) = self.entries.front_mut().filter(|head| head.epoch < epoch)
        {
            taken += 1;
            if let Some(delivery) = head.next_of_several() {
                sink(delivery);
            } else if let Some(last) = self.pop() {
                sink(last.into_delivery(channel));
            }
        }
        taken
    }

    /// Drops expired messages, and adds them to `drops`. All messages have the same lifetime, so the expired ones are
    /// at the head.
    pub(super) fn drop_expired(&mut self, now: Instant, drops: &mut Drops) {
        let before = self.len();
        while self.front().is_some_and(|entry| now >= entry.expires) {
            self.pop();
        }
        drops.add(DropReason::Expired, before - self.len());
    }

    /// Frees memory if the queue has become much shorter than its capacity.
    pub(super) fn shrink(&mut self) {
        if self.entries.capacity() / 4 > self.len() {
            self.entries.shrink_to(self.len() * 2);
        }
    }
}

impl Entry {
    /// Returns the next delivery, unless it is the last one of the entry.
    fn next_of_several(&mut self) -> Option<Delivery> {
        let Recipients::Members { members, next } = &mut self.recipients else { return None };
        if *next + 1 >= members.len() {
            return None;
        }
        let member = members[*next].clone();
        *next += 1;
        Some(Delivery::new(member, self.message.clone()))
    }

    fn into_delivery(self, channel: &ChannelName) -> Delivery {
        let channel = match self.recipients {
            Recipients::Channel => channel.clone(),
            Recipients::Local(name) => name,
            Recipients::Members { members, next } => members[next].clone(),
        };
        Delivery::new(channel, self.message)
    }
}
