//! Messages as they wait to be sent, and the entries that they become.

use std::sync::Arc;

use super::envelope::{Context, Envelope};
use super::frame::{self, Address};
use crate::name::{ChannelName, GroupName};

/// An encoded message and who it is for.
#[derive(Clone, Debug)]
pub(super) struct Letter {
    pub(super) channel: ChannelName,
    pub(super) to: Recipient,
    /// The encoded message. It is sealed when it is sent: it may wait for long before that, and opens for as long as it
    /// lives only if it is sealed when that begins.
    pub(super) plain: Arc<[u8]>,
    /// It had its place in the channel before.
    pub(super) past_capacity: bool,
}

/// Whether a letter is for the channel that it goes to, or for the members of a group there.
#[derive(Clone, Debug)]
pub(super) enum Recipient {
    Channel,
    Group { group: GroupName, version: u64 },
}

impl Letter {
    /// Appends its entry, sent at `now_ms` and expiring at `stamp`, to `out`.
    pub(super) fn write(&self, envelope: &Envelope, now_ms: u64, stamp: u64, out: &mut Vec<u8>) {
        let (address, context) = match (&self.to, self.channel.local()) {
            (Recipient::Group { group, version }, _) => {
                let group = group.as_str();
                (
                    Address::Group { group, version: *version },
                    Context::Group { group, channel: self.channel.non_local() },
                )
            }
            (Recipient::Channel, Some(local)) => (Address::Local(local), Context::Channel(self.channel.as_str())),
            (Recipient::Channel, None) => (Address::Channel, Context::Channel(self.channel.as_str())),
        };
        frame::begin(stamp, &address, envelope.seals(), out);
        envelope.write(&self.plain, context, now_ms, out);
    }
}
