//! `ReadFormat`: how a stored format reads messages.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use redis::{Cmd, Value};

use super::buffer::buffered_entry::{BufferedEntry, GroupSend};
use super::buffer::held::Lookup;
use super::raw::{EntryFormat, Raw, Unreadable};
use crate::drops::DropReason;
use crate::name::ChannelName;
use crate::redis::node::fault::Fault;
use crate::redis::node::shard::Shard;

/// The size of one read, in bytes: a read takes no further message after it has this much. An answer that does not
/// arrive in time is lost, and all of it is in memory at once. A channel of at most [`SMALL_CHANNEL`] bytes is exempt.
pub(crate) const READ_BYTES: usize = 1 << 20;
/// The size, in bytes, up to which one read may empty a channel: about `READ_BYTES` and one message of the largest size
/// that is allowed by default.
pub(crate) const SMALL_CHANNEL: usize = 2 << 20;

/// How a stored format takes messages out of Redis, finds their recipients, and puts messages back.
#[async_trait]
pub(crate) trait ReadFormat: EntryFormat + Send + Sync + 'static {
    /// The key of a channel's messages, from the non-local part of its name, or from the name of one of its lists.
    fn key(&self, list: &str) -> String;

    /// The commands that take messages from the first of `keys` that has any. Several commands form one transaction.
    ///
    /// They take up to `count` messages, and no further one after [`READ_BYTES`]. With several keys a format may take
    /// only one message.
    fn take(&self, keys: &[&str], count: usize) -> Vec<Cmd>;

    /// The command that waits up to `timeout` until one of `keys` has a message, and takes that message.
    fn wait(&self, keys: &[&str], timeout: Duration) -> Cmd;

    /// The command that returns how many messages are under `key`; `None` for a format that [takes
    /// first](Self::takes_first).
    fn length(&self, key: &str) -> Option<Cmd>;

    /// Whether each [`wait`](Self::wait) for `count` messages follows a [`take`](Self::take). Otherwise a `take` only
    /// follows a read that left messages behind.
    fn takes_first(&self, count: usize) -> bool;

    /// Parses the answer to `wait` or `take`; the answer to a transaction is a list. A format may send further commands
    /// to `shard`.
    ///
    /// Not cancel safe: the messages that a dropped future had taken are lost.
    async fn popped(&self, shard: &Shard, answer: Value) -> Result<Option<Popped>, Fault>;

    /// Whether all these messages, which were taken from `shard` just now, have expired. `false` for a format that
    /// leaves out expired messages itself.
    fn have_expired(&self, shard: &Shard, messages: &[Raw]) -> bool {
        let _ = (shard, messages);
        false
    }

    /// The command that removes expired messages from the head of `key`, and no others, and returns how many; `None`
    /// for a format without one.
    fn drop_expired(&self, key: &str) -> Option<Cmd> {
        let _ = key;
        None
    }

    /// A resolver for the task of one reader.
    fn resolver(&self) -> Box<dyn RecipientResolver>;

    /// The command that puts entries of one channel back at its head, in order, for the recipients that have not
    /// received them. It returns how many had expired.
    fn put_back(&self, key: &str, entries: &[BufferedEntry]) -> Cmd;
}

/// Finds the recipients of messages. Each reader has one.
#[async_trait]
pub(crate) trait RecipientResolver: Send + Sync {
    /// Turns a message that was taken from `source` into a buffered entry, whose recipients may be unresolved.
    ///
    /// Returns `None` if the message has no recipients.
    async fn resolve(
        &mut self,
        shard: &Arc<Shard>,
        source: &ChannelName,
        raw: Raw,
    ) -> Result<Option<BufferedEntry>, Undeliverable>;

    /// Looks up the members that a held message is for. Formats without unresolved recipients hold no messages.
    async fn members(&mut self, _: &GroupSend) -> Lookup {
        Lookup::Failed
    }
}

/// Why a message has no buffered entry. The caller counts it as dropped.
#[derive(Debug)]
pub(crate) enum Undeliverable {
    /// The caller [rejects](EntryFormat::reject) it.
    Unreadable(Unreadable),
    Dropped(DropReason),
}

impl From<Unreadable> for Undeliverable {
    fn from(unreadable: Unreadable) -> Self {
        Self::Unreadable(unreadable)
    }
}

/// The messages that one read took from one key, in order.
#[derive(Debug)]
pub(crate) struct Popped {
    pub(crate) key: Vec<u8>,
    pub(crate) raw: Vec<Raw>,
    /// How many messages the read took that had expired. The caller counts them as dropped.
    pub(crate) expired: usize,
}
