//! `Read`: the messages that one read of a fetch loop has taken.

use crate::name::ChannelName;
use crate::redis::receive::format::READ_BYTES;
use crate::redis::receive::raw::Raw;
use crate::redis::topology::lists::ListName;

/// The messages of one list that a read returned, in order.
#[derive(Debug)]
pub(crate) struct Read {
    pub(crate) channel: ChannelName,
    /// The list of the channel from which they were taken.
    pub(crate) list: ListName,
    pub(crate) raw: Vec<Raw>,
    /// How many messages had expired.
    pub(crate) expired: usize,
}

impl Read {
    /// Whether the read has returned all `count` messages that it was for, or as many bytes as one read may.
    pub(super) fn is_full(&self, count: usize) -> bool {
        self.raw.len() >= count || self.bytes() >= READ_BYTES
    }

    pub(super) fn bytes(&self) -> usize {
        self.raw.iter().map(|raw| raw.body.len()).sum()
    }
}
