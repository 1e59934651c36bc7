//! Messages to payloads and back, as `channels_redis.pubsub` 4.3.0 writes and reads them.
//!
//! A payload is the serialized message, or the Fernet token of that where there are keys. Nothing checks the time in a
//! token: what is published arrives at once or never.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use crate::config::{Config, Serializer};
use crate::crypto::FernetKeys;
use crate::drops::DropReason;
use crate::error::{Error, Result};
use crate::message::{Message, RESERVED_KEY, Value};

/// What every message goes through on its way out and in.
pub(crate) struct Wire {
    serializer: Serializer,
    keys: Option<FernetKeys>,
    max_message_size: usize,
}

/// A message, and the full name of the channel that it is for, if it says so.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) message: Message,
    pub(crate) channel: Option<String>,
}

/// Why a payload gives no message.
#[derive(Debug)]
pub(crate) struct Unreadable {
    pub(crate) drop: DropReason,
    /// What is wrong, the same text for the same cause, and never a word of the content.
    pub(crate) reason: String,
}

impl Unreadable {
    /// It is for nobody.
    pub(crate) fn unaddressed() -> Self {
        Self { drop: DropReason::Undecodable, reason: "it came on the Redis channel of no channel or group".into() }
    }

    fn undecodable(reason: impl ToString) -> Self {
        Self { drop: DropReason::Undecodable, reason: reason.to_string() }
    }
}

impl Wire {
    pub(crate) fn new(config: &Config) -> Result<Self> {
        let keys = config.fernet_keys()?;
        Ok(Self { serializer: config.serializer, keys, max_message_size: config.max_message_size })
    }

    /// How many bytes an encoded message may have.
    pub(crate) fn max_message_size(&self) -> usize {
        self.max_message_size
    }

    /// The payload of `message`, which says that it is for `channel` if that is given.
    ///
    /// # Errors
    ///
    /// [`Error::Codec`], [`Error::MessageTooLarge`].
    pub(crate) fn seal(&self, message: &Message, channel: Option<&str>) -> Result<Vec<u8>> {
        let mut plain = Vec::with_capacity(128);
        let routing = channel.map(Value::from);
        self.serializer.encode(message, routing.as_ref(), &mut plain)?;
        let (size, limit) = (plain.len(), self.max_message_size);
        if size > limit {
            return Err(Error::MessageTooLarge { size, limit });
        }
        let Some(keys) = &self.keys else { return Ok(plain) };
        let mut token = Vec::with_capacity(plain.len() * 4 / 3 + 128);
        keys.seal(now(), &plain, &mut token);
        Ok(token)
    }

    /// The message in `payload`.
    pub(crate) fn open(&self, payload: &Bytes) -> Result<Opened, Unreadable> {
        let plain = match &self.keys {
            None => payload.clone(),
            Some(keys) => match keys.open(payload, now(), None) {
                Ok(plain) => plain.into(),
                Err(error) => return Err(Unreadable { drop: DropReason::Undecryptable, reason: error.to_string() }),
            },
        };
        if plain.len() > self.max_message_size {
            // Values take more memory than their bytes, and only this bounds them.
            return Err(Unreadable::undecodable("it is larger than the limit"));
        }
        let mut map = self.serializer.decode(&plain).map_err(Unreadable::undecodable)?;
        let channel = match map.remove(RESERVED_KEY) {
            Some(Value::Text(channel)) => Some(channel.to_string()),
            _ => None,
        };
        Ok(Opened { message: map.into(), channel })
    }
}

/// The time since the epoch; a clock before it counts as there.
fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
