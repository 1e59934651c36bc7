//! `Raw`: a message as it is stored. `EntryFormat`: how a stored format opens the entries of the native format.

use std::sync::Arc;

use bytes::Bytes;

use crate::drops::DropReason;
use crate::message::Message;
use crate::name::ChannelName;
use crate::redis::entry::Entry;
use crate::redis::node::shard::Shard;

/// The name of readers in the count of panics.
pub(crate) const TASK: &str = "reader of Redis";
/// The reason in the quarantine record of an entry at which a reader panicked.
pub(crate) const PANICKED: &str = "a panic while it was read";

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

/// How a stored format opens entries on their delivery. Only the native format has such entries.
pub(crate) trait EntryFormat {
    /// Opens an entry of the native format that was in the list of `source`.
    fn open(&self, entry: &Entry, source: &ChannelName, now_ms: u64) -> Result<Message, Unreadable>;

    /// Quarantines or logs an unreadable entry from the list of `source`. The caller counts it.
    fn reject(&self, shard: &Arc<Shard>, source: &ChannelName, entry: Bytes, reason: String);
}
