//! Entries between Redis and their readers: what was popped and has not been handed over yet.

use std::collections::VecDeque;
use std::sync::Arc;

use super::format::{Format, Raw, Unreadable};
use crate::drops::{self, DropReason};
use crate::layer::{Delivery, Sink};
use crate::message::Message;
use crate::name::{ChannelName, GroupName};
use crate::redis::frame::{Address, Entry};
use crate::redis::shard::Shard;

/// One message that was taken, and whom it still has to reach.
#[derive(Debug)]
pub(crate) struct Parcel {
    pub(super) shard: Arc<Shard>,
    /// The channel in which it was, by its non-local part.
    pub(super) source: ChannelName,
    /// When it expires, in ms since the epoch by the shard's clock.
    expires: u64,
    content: Content,
    to: Recipients,
}

#[derive(Debug)]
enum Content {
    /// Of the native format: opened and decoded when the first recipient takes it, and shared by the others.
    Entry { entry: Entry, message: Option<Message> },
    /// Of another format, which had to decode it to know whom it is for.
    Open { raw: Raw, message: Message },
}

#[derive(Debug)]
enum Recipients {
    /// They could not be found out: it is there to go back.
    Unknown,
    One(ChannelName),
    /// Members of a group; those before `next` have got it.
    Members {
        channels: Arc<[ChannelName]>,
        next: usize,
    },
}

/// What a parcel gave to a reader that asked.
pub(super) enum Taken {
    /// So many deliveries; the parcel has more if `more` is set.
    Deliveries { count: usize, more: bool },
    /// It had expired, and was counted.
    Expired,
    /// It cannot be read, and was counted; its bytes belong into quarantine.
    Unreadable(Unreadable),
}

impl Parcel {
    pub(super) fn to_one(shard: Arc<Shard>, source: ChannelName, entry: Entry, channel: ChannelName) -> Self {
        let (expires, content) = (entry.expires, Content::Entry { entry, message: None });
        Self { shard, source, expires, content, to: Recipients::One(channel) }
    }

    /// A group message whose members could not be found out.
    pub(super) fn to_unknown(shard: Arc<Shard>, source: ChannelName, entry: Entry) -> Self {
        let (expires, content) = (entry.expires, Content::Entry { entry, message: None });
        Self { shard, source, expires, content, to: Recipients::Unknown }
    }

    pub(super) fn to_members(
        shard: Arc<Shard>,
        source: ChannelName,
        entry: Entry,
        channels: Arc<[ChannelName]>,
    ) -> Self {
        let (expires, content) = (entry.expires, Content::Entry { entry, message: None });
        Self { shard, source, expires, content, to: Recipients::Members { channels, next: 0 } }
    }

    /// A message of another format than the native one, for some channels, of which there is one at least.
    pub(crate) fn open(
        shard: Arc<Shard>,
        source: ChannelName,
        expires: u64,
        (raw, message): (Raw, Message),
        channels: Arc<[ChannelName]>,
    ) -> Self {
        let to = Recipients::Members { channels, next: 0 };
        Self { shard, source, expires, content: Content::Open { raw, message }, to }
    }

    /// Hands the message to the next recipients, `limit` at most, which is at least 1. They are many where a group is
    /// large, so that what concerns all of them is done once.
    fn hand_over(&mut self, format: &dyn Format, sink: Sink<'_>, limit: usize) -> Taken {
        let now = self.now();
        if self.expires <= now {
            drops::count(DropReason::Expired, self.left());
            return Taken::Expired;
        }
        let message = match self.message(format, now) {
            Ok(message) => message,
            Err(unreadable) => {
                drops::count(unreadable.drop, self.left());
                return Taken::Unreadable(unreadable);
            }
        };
        match &mut self.to {
            // Only a reader that ends has one here, to put it back.
            Recipients::Unknown => {
                drops::count(DropReason::ShardDown, 1);
                Taken::Deliveries { count: 0, more: false }
            }
            Recipients::One(channel) => {
                sink(Delivery::new(channel.clone(), message));
                Taken::Deliveries { count: 1, more: false }
            }
            Recipients::Members { channels, next } => {
                let (first, end) = (*next, channels.len().min(next.saturating_add(limit)));
                for channel in &channels[first..end] {
                    sink(Delivery::new(channel.clone(), message.clone()));
                }
                *next = end;
                Taken::Deliveries { count: end - first, more: end < channels.len() }
            }
        }
    }

