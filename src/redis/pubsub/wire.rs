//! `Wire`: encodes messages as payloads and decodes them, as `channels_redis.pubsub` 4.3.0 does.
//!
//! A payload is the serialized message or, if there are keys, the Fernet token of it. The time in a token is not
//! checked, because a published message arrives at once or never.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use crate::config::{Config, Serializer};
use crate::crypto::FernetKeys;
use crate::drops::DropReason;
use crate::error::{Error, Result};
use crate::message::{Message, RESERVED_KEY, Value};

/// The encoding of a layer.
pub(crate) struct Wire {
    serializer: Serializer,
    keys: Option<FernetKeys>,
    max_message_size: usize,
}

/// A decoded message, and the full name of its channel if the payload holds it.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) message: Message,
    pub(crate) channel: Option<String>,
}

/// Why a payload cannot be decoded.
#[derive(Debug)]
pub(crate) struct Unreadable {
    pub(crate) drop: DropReason,
    /// The cause. The text is the same for the same cause and contains nothing of the payload.
    pub(crate) reason: String,
}

impl Unreadable {
    /// The message has no valid target.
    pub(crate) fn unaddressed() -> Self {
        Self { drop: DropReason::Undecodable, reason: "its Redis channel belongs to no channel or group".into() }
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

    /// The size limit of encoded messages, in bytes.
    pub(crate) fn max_message_size(&self) -> usize {
        self.max_message_size
    }

    /// The payload of `message`, which holds the name `channel` if that is given.
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
            // Decoded values take more memory than their bytes, and only this limit bounds them.
            return Err(Unreadable::undecodable("it exceeds the size limit"));
        }
        let mut map = self.serializer.decode(&plain).map_err(Unreadable::undecodable)?;
        let channel = match map.remove(RESERVED_KEY) {
            Some(Value::Text(channel)) => Some(channel.to_string()),
            _ => None,
        };
        Ok(Opened { message: map.into(), channel })
    }
}

/// The time since the epoch. Zero if the clock is before the epoch.
fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
