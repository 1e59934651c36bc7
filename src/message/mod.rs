//! `Message` and `Value`: immutable maps of the eight ASGI value types.
//!
//! A clone shares its contents with the original, so that all recipients of a group message share one. [`Map`] is a map
//! of values, and `convert` has the conversions from Rust types.

mod convert;
mod map;

use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;

pub use map::{Iter, Map};

/// The key that Python's layers add to route a message inside a process. A message must not carry it.
pub const RESERVED_KEY: &str = "__asgi_channel__";

/// A message: a map from text to [`Value`], immutable and shared by its clones.
///
/// A clone costs one reference count, however large the message, so a process holds a group message once. Build a
/// message with [`message!`](crate::message!), from an iterator of pairs, or from any `Serialize` type with
/// [`Message::from_serialize`]. Read it with [`get`](Self::get) and the `as_` methods of [`Value`], or convert it into
/// any `Deserialize` type with [`Message::to`].
///
/// ```
/// use channel_layer::{message, Value};
///
/// let message = message! { "type": "chat.message", "text": "hi", "size": 2 };
/// assert_eq!(message.text("text"), Some("hi"));
/// assert_eq!(message.get("size"), Some(&Value::Int(2)));
/// ```
#[derive(Clone, Default, PartialEq)]
pub struct Message(Arc<Map>);

/// One value of a message. Text and bytes are different types and stay so on every layer.
///
/// Vectors, arrays and slices of `u8` convert into a byte string. Vectors, arrays and slices of any other convertible
/// type convert into a list. A single `u8` does not convert, so that integers without a type cannot be mistaken for
/// bytes.
///
/// ```
/// use channel_layer::Value;
///
/// assert_eq!(Value::from(vec![1, 2]), Value::List(vec![Value::Int(1), Value::Int(2)]));
/// assert_eq!(Value::from(b"\x01\x02"), Value::Bytes(vec![1, 2].into()));
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Value {
    /// Python's `None`.
    #[default]
    None,
    /// A boolean.
    Bool(bool),
    /// A signed 64-bit integer, the largest range that every ASGI layer supports.
    Int(i64),
    /// A 64-bit float.
    Float(f64),
    /// Unicode text.
    Text(ByteString),
    /// A byte string.
    Bytes(Bytes),
    /// A list of values.
    List(Vec<Value>),
    /// A map from text to values.
    Map(Map),
}

impl Message {
    /// Creates a message without keys.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the value of `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    /// Returns the value of `key` if it is text.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Value::as_text)
    }

    /// Returns the value of `key` if it is a byte string.
    pub fn bytes(&self, key: &str) -> Option<&Bytes> {
        self.get(key).and_then(Value::as_bytes)
    }

    /// Returns the value of `key` if it is an integer.
    pub fn int(&self, key: &str) -> Option<i64> {
        self.get(key).and_then(Value::as_int)
    }

    /// Returns all keys and values.
    pub fn map(&self) -> &Map {
        &self.0
    }

    /// Returns the map. Copies it only if the message has other clones.
    pub fn into_map(self) -> Map {
        Arc::unwrap_or_clone(self.0)
    }

    /// Returns the size of the content in memory, in bytes. Shared buffers count in full.
    pub(crate) fn footprint(&self) -> usize {
        self.0.footprint()
    }

    /// Returns this message with `key` set to `value`.
    #[must_use]
    pub fn with(self, key: impl Into<ByteString>, value: impl Into<Value>) -> Self {
        let mut map = self.into_map();
        map.insert(key, value);
        map.into()
    }
}

impl Value {
    /// Converts an iterator of values into a list.
    pub fn list<V: Into<Value>>(values: impl IntoIterator<Item = V>) -> Self {
        Self::List(values.into_iter().map(Into::into).collect())
    }

    /// Returns the boolean, if it is one.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// Returns the integer, if it is one.
    pub fn as_int(&self) -> Option<i64> {
        match self {
            Self::Int(value) => Some(*value),
            _ => None,
        }
    }

    /// Returns the float, if it is one.
    pub fn as_float(&self) -> Option<f64> {
        match self {
            Self::Float(value) => Some(*value),
            _ => None,
        }
    }

