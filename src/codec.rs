//! Messages to and from MessagePack or JSON bytes, and to and from any serde type.
//!
//! Text and bytes keep their own MessagePack families, so that they stay apart on the wire as they are in [`Value`].

mod json;
pub(crate) mod serializer;
mod size;

use std::fmt;

use bytes::Bytes;
use bytestring::ByteString;
use serde::de::{self, DeserializeOwned, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use crate::error::{Error, Result};
use crate::message::{Map, Message, RESERVED_KEY, Value};

pub(crate) use size::encoded_size;

/// How many maps and lists may be inside each other, the message itself included.
///
/// Decoding, comparing and dropping a value recurse, so that a few kilobytes of nested lists from a hostile writer would
/// otherwise overflow the stack.
pub(crate) const MAX_DEPTH: usize = 128;

/// A length that an encoded message claims is believed only so far when memory is set aside for it.
const TRUSTED_LENGTH: usize = 64;

/// Appends `message` to `out`; leaves `out` as it was if the message cannot be carried.
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

/// Reads the message that `bytes` holds, and nothing else; its texts and byte strings are slices of `bytes`.
pub(crate) fn decode(bytes: &Bytes) -> Result<Message> {
    read(bytes).map(Message::from)
}

fn read(bytes: &Bytes) -> Result<Map> {
    let mut reader = rmp_serde::Deserializer::from_read_ref(&bytes[..]);
    let map = MapSeed { source: Some(bytes), depth: MAX_DEPTH }.deserialize(&mut reader).map_err(Error::decode)?;
    // The reader does not tell where it stands, but only at the end does one more value fail for want of its first byte.
    match <()>::deserialize(&mut reader) {
        Err(rmp_serde::decode::Error::InvalidMarkerRead(_)) => Ok(map),
        _ => Err(Error::decode("more bytes follow it")),
    }
}

impl Message {
    /// The message that `value` serializes to, which must be a map or a struct.
    ///
    /// Types that serialize differently for people and for machines (addresses, identifiers, times) choose the form for
    /// people, so that other languages can read it.
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
    /// [`Error::Codec`] if it is not a map, has keys that are not text, integers outside the range of `i64`, or nests
    /// more than 128 levels deep.
    pub fn from_serialize<T: Serialize + ?Sized>(value: &T) -> Result<Self> {
        let mut bytes = Vec::new();
        let mut writer = rmp_serde::Serializer::new(&mut bytes).with_struct_map().with_human_readable();
        value.serialize(&mut writer).map_err(Error::encode)?;
        decode(&bytes.into()).map_err(|error| match error {
            Error::Codec { reason, .. } => Error::encode(reason),
            other => other,
        })
    }

    /// This message as a `T`.
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

/// Reads any value. With a source, what is borrowed from it becomes a slice of it instead of a copy.
#[derive(Clone, Copy)]
struct ValueSeed<'s> {
    source: Option<&'s Bytes>,
    /// How many levels of maps and lists may still follow.
    depth: usize,
}

/// Reads a map with text keys.
#[derive(Clone, Copy)]
struct MapSeed<'s> {
    source: Option<&'s Bytes>,
    depth: usize,
}

/// Reads a key, which must be text.
#[derive(Clone, Copy)]
struct KeySeed<'s> {
    source: Option<&'s Bytes>,
}

/// The part of `source` that `part` is, or a copy where it was not read from a source.
fn share(source: Option<&Bytes>, part: &[u8]) -> Bytes {
    source.map_or_else(|| Bytes::copy_from_slice(part), |source| source.slice_ref(part))
}

fn share_text<E: de::Error>(source: Option<&Bytes>, part: &str) -> Result<ByteString, E> {
    ByteString::try_from(share(source, part.as_bytes())).map_err(E::custom)
}

/// Whether `part` was written as a byte string of MessagePack.
///
/// The reader presents text that is not UTF-8 as if it were a byte string, and only the header before it tells. The
/// headers cannot be taken for each other: each ends in the length, and a text header of one size read as a byte string
/// header of another would need a length that differs from its own.
fn is_byte_string(source: &Bytes, part: &[u8]) -> bool {
    let start = (part.as_ptr() as usize).wrapping_sub(source.as_ptr() as usize);
    let Some(before) = source.get(..start) else { return false };
    let Ok(length) = u32::try_from(part.len()) else { return false };
    let [_, _, high, low] = length.to_be_bytes();
    (length < 1 << 8 && before.ends_with(&[0xc4, low]))
        || (length < 1 << 16 && before.ends_with(&[0xc5, high, low]))
        || before.ends_with(&length.to_be_bytes()) && before.len() > 4 && before[before.len() - 5] == 0xc6
}

