//! `BufferedEntry`: a fetched message and the recipients that have not received it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::drops::DropReason;
use crate::layer::{Delivery, Sink};
use crate::message::Message;
use crate::name::{ChannelName, GroupName};
use crate::redis::entry::{Address, Entry, Locals};
use crate::redis::groups::membership::Recipients;
use crate::redis::node::shard::Shard;
use crate::redis::receive::raw::{EntryFormat, Raw, Unreadable};
use crate::redis::receive::raw::{PANICKED, TASK};
use crate::redis::topology::lists::ListName;
use crate::supervise::contain;

/// A fetched message and the recipients that have not received it.
#[derive(Debug)]
pub(crate) struct BufferedEntry {
    pub(crate) shard: Arc<Shard>,
    /// The channel: a name without a local part.
    pub(crate) source: ChannelName,
    /// The list of the channel.
    list: ListName,
    /// When it expires, in ms since the epoch by the shard's clock.
    expires: u64,
    stored: StoredForm,
    pending: PendingRecipients,
}

/// The message in the form in which its format stores it.
#[derive(Debug)]
enum StoredForm {
    /// An entry of the native format. The first recipient that takes it opens and decodes it; the others share the
    /// message.
    Native { entry: Entry, message: Option<Message> },
    /// A message of another format. It was decoded to find its recipients.
    Decoded { raw: Raw, message: Message },
}

/// The recipients that have not received the message.
#[derive(Debug)]
enum PendingRecipients {
    /// The server of the group could not be asked for them.
    Unresolved(Unresolved),
    Channel(ChannelName),
    /// The members of a group. They are listed only when the first of them takes the message: before the message uses
    /// memory for each member, it has to be known to be genuine.
    Group(Recipients),
    /// Members of a group. Those before `next` have received the message.
    Members {
        channels: Arc<[ChannelName]>,
        next: usize,
    },
    /// The local parts that have not received the message, and how many there were at first. Each name is built on
    /// delivery.
    Locals {
        locals: Locals,
        initial: usize,
    },
}

/// A send to a group through one route, which determines the members that its message is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct GroupSend {
    pub(crate) group: GroupName,
    pub(crate) route: ChannelName,
    /// The version of the route at the send.
    pub(crate) version: u64,
    /// The time of the send in ms since the epoch.
    pub(crate) sent: u64,
}

/// What is known of recipients that could not be looked up.
#[derive(Clone, Debug)]
pub(crate) struct Unresolved {
    pub(crate) send: GroupSend,
    /// The server of the group.
    pub(crate) home: Arc<Shard>,
    /// Since when lookups fail on `home`, or in a cluster in the slot of the group.
    pub(crate) since: Instant,
}

impl Unresolved {
    /// How long the server of the group has been unreachable, or has failed to answer lookups if that is longer. The
    /// message may have been put back and read again since the server was lost.
    pub(crate) fn unavailable_for(&self) -> Duration {
        self.home.down_for().max(self.since.elapsed())
    }
}

/// The outcome of a delivery.
pub(crate) enum DeliveryOutcome {
    /// `count` recipients received the message. Others are left if `more` is set.
    Delivered { count: usize, more: bool },
    /// The entry cannot be delivered. The caller drops it and counts the recipients that are left.
    Dropped(DropReason),
    /// The entry cannot be read. The caller quarantines its bytes, and counts the recipients that are left.
    Unreadable(Unreadable),
}

impl BufferedEntry {
    /// A message for one channel.
    pub(crate) fn for_channel(shard: Arc<Shard>, source: ChannelName, entry: Entry, channel: ChannelName) -> Self {
        Self::native(shard, source, entry, PendingRecipients::Channel(channel))
    }

    /// A group message whose members could not be looked up.
    pub(crate) fn unresolved(shard: Arc<Shard>, entry: Entry, unresolved: Unresolved) -> Self {
        Self::native(shard, unresolved.send.route.clone(), entry, PendingRecipients::Unresolved(unresolved))
    }

