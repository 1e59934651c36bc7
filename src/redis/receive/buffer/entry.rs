//! Entries between Redis and their readers: what was popped and has not been handed over yet.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::drops::{self, DropReason};
use crate::layer::{Delivery, Sink};
use crate::message::Message;
use crate::name::{ChannelName, GroupName};
use crate::redis::groups::membership::Recipients;
use crate::redis::native::entry::{Address, Entry, Locals};
use crate::redis::node::shard::Shard;
use crate::redis::receive::format::{Raw, ReadFormat, Unreadable};
use crate::redis::receive::reader::{PANICKED, TASK};
use crate::supervise::contain;

/// One message that was taken, and whom it still has to reach.
#[derive(Debug)]
pub(crate) struct BufferedEntry {
    pub(crate) shard: Arc<Shard>,
    /// The channel in which it was, by its non-local part.
    pub(crate) source: ChannelName,
    /// When it expires, in ms since the epoch by the shard's clock.
    expires: u64,
    content: Content,
    to: To,
}

#[derive(Debug)]
enum Content {
    /// Of the native format: opened and decoded when the first recipient takes it, and shared by the others.
    Entry { entry: Entry, message: Option<Message> },
    /// Of another format, which had to decode it to know whom it is for.
    Open { raw: Raw, message: Message },
}

#[derive(Debug)]
enum To {
    /// They have not been found out since then.
    Unknown {
        since: Instant,
    },
    One(ChannelName),
    /// The members that a group had. They are listed when the first of them gets it, and no sooner: the message has to be
    /// genuine before it may take memory for each.
    Group(Recipients),
    /// Members of a group; those before `next` have got it.
    Members {
        channels: Arc<[ChannelName]>,
        next: usize,
    },
    /// The local parts that have not got it, of those for which it came; their names are made when they get it.
    Rest {
        locals: Locals,
        came_for: usize,
    },
}

/// What a parcel gave to a reader that asked.
pub(crate) enum Taken {
    /// So many deliveries; the parcel has more if `more` is set.
    Deliveries { count: usize, more: bool },
    /// It had expired, and was counted.
    Expired,
    /// It cannot be read, and was counted; its bytes belong into quarantine.
    Unreadable(Unreadable),
}

impl BufferedEntry {
    pub(crate) fn to_one(shard: Arc<Shard>, source: ChannelName, entry: Entry, channel: ChannelName) -> Self {
        let (expires, content) = (entry.expires, Content::Entry { entry, message: None });
        Self { shard, source, expires, content, to: To::One(channel) }
    }

    /// A group message whose members could not be found out.
    pub(crate) fn to_unknown(shard: Arc<Shard>, source: ChannelName, entry: Entry) -> Self {
        let (expires, content) = (entry.expires, Content::Entry { entry, message: None });
        Self { shard, source, expires, content, to: To::Unknown { since: Instant::now() } }
    }

    pub(crate) fn to_members(shard: Arc<Shard>, source: ChannelName, entry: Entry, members: Recipients) -> Self {
        let (expires, content) = (entry.expires, Content::Entry { entry, message: None });
        Self { shard, source, expires, content, to: To::Group(members) }
    }

    /// What is left of a group message, for `locals`, which are names of channels with `source`.
    pub(crate) fn to_rest(shard: Arc<Shard>, source: ChannelName, entry: Entry, locals: Locals) -> Self {
        let (expires, content) = (entry.expires, Content::Entry { entry, message: None });
        let came_for = locals.len();
        Self { shard, source, expires, content, to: To::Rest { locals, came_for } }
    }

    /// A message of another format than the native one, for some channels, of which there is one at least.
    pub(crate) fn open(
        shard: Arc<Shard>,
        source: ChannelName,
        expires: u64,
        (raw, message): (Raw, Message),
        channels: Arc<[ChannelName]>,
    ) -> Self {
        let to = To::Members { channels, next: 0 };
        Self { shard, source, expires, content: Content::Open { raw, message }, to }
    }