    /// Returns the text, if it is text.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(value) => Some(value),
            _ => None,
        }
    }

    /// Returns the byte string, if it is one.
    pub fn as_bytes(&self) -> Option<&Bytes> {
        match self {
            Self::Bytes(value) => Some(value),
            _ => None,
        }
    }

    /// Returns the list, if it is one.
    pub fn as_list(&self) -> Option<&[Value]> {
        match self {
            Self::List(values) => Some(values),
            _ => None,
        }
    }

    /// Returns the map, if it is one.
    pub fn as_map(&self) -> Option<&Map> {
        match self {
            Self::Map(map) => Some(map),
            _ => None,
        }
    }

    /// Returns the bytes of memory that the value takes besides its own size.
    fn footprint(&self) -> usize {
        match self {
            Self::None | Self::Bool(_) | Self::Int(_) | Self::Float(_) => 0,
            Self::Text(text) => text.len(),
            Self::Bytes(bytes) => bytes.len(),
            Self::List(values) => size_of_val(values.as_slice()) + values.iter().map(Self::footprint).sum::<usize>(),
            Self::Map(map) => map.footprint(),
        }
    }

    /// Whether the value is `None`.
    pub fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }
}

/// Builds a [`Message`] from keys and values that convert into a [`Value`].
///
/// A nested map is a message. A list is an array, a vector, a slice, or [`Value::list`] of an iterator. Integer
/// literals without a type suffix are numbers, never bytes.
///
/// ```
/// use channel_layer::message;
///
/// let message = message! {
///     "type": "chat.message",
///     "body": b"\x00\x01",
///     "tags": ["a", "b"],
///     "ids": vec![1, 2, 3],
///     "from": message! { "name": "ada", "id": 7 },
///     "reply_to": None::<i64>,
/// };
/// assert_eq!(message.map().len(), 6);
/// assert_eq!(message.get("ids").and_then(|ids| ids.as_list()).map(<[_]>::len), Some(3));
/// ```
#[macro_export]
macro_rules! message {
    () => { $crate::Message::new() };
    ($($key:literal : $value:expr),+ $(,)?) => {
        [$(($crate::Text::from_static($key), $crate::Value::from($value))),+]
            .into_iter()
            .collect::<$crate::Message>()
    };
}

impl<K: Into<ByteString>, V: Into<Value>> FromIterator<(K, V)> for Message {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        Map::from_iter(pairs).into()
    }
}

impl<K: Into<ByteString>, V: Into<Value>, const N: usize> From<[(K, V); N]> for Message {
    /// If a key occurs twice, the later value stays.
    fn from(pairs: [(K, V); N]) -> Self {
        pairs.into_iter().collect()
    }
}

impl From<Map> for Message {
    fn from(map: Map) -> Self {
        Self(Arc::new(map))
    }
}

impl From<Message> for Map {
    fn from(message: Message) -> Self {
        message.into_map()
    }
}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ints<const N: usize>(ints: [i64; N]) -> Value {
        Value::List(ints.map(Value::Int).to_vec())
    }

    #[test]
    fn integers_without_a_type_are_a_list_and_not_bytes() {
        let message = crate::message! {
            "vector": vec![1, 2, 3], "array": [1, 2, 3], "reference": &[1, 2, 3], "slice": &[1, 2, 3][..],
            "maybe": Some(vec![1, 2, 3]),
        };
        for (key, value) in message.map() {
            assert_eq!(value, &ints([1, 2, 3]), "{key}");
        }
    }

    #[test]
    fn only_vectors_arrays_and_slices_of_u8_are_bytes() {
        let bytes = Value::Bytes(Bytes::from_static(b"ab"));
        let values: [Value; 5] =
            [b"ab".into(), (*b"ab").into(), b"ab".to_vec().into(), b"ab".as_slice().into(), Bytes::from("ab").into()];
        assert!(values.iter().all(|value| *value == bytes), "{values:?}");
        assert_eq!(Value::from(vec![1i64, 2]), ints([1, 2]));
        assert_eq!(Value::from([[1u16], [2]]), Value::List(vec![ints([1]), ints([2])]));
        assert_eq!(Value::from(vec!["a"]), Value::List(vec![Value::from("a")]));
        assert_eq!(Value::from(Vec::<Value>::new()), Value::List(Vec::new()));
    }

    #[test]
    fn a_map_extends_and_iterates_in_order_of_keys() {
        let mut map = Map::from([("b", 1), ("a", 2), ("b", 3)]);
        map.extend([("c", 4), ("a", 5)]);
        let pairs: Vec<_> = (&map).into_iter().collect();
        let int = Value::Int;
        assert_eq!(pairs, [("a", &int(5)), ("b", &int(3)), ("c", &int(4))]);
        assert_eq!(map.iter().len(), 3);
        assert_eq!(Message::from([("a", 5), ("b", 3), ("c", 4)]), map.into());
    }
}