    /// A group message.
    pub(crate) fn for_group(shard: Arc<Shard>, source: ChannelName, entry: Entry, members: Recipients) -> Self {
        Self::native(shard, source, entry, PendingRecipients::Group(members))
    }

    /// A group message that some members have received, for the members of `source` with the local parts `locals`.
    pub(crate) fn for_locals(shard: Arc<Shard>, source: ChannelName, entry: Entry, locals: Locals) -> Self {
        let initial = locals.len();
        Self::native(shard, source, entry, PendingRecipients::Locals { locals, initial })
    }

    fn native(shard: Arc<Shard>, source: ChannelName, entry: Entry, pending: PendingRecipients) -> Self {
        let (expires, stored) = (entry.expires, StoredForm::Native { entry, message: None });
        Self { shard, source, list: ListName::default(), expires, stored, pending }
    }

    /// A message of another format than the native one, for at least one channel.
    pub(crate) fn decoded(
        shard: Arc<Shard>,
        source: ChannelName,
        expires: u64,
        (raw, message): (Raw, Message),
        channels: Arc<[ChannelName]>,
    ) -> Self {
        let pending = PendingRecipients::Members { channels, next: 0 };
        Self {
            shard,
            source,
            list: ListName::default(),
            expires,
            stored: StoredForm::Decoded { raw, message },
            pending,
        }
    }

    /// The same entry in another list of its channel.
    pub(super) fn in_list(self, list: ListName) -> Self {
        Self { list, ..self }
    }

    /// The name of the list in which it was.
    pub(crate) fn list(&self) -> &str {
        self.list.text(&self.source)
    }

    /// Passes the message for up to `limit` recipients, at least 1, to `sink`. A large group has many recipients, so
    /// the checks that concern all of them run once.
    pub(super) fn deliver(&mut self, format: &dyn EntryFormat, sink: Sink<'_>, limit: usize) -> DeliveryOutcome {
        let now = self.now();
        if self.expires <= now {
            return DeliveryOutcome::Dropped(DropReason::Expired);
        }
        let message = match self.message(format, now) {
            Ok(message) => message,
            Err(unreadable) => return DeliveryOutcome::Unreadable(unreadable),
        };
        if let PendingRecipients::Group(members) = &self.pending {
            self.pending = PendingRecipients::Members { channels: members.list(), next: 0 };
        }
        match &mut self.pending {
            // Unresolved entries are held, and groups were listed above.
            PendingRecipients::Unresolved(_) | PendingRecipients::Group(_) => {
                DeliveryOutcome::Dropped(DropReason::ShardDown)
            }
            PendingRecipients::Channel(channel) => {
                sink(Delivery::new(channel.clone(), message));
                DeliveryOutcome::Delivered { count: 1, more: false }
            }
            PendingRecipients::Members { channels, next } => {
                let (first, end) = (*next, channels.len().min(next.saturating_add(limit)));
                for channel in &channels[first..end] {
                    sink(Delivery::new(channel.clone(), message.clone()));
                }
                *next = end;
                DeliveryOutcome::Delivered { count: end - first, more: end < channels.len() }
            }
            PendingRecipients::Locals { locals, .. } => {
                let mut count = 0;
                for local in locals.take(limit) {
                    count += 1;
                    // The name was valid when the message arrived.
                    let channel = local.and_then(|local| ChannelName::from_parts(self.source.as_str(), &local).ok());
                    if let Some(channel) = channel {
                        sink(Delivery::new(channel, message.clone()));
                    }
                }
                DeliveryOutcome::Delivered { count, more: locals.len() > 0 }
            }
        }
    }

