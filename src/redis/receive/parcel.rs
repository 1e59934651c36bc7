//! Entries between Redis and their readers: what was popped and has not been handed over yet.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use crate::drops::{self, DropReason};
use crate::layer::Delivery;
use crate::message::Message;
use crate::name::ChannelName;
use crate::redis::envelope::{Context, Envelope, Unreadable};
use crate::redis::frame::{Address, Entry, Text};
use crate::redis::shard::Shard;

/// One popped entry, and whom it still has to reach.
#[derive(Debug)]
pub(super) struct Parcel {
    pub(super) shard: Arc<Shard>,
    /// The channel in whose list it was, by its non-local part.
    pub(super) source: ChannelName,
    entry: Entry,
    to: Recipients,
    /// Decoded when the first recipient takes it, and shared by the others.
    message: Option<Message>,
}

#[derive(Debug)]
enum Recipients {
    One(ChannelName),
    /// Members of a group; those before `next` have got it.
    Members {
        channels: Arc<[ChannelName]>,
        next: usize,
    },
}

/// What a parcel gave to a reader that asked.
pub(super) enum Taken {
    /// A delivery; the parcel has more if `more` is set.
    Delivery { delivery: Delivery, more: bool },
    /// It had expired, and was counted.
    Expired,
    /// It cannot be read, and was counted; its bytes belong into quarantine.
    Unreadable(Unreadable),
}

impl Parcel {
    pub(super) fn to_one(shard: Arc<Shard>, source: ChannelName, entry: Entry, channel: ChannelName) -> Self {
        Self { shard, source, entry, to: Recipients::One(channel), message: None }
    }

    pub(super) fn to_members(
        shard: Arc<Shard>,
        source: ChannelName,
        entry: Entry,
        channels: Arc<[ChannelName]>,
    ) -> Self {
        Self { shard, source, entry, to: Recipients::Members { channels, next: 0 }, message: None }
    }

    /// Hands the message to the next recipient.
    pub(super) fn take(&mut self, envelope: &Envelope) -> Taken {
        // Every entry came over a connection that has told the time.
        let now = self.shard.clock.now_ms().unwrap_or(0);
        if self.entry.expires <= now {
            drops::count(DropReason::Expired, self.left());
            return Taken::Expired;
        }
        let message = match &self.message {
            Some(message) => message.clone(),
            None => match self.open(envelope, now) {
                Ok(message) => self.message.insert(message).clone(),
                Err(unreadable) => {
                    drops::count(unreadable.drop, self.left());
                    return Taken::Unreadable(unreadable);
                }
            },
        };
        let (channel, more) = match &mut self.to {
            Recipients::One(channel) => (channel.clone(), false),
            Recipients::Members { channels, next } => {
                let channel = channels[*next].clone();
                *next += 1;
                (channel, *next < channels.len())
            }
        };
        Taken::Delivery { delivery: Delivery::new(channel, message), more }
    }

    fn open(&self, envelope: &Envelope, now: u64) -> Result<Message, Unreadable> {
        let channel = match &self.to {
            Recipients::One(channel) => channel,
            Recipients::Members { .. } => &self.source,
        };
        envelope.open(&self.entry, Context::of(&self.entry.address, &self.source, channel), now)
    }

    /// How many recipients have not got it.
    pub(super) fn left(&self) -> usize {
        match &self.to {
            Recipients::One(_) => 1,
            Recipients::Members { channels, next } => channels.len() - next,
        }
    }

    /// Whether its channel has one reader.
    pub(super) fn has_one_reader(&self) -> bool {
        self.source.kind().has_one_reader()
    }

    /// The bytes of an entry for those who have not got it.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        match &self.to {
            Recipients::Members { channels, next } if *next > 0 => {
                let locals = channels[*next..].iter().filter_map(|channel| channel.local().map(Text::from)).collect();
                Entry { address: self.rest(locals), ..self.entry.clone() }.to_bytes()
            }
            _ => self.entry.to_bytes(),
        }
    }

    fn rest(&self, locals: Vec<Text>) -> Address<Text> {
        match &self.entry.address {
            Address::Group { group, version } | Address::Rest { group, version, .. } => {
                Address::Rest { group: group.clone(), version: *version, locals }
            }
            other => other.clone(),
        }
    }
}

/// Takes the next delivery out of `parcels`, dropping what has expired; what cannot be read goes to `unreadable`.
pub(super) fn take_next(
    parcels: &mut VecDeque<Parcel>,
    envelope: &Envelope,
    mut unreadable: impl FnMut(&Parcel, Bytes, Unreadable),
) -> Option<Delivery> {
    loop {
        let parcel = parcels.front_mut()?;
        match parcel.take(envelope) {
            Taken::Delivery { delivery, more } => {
                if !more {
                    parcels.pop_front();
                }
                return Some(delivery);
            }
            Taken::Expired => {}
            Taken::Unreadable(fault) => unreadable(parcel, parcel.to_bytes().into(), fault),
        }
        parcels.pop_front();
    }
}
