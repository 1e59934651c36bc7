//! Deserialization of values in any format, with errors that name the position.

use std::fmt;

use bytes::Bytes;
use bytestring::ByteString;
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use super::{MAX_DEPTH, TOO_DEEP};
use crate::message::{Map, Value};

/// Largest capacity that is reserved for a length that the input declares.
const TRUSTED_LENGTH: usize = 64;

/// Number of levels of maps and lists whose positions an error names, the outermost first.
const NAMED_LEVELS: usize = 8;

/// Adds a position to `error`: the key, value or element with `number`, counted from 1, of a map or list inside which
/// `depth` further levels are allowed. Leaves the error of a deeper level as it is.
fn within<E: de::Error>(place: &str, number: usize, depth: usize, error: E) -> E {
    if depth + NAMED_LEVELS < MAX_DEPTH { error } else { E::custom(format_args!("{place} {number}: {error}")) }
}

/// Deserializes any value. With a source, borrowed text and bytes become slices of the source instead of copies.
#[derive(Clone, Copy)]
pub(super) struct ValueSeed<'s> {
    pub(super) source: Option<&'s Bytes>,
    /// Number of further levels of maps and lists that are allowed.
    pub(super) depth: usize,
}

/// Deserializes a map with text keys.
#[derive(Clone, Copy)]
pub(super) struct MapSeed<'s> {
    pub(super) source: Option<&'s Bytes>,
    pub(super) depth: usize,
}

/// Deserializes a key, which must be text.
#[derive(Clone, Copy)]
struct KeySeed<'s> {
    source: Option<&'s Bytes>,
}

/// Returns the slice of `source` that `part` borrows, or a copy if it was not read from a source.
fn share(source: Option<&Bytes>, part: &[u8]) -> Bytes {
    source.map_or_else(|| Bytes::copy_from_slice(part), |source| source.slice_ref(part))
}

fn share_text<E: de::Error>(source: Option<&Bytes>, part: &str) -> Result<ByteString, E> {
    ByteString::try_from(share(source, part.as_bytes())).map_err(E::custom)
}

/// Whether `part` was encoded as a MessagePack byte string.
///
/// The reader presents text that is not UTF-8 as a byte string; only the header in front of it tells the difference.
/// The headers are unambiguous: each ends in the length, and for a text header of one size to be read as a byte-string
/// header of another, the length would have to differ from itself.
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
        f.write_str("none, a boolean, an integer, a float, text, bytes, a list or a map")
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
        i64::try_from(value).map(Value::Int).map_err(|_| E::custom("an integer is outside the range of i64"))
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
        loop {
            let next = access.next_element_seed(Self { depth, ..self });
            match next.map_err(|error| within("element", values.len() + 1, depth, error))? {
                Some(value) => values.push(value),
                None => return Ok(Value::List(values)),
            }
        }
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
        loop {
            let number = entries.len() + 1;
            let key = access.next_key_seed(KeySeed { source: self.source });
            let Some(key) = key.map_err(|error| within("key", number, depth, error))? else {
                return Ok(entries.into_iter().collect());
            };
            let value = access.next_value_seed(ValueSeed { source: self.source, depth });
            entries.push((key, value.map_err(|error| within("value", number, depth, error))?));
        }
    }
}

impl KeySeed<'_> {
    fn refuse<T, E: de::Error>(kind: &str) -> Result<T, E> {
        Err(E::custom(format_args!("expected text, found {kind}")))
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

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<ByteString, E> {
        Self::refuse("a boolean")
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<ByteString, E> {
        Self::refuse("an integer")
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<ByteString, E> {
        Self::refuse("an integer")
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<ByteString, E> {
        Self::refuse("a float")
    }

    fn visit_unit<E: de::Error>(self) -> Result<ByteString, E> {
        Self::refuse("none")
    }

    fn visit_bytes<E: de::Error>(self, _: &[u8]) -> Result<ByteString, E> {
        Self::refuse("bytes")
    }
}
