//! Messages to and from MessagePack bytes, and to and from any serde type.
//!
//! Text and bytes keep their own MessagePack families, so that they stay apart on the wire as they are in [`Value`].

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
    if message.get(RESERVED_KEY).is_some() {
        return Err(Error::encode(format_args!("key {RESERVED_KEY} is reserved")));
    }
    write(message, out)
}

/// Reads the message that `bytes` holds, and nothing else; its texts and byte strings are slices of `bytes`.
pub(crate) fn decode(bytes: &Bytes) -> Result<Message> {
    let mut reader = rmp_serde::Deserializer::from_read_ref(&bytes[..]);
    let map = MapSeed { source: Some(bytes), depth: MAX_DEPTH }.deserialize(&mut reader).map_err(Error::decode)?;
    // The reader does not tell where it stands, but only at the end does one more value fail for want of its first byte.
    match <()>::deserialize(&mut reader) {
        Err(rmp_serde::decode::Error::InvalidMarkerRead(_)) => Ok(map.into()),
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
        write(self, &mut bytes)?;
        let mut reader = rmp_serde::Deserializer::from_read_ref(&bytes).with_human_readable();
        T::deserialize(&mut reader).map_err(Error::decode)
    }
}

fn write(message: &Message, out: &mut Vec<u8>) -> Result<()> {
    check_map_depth(message.map(), MAX_DEPTH)?;
    let start = out.len();
    message.serialize(&mut rmp_serde::Serializer::new(&mut *out)).map_err(|error| {
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
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::message;

    fn encoded(message: &Message) -> Bytes {
        let mut out = Vec::new();
        encode(message, &mut out).expect("it can be encoded");
        out.into()
    }

    fn round_trip(value: impl Into<Value>) -> Value {
        let bytes = encoded(&Message::new().with("value", value));
        decode(&bytes).expect("it can be decoded").into_map().remove("value").expect("it has the key")
    }

    fn refusal(bytes: &[u8]) -> String {
        decode(&Bytes::copy_from_slice(bytes)).expect_err("it is refused").to_string()
    }

    fn nested(levels: usize) -> Message {
        let inner = (1..levels).fold(Value::None, |inner, _| Value::List(vec![inner]));
        Message::new().with("value", inner)
    }

    #[test]
    fn integers_keep_their_value_at_every_boundary() {
        let powers = (0..63).map(|bits| 1i64 << bits);
        let edges = powers.flat_map(|power| [power - 1, power, power + 1, -power - 1, -power, 1 - power]);
        for value in edges.chain([0, i64::MIN, i64::MIN + 1, i64::MAX - 1, i64::MAX]) {
            assert_eq!(round_trip(value), Value::Int(value));
        }
    }

    #[test]
    fn floats_keep_their_bits() {
        let quiet_with_payload = f64::from_bits(0x7ff8_0000_dead_beef);
        let extremes = [0.0, -0.0, f64::MIN, f64::MAX, f64::MIN_POSITIVE, f64::EPSILON, 5e-324, 1.0, 1e300, 0.1];
        let special = [f64::INFINITY, f64::NEG_INFINITY, f64::NAN, -f64::NAN, quiet_with_payload];
        for value in extremes.into_iter().chain(special) {
            let back = round_trip(value).as_float().expect("it is still a float");
            assert_eq!(back.to_bits(), value.to_bits(), "{value}");
        }
    }

    #[test]
    fn text_and_bytes_stay_apart() {
        assert_eq!(round_trip("text"), Value::from("text"));
        assert_eq!(round_trip(b"text"), Value::from(b"text"));
        assert_eq!(round_trip(""), Value::from(""));
        assert_eq!(round_trip(Bytes::new()), Value::Bytes(Bytes::new()));
    }

    #[test]
    fn byte_strings_of_any_length_and_content_come_back() {
        for length in [0, 1, 31, 32, 255, 256, 65_535, 65_536, 1 << 20] {
            for fill in [0x00, 0xff, 0xc4, 0xd9, 0xa1] {
                let value = Value::Bytes(vec![fill; length].into());
                assert_eq!(round_trip(value.clone()), value);
            }
            let text = Value::from("x".repeat(length));
            assert_eq!(round_trip(text.clone()), text);
        }
    }

    #[test]
    fn empty_and_nested_values_come_back() {
        let message = message! {
            "": "",
            "none": Value::None,
            "yes": true,
            "list": Value::List(Vec::new()),
            "map": Message::new(),
            "deep": message! { "a": Value::list([Value::from(message! { "b": Value::list(["c"]) }), Value::None]) },
        };
        assert_eq!(decode(&encoded(&message)).expect("it can be decoded"), message);
        assert_eq!(decode(&encoded(&Message::new())).expect("it can be decoded"), Message::new());
    }

    #[test]
    fn decoded_text_and_bytes_are_slices_of_the_source() {
        let bytes = encoded(&message! { "body": b"0123456789", "text": "hello" });
        let message = decode(&bytes).expect("it can be decoded");
        let range = bytes.as_ptr_range();
        assert!(range.contains(&message.bytes("body").expect("it has a body").as_ptr()));
        assert!(range.contains(&message.text("text").expect("it has text").as_ptr()));
    }

    #[test]
    fn encoding_appends_and_a_refusal_leaves_nothing() {
        let mut out = b"head".to_vec();
        encode(&message! { "a": 1 }, &mut out).expect("it can be encoded");
        assert_eq!(out, b"head\x81\xa1a\x01");
        encode(&nested(MAX_DEPTH + 1), &mut out).expect_err("it is too deep");
        assert_eq!(out, b"head\x81\xa1a\x01");
    }

    #[test]
    fn the_reserved_key_is_refused_at_the_top_only() {
        let inner = message! { "__asgi_channel__": "x" };
        let error = encode(&inner, &mut Vec::new()).expect_err("it is reserved");
        assert_eq!(error.to_string(), "message cannot be encoded: key __asgi_channel__ is reserved");
        encoded(&message! { "inner": inner });
    }

    #[test]
    fn nesting_is_allowed_to_the_limit_both_ways() {
        let deepest = nested(MAX_DEPTH);
        assert_eq!(decode(&encoded(&deepest)).expect("it is not too deep"), deepest);
        encode(&nested(MAX_DEPTH + 1), &mut Vec::new()).expect_err("it is too deep");

        let list_bomb = [&b"\x81\xa1a"[..], &vec![0x91; 100_000]].concat();
        assert!(refusal(&list_bomb).contains("128 levels"));
        let map_bomb = b"\x81\xa1a".repeat(100_000);
        assert!(refusal(&map_bomb).contains("128 levels"));
    }

    #[test]
    fn what_is_no_message_is_refused_by_name() {
        for (bytes, fault) in [
            (&b""[..], "cannot be decoded"),
            (b"\xc0", "a map from text to values"),
            (b"\x93\x01\x02\x03", "a map from text to values"),
            (b"\x05", "integer `5`"),
            (b"\xc1", "cannot be decoded"),
            (b"\x81\xcb\x7f\xf8\0\0\0\0\0\0\x01", "key NaN is not text"),
            (b"\x81\xcb\x3f\xf8\0\0\0\0\0\0\x01", "key 1.5 is not text"),
            (b"\x81\x07\x01", "key 7 is not text"),
            (b"\x81\xc0\x01", "key none is not text"),
            (b"\x81\xc3\x01", "key true is not text"),
            (b"\x81\xc4\x01a\x01", "key of 1 bytes is not text"),
            (b"\x81\x91\x01\x01", "a text key"),
            (b"\x81\xa1\xff\x01", "cannot be decoded"),
            (b"\x81\xa1a\xa2\xff\xfe", "cannot be decoded"),
            (b"\x81\xa1a\xd9\x02\xff\xfe", "cannot be decoded"),
            (
                b"\x81\xa1a\xcf\xff\xff\xff\xff\xff\xff\xff\xff",
                "integer 18446744073709551615 is outside the range of i64",
            ),
            (b"\x81\xa1a\xd4\x05\x00", "extension types are not supported"),
            (b"\x81\xa1a\x01\xc0", "more bytes follow it"),
            (b"\x82\xa1a\x01", "cannot be decoded"),
            (b"\x81\xa1a\xdd\xff\xff\xff\xff", "cannot be decoded"),
            (b"\x81\xa1a\xc6\xff\xff\xff\xff", "cannot be decoded"),
            (b"\xdf\xff\xff\xff\xff", "cannot be decoded"),
        ] {
            let error = refusal(bytes);
            assert!(error.contains(fault), "{bytes:x?}: {error}");
        }
    }

    #[test]
    fn invalid_text_is_never_taken_for_bytes_whatever_its_length() {
        for length in [1usize, 31, 32, 0xc4, 0xff, 0x100, 0xc401, 0xc4ff, 0xffff, 0x1_0000, 0xc6_0000] {
            let header = match length {
                ..32 => vec![0xa0 | u8::try_from(length).expect("it is short")],
                32..0x100 => vec![0xd9, u8::try_from(length).expect("it is short")],
                0x100..0x1_0000 => [&[0xda][..], &u16::try_from(length).expect("it is short").to_be_bytes()].concat(),
                _ => [&[0xdb][..], &u32::try_from(length).expect("it is short").to_be_bytes()].concat(),
            };
            for before in [&b"\x81\xa1a"[..], b"\x82\xa1a\xc4\x81\xa1\xc4", b"\x81\xa1\xc6"] {
                refusal(&[before, &header, &vec![0xff; length]].concat());
            }
        }
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Chat {
        text: String,
        size: u64,
        reply_to: Option<i64>,
        tags: Vec<String>,
        from: std::net::IpAddr,
        extra: Value,
    }

    #[test]
    fn structs_become_messages_and_messages_structs() {
        let chat = Chat {
            text: "hi".into(),
            size: 2,
            reply_to: None,
            tags: vec!["a".into()],
            from: [127, 0, 0, 1].into(),
            extra: Value::from(b"\xff"),
        };
        let message = Message::from_serialize(&chat).expect("it is a map");
        assert_eq!(message.text("from"), Some("127.0.0.1"));
        assert_eq!(message.get("reply_to"), Some(&Value::None));
        assert_eq!(message.get("extra"), Some(&Value::from(b"\xff")));
        assert_eq!(message.to::<Chat>().expect("it has the shape"), chat);
        assert_eq!(message.to::<Message>().expect("it is one"), message);
        assert!(message.to::<Vec<u8>>().is_err());
    }

    #[test]
    fn what_serializes_to_no_message_is_refused_by_name() {
        for (error, fault) in [
            (Message::from_serialize(&5), "integer `5`"),
            (Message::from_serialize("text"), "a map from text to values"),
            (Message::from_serialize(&BTreeMap::from([("a", u64::MAX)])), "integer 18446744073709551615 is outside"),
            (Message::from_serialize(&BTreeMap::from([(7, "a")])), "key 7 is not text"),
        ] {
            let error = error.expect_err("it is refused").to_string();
            assert!(error.starts_with("message cannot be encoded: ") && error.contains(fault), "{error}");
        }
    }

    #[test]
    fn messages_go_to_json_and_back() {
        let message = message! { "text": "hi", "size": 2, "nothing": None::<i64>, "list": Value::list([1.5]) };
        let json = serde_json::to_string(&message).expect("it is JSON");
        assert_eq!(json, r#"{"list":[1.5],"nothing":null,"size":2,"text":"hi"}"#);
        assert_eq!(serde_json::from_str::<Message>(&json).expect("it is a message"), message);
        let bytes = serde_json::to_string(&message! { "body": b"\x00\xff" }).expect("it is JSON");
        assert_eq!(bytes, r#"{"body":[0,255]}"#);
        serde_json::from_str::<Value>("18446744073709551615").expect_err("it is outside of i64");
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::None),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_filter("NaN differs from itself", |value| !value.is_nan()).prop_map(Value::from),
            any::<String>().prop_map(Value::from),
            prop::collection::vec(any::<u8>(), 0..300).prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 60, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::List),
                prop::collection::vec((any::<String>(), inner), 0..6)
                    .prop_map(|entries| Value::Map(entries.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn every_message_comes_back(entries in prop::collection::vec((any::<String>(), values()), 0..6)) {
            let message: Message = entries.into_iter().collect();
            prop_assert_eq!(decode(&encoded(&message)).expect("it can be decoded"), message.clone());
            prop_assert_eq!(message.to::<Message>().expect("it is one"), message);
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = decode(&bytes.into());
        }

        #[test]
        fn no_damage_makes_the_decoder_panic(
            value in values(),
            at in any::<prop::sample::Index>(),
            to in any::<u8>(),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = encoded(&Message::new().with("value", value)).to_vec();
            let at = at.index(bytes.len());
            bytes[at] = to;
            bytes.truncate(1 + cut.index(bytes.len()));
            let _ = decode(&bytes.into());
        }
    }
}
