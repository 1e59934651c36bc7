//! `OutboundBody`: an encoded message that waits to be sent, and the entry that it becomes.

use std::sync::Arc;

use crate::name::{ChannelName, GroupName};
use crate::redis::entry as frame;
use crate::redis::entry::Address;
use crate::redis::native::body::BodyCodec;
use crate::redis::node::clock::milliseconds;
use crate::redis::send::format::Weight;

/// An encoded message, and whether it is for a channel or for the members of a group.
#[derive(Clone, Debug)]
pub struct OutboundBody {
    pub(crate) to: Target,
    /// The encoded message. It is sealed when it is sent: it may wait for a long time before that, and a sealed message
    /// opens only for a limited time.
    pub(crate) plain: Arc<[u8]>,
}

/// Whether a message is for the channel that it goes to, or for the members of a group there.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    Channel,
    Group { group: GroupName, version: u64 },
}

impl Weight for OutboundBody {
    fn bytes(&self) -> usize {
        self.plain.len()
    }
}

impl OutboundBody {
    /// Replaces `entry` by the entry of this message for `channel`, sent at `now_ms` and expiring at `expires`.
    pub(crate) fn write(
        &self,
        channel: &ChannelName,
        codec: &BodyCodec,
        now_ms: u64,
        expires: u64,
        entry: &mut Vec<u8>,
    ) {
        let address = match (&self.to, channel.local()) {
            (Target::Group { group, version }, _) => Address::Group { group: group.as_str(), version: *version },
            (Target::Channel, Some(local)) => Address::Local(local),
            (Target::Channel, None) => Address::Channel,
        };
        entry.clear();
        frame::begin(expires, milliseconds(codec.expiry()), &address, codec.seals(), entry);
        codec.write(&self.plain, channel.non_local(), now_ms, entry);
    }
}