    /// Hands the message to the next recipients, `limit` at most, which is at least 1. They are many where a group is
    /// large, so that what concerns all of them is done once.
    fn hand_over(&mut self, format: &dyn ReadFormat, sink: Sink<'_>, limit: usize) -> Taken {
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
        if let To::Group(members) = &self.to {
            self.to = To::Members { channels: members.list(), next: 0 };
        }
        match &mut self.to {
            // These are held, or were listed above.
            To::Unknown { .. } | To::Group(_) => {
                drops::count(DropReason::ShardDown, 1);
                Taken::Deliveries { count: 0, more: false }
            }
            To::One(channel) => {
                sink(Delivery::new(channel.clone(), message));
                Taken::Deliveries { count: 1, more: false }
            }
            To::Members { channels, next } => {
                let (first, end) = (*next, channels.len().min(next.saturating_add(limit)));
                for channel in &channels[first..end] {
                    sink(Delivery::new(channel.clone(), message.clone()));
                }
                *next = end;
                Taken::Deliveries { count: end - first, more: end < channels.len() }
            }
            To::Rest { locals, .. } => {
                let mut count = 0;
                for local in locals.take(limit) {
                    count += 1;
                    // It was one when the message came.
                    let channel = local.and_then(|local| ChannelName::from_parts(self.source.as_str(), &local).ok());
                    if let Some(channel) = channel {
                        sink(Delivery::new(channel, message.clone()));
                    }
                }
                Taken::Deliveries { count, more: locals.len() > 0 }
            }
        }
    }

    fn message(&mut self, format: &dyn ReadFormat, now: u64) -> Result<Message, Unreadable> {
        match &mut self.content {
            Content::Entry { message: Some(message), .. } | Content::Open { message, .. } => Ok(message.clone()),
            Content::Entry { entry, message } => {
                let opened = contain(TASK, || format.open(entry, &self.source, now));
                let panicked = || Unreadable { drop: DropReason::Undecodable, reason: PANICKED.to_owned() };
                Ok(message.insert(opened.ok_or_else(panicked)??).clone())
            }
        }
    }

    /// How many recipients have not got it.
    pub(crate) fn left(&self) -> usize {
        match &self.to {
            To::Unknown { .. } | To::One(_) => 1,
            To::Group(members) => members.list().len(),
            To::Members { channels, next } => channels.len() - next,
            To::Rest { locals, .. } => locals.len(),
        }
    }

    /// The local parts of those who have not got it, if others have.
    pub(crate) fn rest_of_locals(&self) -> Option<Locals> {
        match &self.to {
            To::Rest { locals, came_for } => (locals.len() < *came_for).then(|| locals.clone()),
            _ => Some(self.rest()?.iter().filter_map(ChannelName::local).collect()),
        }
    }

    /// The members of a group who have not got it, if others have.
    pub(crate) fn rest(&self) -> Option<&[ChannelName]> {
        match &self.to {
            To::Members { channels, next } if *next > 0 => Some(&channels[*next..]),
            _ => None,
        }
    }

    /// The group of one that is for its members, with the version and the time in ms of its send.
    pub(crate) fn group(&self) -> Option<(GroupName, u64, u64)> {
        let entry = self.entry()?;
        match &entry.address {
            Address::Group { group, version } => Some((GroupName::parse(group).ok()?, *version, entry.sent())),
            _ => None,
        }
    }

    /// The name of that group.
    pub(crate) fn group_name(&self) -> Option<&str> {
        match &self.entry()?.address {
            Address::Group { group, .. } => Some(group),
            _ => None,
        }
    }

    /// Notes who it is for.
    pub(crate) fn address(&mut self, members: Recipients) {
        self.to = To::Group(members);
    }

    /// Whether it has expired, by the clock of its shard.
    pub(crate) fn has_expired(&self) -> bool {
        self.expires <= self.now()
    }

    fn now(&self) -> u64 {
        // Every entry came over a connection that has told the time.
        self.shard.clock.now_ms().unwrap_or(0)
    }

    /// For how long its recipients have not been found out; `None` if they are known.
    pub(crate) fn unknown_for(&self) -> Option<Duration> {
        match self.to {
            To::Unknown { since } => Some(since.elapsed()),
            _ => None,
        }
    }

    /// Whether its channel has one reader.
    pub(crate) fn has_one_reader(&self) -> bool {
        self.source.kind().has_one_reader()
    }

    /// About how many bytes it has in Redis.
    pub(crate) fn size(&self) -> usize {
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
    pub(crate) fn entry(&self) -> Option<&Entry> {
        match &self.content {
            Content::Entry { entry, .. } => Some(entry),
            Content::Open { .. } => None,
        }
    }

    /// What Redis gave.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        match &self.content {
            Content::Entry { entry, .. } => entry.to_bytes(),
            Content::Open { raw, .. } => raw.body.to_vec(),
        }
    }
}

/// Takes up to `limit` deliveries out of `parcels`, dropping what has expired and what cannot be read; gives how many.
pub(crate) fn take_next(
    parcels: &mut VecDeque<BufferedEntry>,
    format: &dyn ReadFormat,
    sink: Sink<'_>,
    limit: usize,
) -> usize {
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
            Taken::Unreadable(fault) => {
                format.refuse(&parcel.shard, &parcel.source, parcel.to_bytes().into(), fault.reason);
            }
        }
        parcels.pop_front();
    }
    taken
}
