//! `ReadFormat`: how a stored format reads messages.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use redis::{Cmd, Value};

use crate::drops::DropReason;
use crate::message::Message;
use crate::name::ChannelName;
use crate::redis::native::entry::Entry;
use crate::redis::node::fault::Fault;
use crate::redis::node::shard::Shard;
use crate::redis::receive::buffer::entry::BufferedEntry;

/// The size of one read, in bytes: a read takes no further message after it has this much. An answer that does not arrive in time
/// is lost, and all of it is in memory at once. A channel of at most [`SMALL_CHANNEL`] bytes is exempt.
pub(crate) const READ_BYTES: usize = 1 << 20;
/// The size, in bytes, up to which one read may empty a channel: about `READ_BYTES` and one message of the largest size that is
/// allowed by default.
pub(crate) const SMALL_CHANNEL: usize = 2 << 20;

/// How a stored format takes messages out of Redis, finds their recipients, and puts messages back.
#[async_trait]
pub(crate) trait ReadFormat: Send + Sync + 'static {
    /// The key of a channel's messages, from the non-local part of its name.
    fn key(&self, non_local: &str) -> String;

    /// The commands that take messages from the first of `keys` that has any. Several commands form one transaction.
    ///
    /// They take up to `count` messages, and no further one after [`READ_BYTES`]. With several keys a format may take only one
    /// message.
    fn take(&self, keys: &[&str], count: usize) -> Vec<Cmd>;

    /// The command that waits up to `timeout` until one of `keys` has a message, and takes that message.
    fn wait(&self, keys: &[&str], timeout: Duration) -> Cmd;

    /// The command that returns how many messages are under `key`; `None` for a format that [takes first](Self::takes_first).
    fn length(&self, key: &str) -> Option<Cmd>;

    /// Whether each [`wait`](Self::wait) for `count` messages follows a [`take`](Self::take). Otherwise a `take` only follows a
    /// read that left messages behind.
    fn takes_first(&self, count: usize) -> bool;

    /// Parses the answer to `wait` or `take`; the answer to a transaction is a list. A format may send further commands to `shard`.
    ///
    /// Not cancel safe: the messages that a dropped future had taken are lost.
    async fn popped(&self, shard: &Shard, answer: Value) -> Result<Option<Popped>, Fault>;

    /// A resolver for the task of one reader.
    fn resolver(&self) -> Box<dyn RecipientResolver>;

    /// Opens an entry of the native format that was in the list of `source`.
    fn open(&self, entry: &Entry, source: &ChannelName, now_ms: u64) -> Result<Message, Unreadable>;

    /// Quarantines or drops an unreadable entry from the list of `source`. The caller has counted it.
    fn reject(&self, shard: &Arc<Shard>, source: &ChannelName, entry: Bytes, reason: String);

    /// The command that puts entries of one channel back at its head, in order, for the recipients that have not received them.
    /// It returns how many had expired.
    fn put_back(&self, key: &str, entries: &[BufferedEntry]) -> Cmd;
}

/// Finds the recipients of messages. Each reader has one.
#[async_trait]
pub(crate) trait RecipientResolver: Send + Sync {
    /// Turns a message that was taken from `source` into a buffered entry, whose recipients may be unresolved.
    ///
    /// Returns `None` if the message has no recipients or is invalid. Invalid messages are counted.
    async fn resolve(&mut self, shard: &Arc<Shard>, source: &ChannelName, raw: Raw) -> Option<BufferedEntry>;

    /// Tries again to resolve the recipients of `held`. The result omits entries without recipients and expired entries; expired
    /// entries are counted.
    async fn resolve_held(&mut self, held: VecDeque<BufferedEntry>) -> Vec<BufferedEntry> {
        held.into()
    }
}

/// The messages that one read took from one key, in order.
#[derive(Debug)]
pub(crate) struct Popped {
    pub(crate) key: Vec<u8>,
    pub(crate) raw: Vec<Raw>,
}

/// A message as it is stored in Redis.
#[derive(Clone, Debug)]
pub(crate) struct Raw {
    pub(crate) body: Bytes,
    /// The score in a sorted set, or the key of the message. Empty in the native format.
    pub(crate) label: Bytes,
}

/// Why a body cannot be read as a message.
#[derive(Debug)]
pub(crate) struct Unreadable {
    pub(crate) drop: DropReason,
    /// The cause. Equal causes have equal texts, and the text never contains any of the content.
    pub(crate) reason: String,
}
