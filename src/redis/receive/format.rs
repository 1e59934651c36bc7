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

/// A read takes no further message once it has so many bytes: an answer that does not arrive in time is lost, and all of
/// it is in memory at once. The exception is a read of a channel that holds no more than [`SMALL_CHANNEL`].
pub(crate) const READ_BYTES: usize = 1 << 20;
/// A channel of no more bytes may be emptied by one read: about as much as a read of `READ_BYTES` and a last message of the
/// largest size that is allowed by default.
pub(crate) const SMALL_CHANNEL: usize = 2 << 20;

/// How messages are taken out of Redis, who they are for, and how they go back.
#[async_trait]
pub(crate) trait ReadFormat: Send + Sync + 'static {
    /// The key that holds what waits in a channel, by the non-local part of its name.
    fn key(&self, non_local: &str) -> String;

    /// The commands, in one transaction if there are several, that take messages from the first of `keys` that has any: up
    /// to `count`, and no further one after [`READ_BYTES`]. From several keys a format may take one message only.
    fn take(&self, keys: &[&str], count: usize) -> Vec<Cmd>;

    /// The command that waits up to `timeout` for the first of `keys` to have any, and takes one message.
    fn wait(&self, keys: &[&str], timeout: Duration) -> Cmd;

    /// The command that tells how many messages are there under `key`; `None` for a format that
    /// [takes first](Self::takes_first).
    fn length(&self, key: &str) -> Option<Cmd>;

    /// Whether to look for `count` messages that are there before each [`wait`](Self::wait), not only behind one that
    /// left something.
    fn takes_first(&self, count: usize) -> bool;

    /// What the answer to either brought, that to a transaction being a list; `shard` is there for what has to be asked
    /// beyond it.
    ///
    /// Not cancel safe: what a dropped future had taken is lost.
    async fn popped(&self, shard: &Shard, answer: Value) -> Result<Option<Popped>, Fault>;

    /// A sorter for the task of one reader.
    fn sorter(&self) -> Box<dyn RecipientResolver>;

    /// The message in an entry of the native format, which came in the list of `source`.
    fn open(&self, entry: &Entry, source: &ChannelName, now_ms: u64) -> Result<Message, Unreadable>;

    /// Keeps or forgets an entry from the list of `source` that gave no message, which has been counted.
    fn refuse(&self, shard: &Arc<Shard>, source: &ChannelName, entry: Bytes, reason: String);

    /// The command that puts parcels of one channel back at its head, in order, for those who have not got them. It
    /// answers how many had expired.
    fn put_back(&self, key: &str, parcels: &[BufferedEntry]) -> Cmd;
}

/// Finds out who messages are for; each reader has one.
#[async_trait]
pub(crate) trait RecipientResolver: Send + Sync {
    /// The parcel of what was taken from `source`. One for nobody, and what is no message, is counted and left out; of some
    /// it may not be known who they are for.
    async fn parcel(&mut self, shard: &Arc<Shard>, source: &ChannelName, raw: Raw) -> Option<BufferedEntry>;

    /// Asks again who `held` are for, of whom that was not known. Those for nobody are left out, and those that have expired
    /// are counted too.
    async fn ask_again(&mut self, held: VecDeque<BufferedEntry>) -> Vec<BufferedEntry> {
        held.into()
    }
}

/// What one read took from one key, in order.
#[derive(Debug)]
pub(crate) struct Popped {
    pub(crate) key: Vec<u8>,
    pub(crate) raw: Vec<Raw>,
}

/// A message as Redis gave it.
#[derive(Clone, Debug)]
pub(crate) struct Raw {
    pub(crate) body: Bytes,
    /// What Redis kept with it: the score of a sorted set, the key of a message. Empty in the native format.
    pub(crate) label: Bytes,
}

/// Why a body gives no message.
#[derive(Debug)]
pub(crate) struct Unreadable {
    pub(crate) drop: DropReason,
    /// What is wrong, the same text for the same cause, and never a word of the content.
    pub(crate) reason: String,
}