    fn message(&mut self, format: &dyn Format, now: u64) -> Result<Message, Unreadable> {
        match &mut self.content {
            Content::Entry { message: Some(message), .. } | Content::Open { message, .. } => Ok(message.clone()),
            Content::Entry { entry, message } => Ok(message.insert(format.open(entry, &self.source, now)?).clone()),
        }
    }

    /// How many recipients have not got it.
    pub(super) fn left(&self) -> usize {
        match &self.to {
            Recipients::Unknown | Recipients::One(_) => 1,
            Recipients::Members { channels, next } => channels.len() - next,
        }
    }

    /// Those who have not got it, if others have.
    pub(crate) fn rest(&self) -> Option<&[ChannelName]> {
        match &self.to {
            Recipients::Members { channels, next } if *next > 0 => Some(&channels[*next..]),
            _ => None,
        }
    }

    /// The group of one that is for its members, with the version and the time in ms of its send.
    pub(super) fn group(&self) -> Option<(GroupName, u64, u64)> {
        let entry = self.entry()?;
        match &entry.address {
            Address::Group { group, version } => Some((GroupName::parse(group).ok()?, *version, entry.sent())),
            _ => None,
        }
    }

    /// Notes who it is for.
    pub(super) fn address(&mut self, channels: Arc<[ChannelName]>) {
        self.to = Recipients::Members { channels, next: 0 };
    }

    /// Whether it has expired, by the clock of its shard.
    pub(super) fn has_expired(&self) -> bool {
        self.expires <= self.now()
    }

    fn now(&self) -> u64 {
        // Every entry came over a connection that has told the time.
        self.shard.clock.now_ms().unwrap_or(0)
    }

    /// Whether it could not be found out who it is for.
    pub(super) fn is_for_unknown(&self) -> bool {
        matches!(self.to, Recipients::Unknown)
    }

    /// Whether its channel has one reader.
    pub(super) fn has_one_reader(&self) -> bool {
        self.source.kind().has_one_reader()
    }

    /// About how many bytes it has in Redis.
    pub(super) fn size(&self) -> usize {
        match &self.content {
            Content::Entry { entry, .. } => entry.body.len(),
            Content::Open { raw, .. } => raw.body.len() + raw.label.len(),
        }
    }

    /// The shard that it was taken from.
    pub(crate) fn shard(&self) -> &Shard {
        &self.shard
    }

    /// What it was made from, if it is of another format than the native one.
    pub(crate) fn raw(&self) -> Option<(&Raw, &Message)> {
        match &self.content {
            Content::Open { raw, message } => Some((raw, message)),
            Content::Entry { .. } => None,
        }
    }

    /// The native entry that it was made from, if it is of that format.
    pub(super) fn entry(&self) -> Option<&Entry> {
        match &self.content {
            Content::Entry { entry, .. } => Some(entry),
            Content::Open { .. } => None,
        }
    }

    /// What Redis gave.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        match &self.content {
            Content::Entry { entry, .. } => entry.to_bytes(),
            Content::Open { raw, .. } => raw.body.to_vec(),
        }
    }
}

/// Takes up to `limit` deliveries out of `parcels`, dropping what has expired and what cannot be read; gives how many.
pub(super) fn take_next(parcels: &mut VecDeque<Parcel>, format: &dyn Format, sink: Sink<'_>, limit: usize) -> usize {
    let mut taken = 0;
    while taken < limit
        && let Some(parcel) = parcels.front_mut()
    {
        match parcel.hand_over(format, sink, limit - taken) {
            Taken::Deliveries { count, more } => {
                taken += count;
                if more {
                    break;
                }
            }
            Taken::Expired => {}
            Taken::Unreadable(fault) => format.refuse(&parcel.shard, parcel.to_bytes().into(), fault.reason),
        }
        parcels.pop_front();
    }
    taken
}
