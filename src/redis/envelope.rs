//! Messages to the bodies of entries and back: encoded, bounded in size, sealed where there are keys.

use std::time::Duration;

use bytes::Bytes;

use super::frame::{Address, Entry, Text};
use super::receive::Unreadable;
use crate::codec;
use crate::crypto;
use crate::crypto::KeyRing;
use crate::drops::DropReason;
use crate::error::{Error, Result};
use crate::message::Message;
use crate::name::ChannelName;

/// How much longer than its expiry a sealed message opens: the estimate of the server's clock may be off by so much.
const LEEWAY: Duration = Duration::from_secs(10);

/// What every body goes through on its way out and in.
#[derive(Debug)]
pub(super) struct Envelope {
    key_ring: Option<KeyRing>,
    max_message_size: usize,
    expiry: Duration,
}

/// What a sealed body is bound to, so that it opens nowhere else.
#[derive(Clone, Copy, Debug)]
pub(super) enum Context<'a> {
    /// A channel, by its full name.
    Channel(&'a str),
    /// A group, and the channel that holds the message for its members, by its non-local part.
    Group { group: &'a str, channel: &'a str },
}

    /// How many bytes an encoded message may have.
    pub(super) fn max_message_size(&self) -> usize {
        self.max_message_size
    }

impl<'a> Context<'a> {
    /// What the entry with this address is bound to, which came in the list of `source` and is for `channel`.
    pub(super) fn of(address: &'a Address<Text>, source: &'a ChannelName, channel: &'a ChannelName) -> Self {
        match address {
            Address::Channel | Address::Local(_) => Self::Channel(channel.as_str()),
            Address::Group { group, .. } | Address::Rest { group, .. } => {
                Self::Group { group, channel: source.as_str() }
            }
        }
    }

    fn parts(&self) -> [&[u8]; 3] {
        match self {
            Self::Channel(channel) => [b"channel", channel.as_bytes(), b""],
            Self::Group { group, channel } => [b"group", group.as_bytes(), channel.as_bytes()],
        }
    }
}

impl Envelope {
    pub(super) fn new(key_ring: Option<KeyRing>, max_message_size: usize, expiry: Duration) -> Self {
        Self { key_ring, max_message_size, expiry }
    }

    /// How long messages live.
    pub(super) fn expiry(&self) -> Duration {
        self.expiry
    }

    /// Whether bodies are sealed.
    pub(super) fn seals(&self) -> bool {
        self.key_ring.is_some()
    }

    /// Encodes `message` behind what is in `out`.
    ///
    /// # Errors
    ///
    /// [`Error::Codec`], [`Error::MessageTooLarge`].
    pub(super) fn encode(&self, message: &Message, out: &mut Vec<u8>) -> Result<()> {
        let start = out.len();
        codec::encode(message, out)?;
        let size = out.len() - start;
        if size > self.max_message_size {
            return Err(Error::MessageTooLarge { size, limit: self.max_message_size });
        }
        Ok(())
    }

    /// Writes the encoded message `plain` behind what is in `out`, sealed, where there are keys, at `now_ms`.
    pub(super) fn write(&self, plain: &[u8], context: Context<'_>, now_ms: u64, out: &mut Vec<u8>) {
        match &self.key_ring {
            Some(key_ring) => key_ring.seal(&context.parts(), now_ms, plain, out),
            None => out.extend_from_slice(plain),
        }
    }

    /// The message in `entry`.
    pub(super) fn open(&self, entry: &Entry, context: Context<'_>, now_ms: u64) -> Result<Message, Unreadable> {
        let body = match (&self.key_ring, entry.sealed) {
            (_, false) if self.seals() => return Err(undecryptable("it is not sealed")),
            (_, false) => entry.body.clone(),
            (None, true) => return Err(undecryptable("it is sealed, and no keys are configured")),
            (Some(key_ring), true) => {
                let opens_for = u64::try_from((self.expiry + LEEWAY).as_millis()).unwrap_or(u64::MAX);
                let opened = key_ring.open(&entry.body, &context.parts(), now_ms, opens_for);
                Bytes::from(opened.map_err(|error| {
                    let key = crypto::key_id(&entry.body).unwrap_or(0);
                    undecryptable(&format!("{error} (key {key:08x})"))
                })?)
            }
        };
        if body.len() > self.max_message_size {
            // Values take more memory than their bytes, and only this bounds them.
            return Err(undecodable("it is larger than the limit"));
        }
        codec::decode(&body).map_err(|error| undecodable(&error.to_string()))
    }
}

fn undecryptable(reason: &str) -> Unreadable {
    Unreadable { drop: DropReason::Undecryptable, reason: reason.to_owned() }
}

fn undecodable(reason: &str) -> Unreadable {
    Unreadable { drop: DropReason::Undecodable, reason: reason.to_owned() }
}
