//! `BodyCodec`: encodes messages as the bodies of entries, bounds their size, and seals them if there are keys.

use std::time::Duration;

use bytes::Bytes;

use crate::codec;
use crate::crypto;
use crate::crypto::KeyRing;
use crate::drops::DropReason;
use crate::error::{Error, Result};
use crate::message::Message;
use crate::redis::entry as frame;
use crate::redis::entry::{Address, Entry, Text};
use crate::redis::node::clock::milliseconds;
use crate::redis::receive::Unreadable;

/// How long after its expiry a sealed message opens. The estimate of the server's clock may be off by this much.
const LEEWAY: Duration = Duration::from_secs(10);

/// The codec of the bodies of a layer.
#[derive(Debug)]
pub(crate) struct BodyCodec {
    key_ring: Option<KeyRing>,
    max_message_size: usize,
    expiry: Duration,
}

impl BodyCodec {
    pub(crate) fn new(key_ring: Option<KeyRing>, max_message_size: usize, expiry: Duration) -> Self {
        Self { key_ring, max_message_size, expiry }
    }

    /// The lifetime of messages that this layer sends.
    pub(crate) fn expiry(&self) -> Duration {
        self.expiry
    }

    /// The size limit of encoded messages, in bytes.
    pub(crate) fn max_message_size(&self) -> usize {
        self.max_message_size
    }

    /// Whether bodies are sealed.
    pub(crate) fn seals(&self) -> bool {
        self.key_ring.is_some()
    }

    /// Appends the encoded `message` to `out`.
    ///
    /// # Errors
    ///
    /// [`Error::Codec`], [`Error::MessageTooLarge`].
    pub(crate) fn encode(&self, message: &Message, out: &mut Vec<u8>) -> Result<()> {
        let start = out.len();
        codec::encode(message, out)?;
        let size = out.len() - start;
        if size > self.max_message_size {
            return Err(Error::MessageTooLarge { size, limit: self.max_message_size });
        }
        Ok(())
    }

    /// Appends the encoded message `plain` to `entry`, which holds the header of an entry for `list`. Seals it at
    /// `now_ms` if there are keys. A sealed body is bound to the list, head, lifetime and address, so it opens in no
    /// other list and for no other recipient.
    pub(crate) fn write(&self, plain: &[u8], list: &str, now_ms: u64, entry: &mut Vec<u8>) {
        match &self.key_ring {
            Some(key_ring) => {
                let header = frame::header(entry).to_vec();
                key_ring.seal(&[list.as_bytes(), &header], now_ms, plain, entry);
            }
            None => entry.extend_from_slice(plain),
        }
    }

    /// The same entry of `list` for the recipients `address`. It opens as long as before.
    pub(crate) fn readdress(&self, entry: &Entry, list: &str, address: Address<Text>) -> Entry {
        let mut other = Entry { address, ..entry.clone() };
        if let (Some(key_ring), true) = (&self.key_ring, entry.sealed) {
            let (from, to) = (entry.header(), other.header());
            let context = |header| [list.as_bytes(), header];
            // A body that does not open is kept as it is. It opens for no recipient.
            if let Ok(body) = key_ring.rebind(&entry.body, &context(&from), &context(&to)) {
                other.body = body.into();
            }
        }
        other
    }

    /// The same entry of `list` as if it were sent at `now_ms`. An entry whose body does not open is not changed.
    pub(crate) fn renew(&self, entry: &Entry, list: &str, now_ms: u64) -> Entry {
        let mut other = Entry { expires: entry.expires_if_sent(now_ms), ..entry.clone() };
        if let (Some(key_ring), true) = (&self.key_ring, entry.sealed)
            && let Ok(body) = key_ring.renew(&entry.body, &[list.as_bytes(), &entry.header()], now_ms)
        {
            other.body = body.into();
        }
        other
    }

    /// The message in `entry`, which was read from `list`.
    pub(crate) fn open(&self, entry: &Entry, list: &str, now_ms: u64) -> Result<Message, Unreadable> {
        self.open_within(entry, list, now_ms, entry.lifetime.saturating_add(milliseconds(LEEWAY)))
    }

    /// Like [`open`](Self::open), without a limit for the age of the seal.
    pub(crate) fn open_late(&self, entry: &Entry, list: &str, now_ms: u64) -> Result<Message, Unreadable> {
        self.open_within(entry, list, now_ms, u64::MAX)
    }

    fn open_within(&self, entry: &Entry, list: &str, now_ms: u64, opens_for: u64) -> Result<Message, Unreadable> {
        let body = match (&self.key_ring, entry.sealed) {
            (_, false) if self.seals() => return Err(undecryptable("not encrypted, but keys are configured")),
            (_, false) => entry.body.clone(),
            (None, true) => return Err(undecryptable("encrypted, but no keys are configured")),
            (Some(key_ring), true) => {
                let context: [&[u8]; 2] = [list.as_bytes(), &entry.header()];
                let opened = key_ring.open(&entry.body, &context, now_ms, opens_for);
                Bytes::from(opened.map_err(|error| {
                    let key = crypto::key_id(&entry.body).unwrap_or(0);
                    undecryptable(&format!("{error} (key {key:08x})"))
                })?)
            }
        };
        if body.len() > self.max_message_size {
            // Decoded values take more memory than their bytes, and only this limit bounds them.
            return Err(undecodable("larger than the limit"));
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
