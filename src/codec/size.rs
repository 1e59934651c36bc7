//! The encoded size of a message, computed without encoding it.

use super::{MAX_DEPTH, TOO_DEEP};
use crate::error::{Error, Result};
use crate::message::{Map, Message, Value};

/// Returns the number of bytes that [`encode`](super::encode) would append for `message`. Fails for the same messages.
pub(crate) fn encoded_size(message: &Message) -> Result<usize> {
    super::refuse_reserved(message)?;
    map_size(message.map(), MAX_DEPTH)
}

fn map_size(map: &Map, depth: usize) -> Result<usize> {
    let inside = depth.checked_sub(1).ok_or_else(|| Error::encode(TOO_DEEP))?;
    let header = container_header(map.len())?;
    map.iter().try_fold(header, |size, (key, value)| Ok(size + text_size(key)? + value_size(value, inside)?))
}

fn value_size(value: &Value, depth: usize) -> Result<usize> {
    match value {
        Value::None | Value::Bool(_) => Ok(1),
        Value::Int(value) => Ok(int_size(*value)),
        Value::Float(_) => Ok(9),
        Value::Text(text) => text_size(text),
        Value::Bytes(bytes) => Ok(long_header(bytes.len())? + bytes.len()),
        Value::List(values) => {
            let inside = depth.checked_sub(1).ok_or_else(|| Error::encode(TOO_DEEP))?;
            let header = container_header(values.len())?;
            values.iter().try_fold(header, |size, value| Ok(size + value_size(value, inside)?))
        }
        Value::Map(map) => map_size(map, depth),
    }
}

/// Returns the size of the shortest encoding of `value`. Values that are not negative use the unsigned forms.
fn int_size(value: i64) -> usize {
    match value {
        -32..=0x7f => 1,
        -0x80..=0xff => 2,
        -0x8000..=0xffff => 3,
        -0x8000_0000..=0xffff_ffff => 5,
        _ => 9,
    }
}

fn text_size(text: &str) -> Result<usize> {
    let header = if text.len() < 32 { 1 } else { long_header(text.len())? };
    Ok(header + text.len())
}

/// Returns the size of the header of a text of at least 32 bytes, or of any byte string.
fn long_header(length: usize) -> Result<usize> {
    match length {
        0..=0xff => Ok(2),
        0x100..=0xffff => Ok(3),
        0x1_0000..=0xffff_ffff => Ok(5),
        _ => Err(Error::encode(format_args!("a value of {length} bytes is too long"))),
    }
}

/// Returns the size of the header of a list or map.
fn container_header(length: usize) -> Result<usize> {
    match length {
        0..=15 => Ok(1),
        16..=0xffff => Ok(3),
        0x1_0000..=0xffff_ffff => Ok(5),
        _ => Err(Error::encode(format_args!("{length} entries are too many"))),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::codec::encode;
    use crate::message;

    fn check(value: impl Into<Value>) {
        let value: Value = value.into();
        let message = message! { "value": value };
        let mut bytes = Vec::new();
        encode(&message, &mut bytes).expect("a message that can be carried");
        assert_eq!(encoded_size(&message).expect("the same message"), bytes.len());
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::None),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<i16>().prop_map(|value| Value::Int(value.into())),
            any::<f64>().prop_map(Value::from),
            ".{0,40}".prop_map(Value::from),
            prop::collection::vec(any::<u8>(), 0..300).prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 64, 20, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..20).prop_map(Value::from),
                prop::collection::vec((".{0,40}", inner), 0..20)
                    .prop_map(|pairs| pairs.into_iter().collect::<Map>().into()),
            ]
        })
    }

    proptest! {
        #[test]
        fn is_the_size_of_the_encoding(value in values()) {
            check(value);
        }
    }

    #[test]
    fn is_exact_where_headers_grow() {
        for length in [0, 1, 15, 16, 31, 32, 255, 256, 65_535, 65_536] {
            check("x".repeat(length));
            check(vec![0u8; length]);
            check(vec![Value::None; length]);
            check((0..length).map(|key| (key.to_string(), true)).collect::<Map>());
        }
    }

    #[test]
    fn is_exact_where_integers_grow() {
        for bits in 0..64 {
            for near in [-1, 0, 1] {
                check((1i64 << bits).wrapping_add(near));
                check((-1i64 << bits).wrapping_add(near));
            }
        }
    }

    #[test]
    fn fails_for_the_messages_that_encoding_refuses() {
        let nested = |depth: usize| (1..depth).fold(Value::from(1), |value, _| Value::List(vec![value]));
        let deepest = message! { "value": nested(MAX_DEPTH) };
        assert!(encode(&deepest, &mut Vec::new()).is_ok() && encoded_size(&deepest).is_ok());
        for message in [message! { "value": nested(MAX_DEPTH + 1) }, message! { "__asgi_channel__": 1 }] {
            let expected = encode(&message, &mut Vec::new()).expect_err("it cannot be carried").to_string();
            assert_eq!(encoded_size(&message).expect_err("it cannot be carried").to_string(), expected);
        }
    }
}