    fn message(&mut self, format: &dyn EntryFormat, now: u64) -> Result<Message, Unreadable> {
        match &mut self.stored {
            StoredForm::Native { message: Some(message), .. } | StoredForm::Decoded { message, .. } => {
                Ok(message.clone())
            }
            StoredForm::Native { entry, message } => {
                let opened = contain(TASK, || format.open(entry, &self.source, now));
                let panicked = || Unreadable { drop: DropReason::Undecodable, reason: PANICKED.to_owned() };
                Ok(message.insert(opened.ok_or_else(panicked)??).clone())
            }
        }
    }

    /// How many recipients have not received it.
    pub(crate) fn undelivered(&self) -> usize {
        match &self.pending {
            PendingRecipients::Unresolved(_) | PendingRecipients::Channel(_) => 1,
            PendingRecipients::Group(members) => members.list().len(),
            PendingRecipients::Members { channels, next } => channels.len() - next,
            PendingRecipients::Locals { locals, .. } => locals.len(),
        }
    }

    /// The local parts that have not received it; `None` if no recipient has.
    pub(crate) fn remaining_locals(&self) -> Option<Locals> {
        match &self.pending {
            PendingRecipients::Locals { locals, initial } => (locals.len() < *initial).then(|| locals.clone()),
            _ => Some(self.remaining_members()?.iter().filter_map(ChannelName::local).collect()),
        }
    }

    /// The members that have not received it; `None` if no member has.
    pub(crate) fn remaining_members(&self) -> Option<&[ChannelName]> {
        match &self.pending {
            PendingRecipients::Members { channels, next } if *next > 0 => Some(&channels[*next..]),
            _ => None,
        }
    }

    /// The name of the group of a group message for all members.
    pub(crate) fn group_name(&self) -> Option<&str> {
        match &self.native_entry()?.address {
            Address::Group { group, .. } => Some(group),
            _ => None,
        }
    }

    /// Sets the recipients of an unresolved entry.
    pub(crate) fn set_recipients(&mut self, members: Recipients) {
        self.pending = PendingRecipients::Group(members);
    }

    /// Whether it has expired, by the clock of its shard.
    pub(crate) fn has_expired(&self) -> bool {
        self.expires <= self.now()
    }

    fn now(&self) -> u64 {
        // The connection over which the entry came has synchronised this clock.
        self.shard.clock.now_ms().unwrap_or(0)
    }

    /// What is known of its recipients if they could not be looked up.
    pub(crate) fn unresolved_recipients(&self) -> Option<&Unresolved> {
        match &self.pending {
            PendingRecipients::Unresolved(unresolved) => Some(unresolved),
            _ => None,
        }
    }

    /// Whether its channel is a single-reader channel.
    pub(crate) fn has_one_reader(&self) -> bool {
        self.source.kind().has_one_reader()
    }

    /// Its approximate size in Redis, in bytes.
    pub(crate) fn size(&self) -> usize {
        match &self.stored {
            StoredForm::Native { entry, .. } => entry.body.len(),
            StoredForm::Decoded { raw, .. } => raw.body.len() + raw.label.len(),
        }
    }

    /// The shard from which it was taken.
    pub(crate) fn shard(&self) -> &Shard {
        &self.shard
    }

    /// The stored and the decoded message; `None` in the native format.
    pub(crate) fn decoded_message(&self) -> Option<(&Raw, &Message)> {
        match &self.stored {
            StoredForm::Decoded { raw, message } => Some((raw, message)),
            StoredForm::Native { .. } => None,
        }
    }

    /// The entry of the native format; `None` in another format.
    pub(crate) fn native_entry(&self) -> Option<&Entry> {
        match &self.stored {
            StoredForm::Native { entry, .. } => Some(entry),
            StoredForm::Decoded { .. } => None,
        }
    }

    /// The bytes as they were stored in Redis.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        match &self.stored {
            StoredForm::Native { entry, .. } => entry.to_bytes(),
            StoredForm::Decoded { raw, .. } => raw.body.to_vec(),
        }
    }
}
