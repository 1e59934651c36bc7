//! Messages as they wait to be sent, and the entries that they become.

use std::sync::Arc;

use super::batch::milliseconds;
use super::envelope::Envelope;
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
    /// Makes `entry` its entry, sent at `now_ms` and expiring at `stamp`.
    pub(super) fn write(&self, envelope: &Envelope, now_ms: u64, stamp: u64, entry: &mut Vec<u8>) {
        let address = match (&self.to, self.channel.local()) {
            (Recipient::Group { group, version }, _) => Address::Group { group: group.as_str(), version: *version },
            (Recipient::Channel, Some(local)) => Address::Local(local),
            (Recipient::Channel, None) => Address::Channel,
        };
        entry.clear();
        frame::begin(stamp, milliseconds(envelope.expiry()), &address, envelope.seals(), entry);
        envelope.write(&self.plain, self.channel.non_local(), now_ms, entry);
    }
}