impl<'de> DeserializeSeed<'de> for ValueSeed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> DeserializeSeed<'de> for MapSeed<'_> {
    type Value = Map;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Map, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> DeserializeSeed<'de> for KeySeed<'_> {
    type Value = ByteString;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<ByteString, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ValueSeed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("none, a truth value, an integer, a float, text, bytes, a list or a map")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::None)
    }

    fn visit_none<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::None)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, _: D) -> Result<Value, D::Error> {
        Err(de::Error::custom("extension types are not supported"))
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Int(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
        let outside = |_| E::custom(format_args!("integer {value} is outside the range of i64"));
        i64::try_from(value).map(Value::Int).map_err(outside)
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(text.into()))
    }

    fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Value, E> {
        share_text(self.source, text).map(Value::Text)
    }

    fn visit_string<E: de::Error>(self, text: String) -> Result<Value, E> {
        Ok(Value::Text(text.into()))
    }

    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Value, E> {
        Ok(Value::Bytes(Bytes::copy_from_slice(bytes)))
    }

    fn visit_borrowed_bytes<E: de::Error>(self, bytes: &'de [u8]) -> Result<Value, E> {
        match self.source {
            Some(source) if !is_byte_string(source, bytes) => Err(E::custom("text is not UTF-8")),
            source => Ok(Value::Bytes(share(source, bytes))),
        }
    }

    fn visit_byte_buf<E: de::Error>(self, bytes: Vec<u8>) -> Result<Value, E> {
        Ok(Value::Bytes(bytes.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let depth = self.depth.checked_sub(1).ok_or_else(|| de::Error::custom(TOO_DEEP))?;
        let mut values = Vec::with_capacity(access.size_hint().unwrap_or(0).min(TRUSTED_LENGTH));
        while let Some(value) = access.next_element_seed(Self { depth, ..self })? {
            values.push(value);
        }
        Ok(Value::List(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, access: A) -> Result<Value, A::Error> {
        MapSeed { source: self.source, depth: self.depth }.visit_map(access).map(Value::Map)
    }
}

impl<'de> Visitor<'de> for MapSeed<'_> {
    type Value = Map;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map from text to values")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Map, A::Error> {
        let depth = self.depth.checked_sub(1).ok_or_else(|| de::Error::custom(TOO_DEEP))?;
        let mut entries = Vec::with_capacity(access.size_hint().unwrap_or(0).min(TRUSTED_LENGTH));
        while let Some(key) = access.next_key_seed(KeySeed { source: self.source })? {
            entries.push((key, access.next_value_seed(ValueSeed { source: self.source, depth })?));
        }
        Ok(entries.into_iter().collect())
    }
}

impl KeySeed<'_> {
    fn refuse<T, E: de::Error>(key: impl fmt::Display) -> Result<T, E> {
        Err(E::custom(format_args!("key {key} is not text")))
    }
}

impl<'de> Visitor<'de> for KeySeed<'_> {
    type Value = ByteString;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text key")
    }

    fn visit_str<E: de::Error>(self, key: &str) -> Result<ByteString, E> {
        Ok(key.into())
    }

    fn visit_borrowed_str<E: de::Error>(self, key: &'de str) -> Result<ByteString, E> {
        share_text(self.source, key)
    }

    fn visit_string<E: de::Error>(self, key: String) -> Result<ByteString, E> {
        Ok(key.into())
    }

    fn visit_bool<E: de::Error>(self, key: bool) -> Result<ByteString, E> {
        Self::refuse(key)
    }

    fn visit_i64<E: de::Error>(self, key: i64) -> Result<ByteString, E> {
        Self::refuse(key)
    }

    fn visit_u64<E: de::Error>(self, key: u64) -> Result<ByteString, E> {
        Self::refuse(key)
    }

    fn visit_f64<E: de::Error>(self, key: f64) -> Result<ByteString, E> {
        Self::refuse(key)
    }

    fn visit_unit<E: de::Error>(self) -> Result<ByteString, E> {
        Self::refuse("none")
    }

    fn visit_bytes<E: de::Error>(self, key: &[u8]) -> Result<ByteString, E> {
        Self::refuse(format_args!("of {} bytes", key.len()))
    }
}

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
