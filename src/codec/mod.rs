//! Conversion of messages to and from MessagePack, JSON and serde types.
//!
//! Text and bytes use different MessagePack families, so they stay distinct on the wire as they are in [`Value`].

mod json;
mod read;
pub(crate) mod serializer;
mod size;

use bytes::Bytes;
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer};
use serde::{Deserialize, Serialize, Serializer};

use crate::error::{Error, Result};
use crate::message::{Map, Message, RESERVED_KEY, Value};

use read::{MapSeed, ValueSeed};
pub(crate) use size::encoded_size;

/// Maximum depth of nested maps and lists, including the message itself.
///
/// Decoding, comparing and dropping a value recurse. Without the limit, a few kilobytes of nested lists from a hostile
/// sender would overflow the stack.
pub(crate) const MAX_DEPTH: usize = 128;

/// Appends `message` to `out`. Leaves `out` unchanged if the message cannot be encoded.
pub(crate) fn encode(message: &Message, out: &mut Vec<u8>) -> Result<()> {
    refuse_reserved(message)?;
    write(message, None, out)
}

fn refuse_reserved(message: &Message) -> Result<()> {
    match message.get(RESERVED_KEY) {
        Some(_) => Err(Error::encode(format_args!("key {RESERVED_KEY} is reserved"))),
        None => Ok(()),
    }
}

/// Decodes `bytes`, which must hold one message and nothing else. Its texts and byte strings are slices of `bytes`.
pub(crate) fn decode(bytes: &Bytes) -> Result<Message> {
    read(bytes).map(Message::from)
}

fn read(bytes: &Bytes) -> Result<Map> {
    if let Some(other) = other_than_map(bytes.first()) {
        return Err(Error::decode(format_args!("expected a map, found {other}")));
    }
    let mut reader = rmp_serde::Deserializer::from_read_ref(&bytes[..]);
    let map = MapSeed { source: Some(bytes), depth: MAX_DEPTH }.deserialize(&mut reader).map_err(Error::decode)?;
    // The reader does not report its position. At the end of the input, reading another value fails because its first
    // byte is missing.
    match <()>::deserialize(&mut reader) {
        Err(rmp_serde::decode::Error::InvalidMarkerRead(_)) => Ok(map),
        _ => Err(Error::decode("unexpected bytes after the message")),
    }
}

/// Returns the type of the MessagePack value that starts with this byte, or `None` for a map. The error of the library
/// would print the value.
fn other_than_map(first: Option<&u8>) -> Option<&'static str> {
    Some(match first? {
        0x80..=0x8f | 0xde | 0xdf => return None,
        0x90..=0x9f | 0xdc | 0xdd => "a list",
        0xa0..=0xbf | 0xd9..=0xdb => "text",
        0xc0 => "none",
        0xc1 => "an invalid byte",
        0xc2 | 0xc3 => "a boolean",
        0xc4..=0xc6 => "bytes",
        0xca | 0xcb => "a float",
        0xc7..=0xc9 | 0xd4..=0xd8 => "an extension",
        _ => "an integer",
    })
}

impl Message {
    /// Serializes `value`, which must be a map or a struct, into a message.
    ///
    /// Types with separate human-readable and compact forms (addresses, identifiers, times) use the human-readable one,
    /// so that other languages can read it.
    ///
    /// ```
    /// # #[derive(serde::Serialize, serde::Deserialize, PartialEq, Debug)]
    /// struct Chat { text: String, size: u32 }
    ///
    /// let chat = Chat { text: "hi".into(), size: 2 };
    /// let message = channel_layer::Message::from_serialize(&chat)?;
    /// assert_eq!(message.text("text"), Some("hi"));
    /// assert_eq!(message.to::<Chat>()?, chat);
    /// # Ok::<(), channel_layer::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Codec`] if `value` is not a map, has keys that are not text, contains integers outside the range of
    /// `i64`, or nests more than 128 levels deep.
    pub fn from_serialize<T: Serialize + ?Sized>(value: &T) -> Result<Self> {
        let mut bytes = Vec::new();
        let mut writer = rmp_serde::Serializer::new(&mut bytes).with_struct_map().with_human_readable();
        value.serialize(&mut writer).map_err(Error::encode)?;
        decode(&bytes.into()).map_err(|error| match error {
            Error::Codec { reason, .. } => Error::encode(reason),
            other => other,
        })
    }

    /// Deserializes this message into a `T`.
    ///
    /// # Errors
    ///
    /// [`Error::Codec`] if the message does not have the shape of a `T`.
    pub fn to<T: DeserializeOwned>(&self) -> Result<T> {
        let mut bytes = Vec::new();
        write(self, None, &mut bytes)?;
        let mut reader = rmp_serde::Deserializer::from_read_ref(&bytes).with_human_readable();
        T::deserialize(&mut reader).map_err(Error::decode)
    }
}

fn write(message: &Message, routing: Option<&Value>, out: &mut Vec<u8>) -> Result<()> {
    check_map_depth(message.map(), MAX_DEPTH)?;
    let start = out.len();
    let entries = message.map().iter().chain(routing.map(|value| (RESERVED_KEY, value)));
    rmp_serde::Serializer::new(&mut *out).collect_map(entries).map_err(|error| {
        out.truncate(start);
        Error::encode(error)
    })
}

fn check_map_depth(map: &Map, depth: usize) -> Result<()> {
    let inside = depth.checked_sub(1).ok_or_else(|| Error::encode(TOO_DEEP))?;
    map.iter().try_for_each(|(_, value)| check_depth(value, inside))
}

fn check_depth(value: &Value, depth: usize) -> Result<()> {
    match value {
        Value::Map(map) => check_map_depth(map, depth),
        Value::List(values) => {
            let inside = depth.checked_sub(1).ok_or_else(|| Error::encode(TOO_DEEP))?;
            values.iter().try_for_each(|value| check_depth(value, inside))
        }
        _ => Ok(()),
    }
}

const TOO_DEEP: &str = "maps and lists are nested more than 128 levels deep";

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::None => serializer.serialize_none(),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Int(value) => serializer.serialize_i64(*value),
            Self::Float(value) => serializer.serialize_f64(*value),
            Self::Text(text) => serializer.serialize_str(text),
            Self::Bytes(bytes) => serializer.serialize_bytes(bytes),
            Self::List(values) => serializer.collect_seq(values),
            Self::Map(map) => map.serialize(serializer),
        }
    }
}

impl Serialize for Map {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl Serialize for Message {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.map().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        ValueSeed { source: None, depth: MAX_DEPTH }.deserialize(deserializer)
    }
}

impl<'de> Deserialize<'de> for Map {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        MapSeed { source: None, depth: MAX_DEPTH }.deserialize(deserializer)
    }
}

impl<'de> Deserialize<'de> for Message {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Map::deserialize(deserializer).map(Into::into)
    }
}

#[cfg(test)]
mod tests;
