//! Messages: immutable maps of the eight ASGI value types, cheap to clone.

use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;

/// The key that Python's layers add to route a message inside a process; a message may not carry it.
pub const RESERVED_KEY: &str = "__asgi_channel__";

/// A message: a map from text to [`Value`], immutable and shared by its clones.
///
/// A clone costs one reference count, however large the message, so that a group message is held once per process.
/// Build one with [`message!`](crate::message!), from an iterator of pairs, or from any `Serialize` type with
/// [`Message::from_serialize`]; read it with [`get`](Self::get) and the `as_` methods of [`Value`], or turn it into any
/// `Deserialize` type with [`Message::to`].
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
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Value {
    /// Nothing: Python's `None`.
    #[default]
    None,
    /// A truth value.
    Bool(bool),
    /// A signed 64-bit integer, the largest range that every ASGI layer takes.
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

/// A map from text to [`Value`], ordered by key.
///
/// Messages have few keys, so that a sorted vector beats a tree in size and in speed.
#[derive(Clone, Default, PartialEq)]
pub struct Map(Vec<(ByteString, Value)>);

impl Message {
    /// A message without keys.
    pub fn new() -> Self {
        Self::default()
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    /// The value of `key` if it is text.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Value::as_text)
    }

    /// The value of `key` if it is a byte string.
    pub fn bytes(&self, key: &str) -> Option<&Bytes> {
        self.get(key).and_then(Value::as_bytes)
    }

    /// The value of `key` if it is an integer.
    pub fn int(&self, key: &str) -> Option<i64> {
        self.get(key).and_then(Value::as_int)
    }

    /// All keys and values.
    pub fn map(&self) -> &Map {
        &self.0
    }

    /// The map, without a copy where nobody else holds the message.
    pub fn into_map(self) -> Map {
        Arc::unwrap_or_clone(self.0)
    }

    /// This message with `key` set to `value`.
    #[must_use]
    pub fn with(self, key: impl Into<ByteString>, value: impl Into<Value>) -> Self {
        let mut map = self.into_map();
        map.insert(key, value);
        map.into()
    }
}

impl Map {
    /// A map without keys.
    pub fn new() -> Self {
        Self::default()
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.find(key).ok().map(|at| &self.0[at].1)
    }

    /// Sets `key` to `value`; gives the value that it had.
    pub fn insert(&mut self, key: impl Into<ByteString>, value: impl Into<Value>) -> Option<Value> {
        let (key, value) = (key.into(), value.into());
        match self.find(&key) {
            Ok(at) => Some(std::mem::replace(&mut self.0[at].1, value)),
            Err(at) => {
                self.0.insert(at, (key, value));
                None
            }
        }
    }

    /// Takes `key` out.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        self.find(key).ok().map(|at| self.0.remove(at).1)
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Keys and values, by key.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.0.iter().map(|(key, value)| (&**key, value))
    }

    fn find(&self, key: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(other, _)| (**other).cmp(key))
    }
}

impl Value {
    /// A list of anything that is a value.
    pub fn list<V: Into<Value>>(values: impl IntoIterator<Item = V>) -> Self {
        Self::List(values.into_iter().map(Into::into).collect())
    }

    /// The truth value, if it is one.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// The integer, if it is one.
    pub fn as_int(&self) -> Option<i64> {
        match self {
            Self::Int(value) => Some(*value),
            _ => None,
        }
    }

    /// The float, if it is one.
    pub fn as_float(&self) -> Option<f64> {
        match self {
            Self::Float(value) => Some(*value),
            _ => None,
        }
    }

    /// The text, if it is text.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(value) => Some(value),
            _ => None,
        }
    }

    /// The byte string, if it is one.
    pub fn as_bytes(&self) -> Option<&Bytes> {
        match self {
            Self::Bytes(value) => Some(value),
            _ => None,
        }
    }

    /// The list, if it is one.
    pub fn as_list(&self) -> Option<&[Value]> {
        match self {
            Self::List(values) => Some(values),
            _ => None,
        }
    }

    /// The map, if it is one.
    pub fn as_map(&self) -> Option<&Map> {
        match self {
            Self::Map(map) => Some(map),
            _ => None,
        }
    }

    /// Whether it is nothing.
    pub fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }
}

/// Builds a [`Message`] from keys and anything that converts into a [`Value`].
///
/// Maps inside are messages themselves, lists come from [`Value::list`].
///
/// ```
/// use channel_layer::{message, Value};
///
/// let message = message! {
///     "type": "chat.message",
///     "body": b"\x00\x01",
///     "tags": Value::list(["a", "b"]),
///     "from": message! { "name": "ada", "id": 7 },
///     "reply_to": None::<i64>,
/// };
/// assert_eq!(message.map().len(), 5);
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

impl<K: Into<ByteString>, V: Into<Value>> FromIterator<(K, V)> for Map {
    /// Where a key comes twice the later value stays.
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        let mut entries: Vec<_> = pairs.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
        // Sorting keeps equal keys in their order, so that the last of each run is the one that came last.
        entries.sort_by(|(a, _): &(ByteString, Value), (b, _)| a.cmp(b));
        entries.dedup_by(|later, earlier| {
            let same = later.0 == earlier.0;
            if same {
                std::mem::swap(later, earlier);
            }
            same
        });
        Self(entries)
    }
}

impl<K: Into<ByteString>, V: Into<Value>> FromIterator<(K, V)> for Message {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        Map::from_iter(pairs).into()
    }
}

impl IntoIterator for Map {
    type Item = (ByteString, Value);
    type IntoIter = std::vec::IntoIter<Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
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

impl From<Message> for Value {
    fn from(message: Message) -> Self {
        Self::Map(message.into_map())
    }
}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(&self.0, f)
    }
}

impl std::fmt::Debug for Map {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl From<f32> for Value {
    fn from(value: f32) -> Self {
        Self::Float(value.into())
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Float(value)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<i32> for Value {
    fn from(value: i32) -> Self {
        Self::Int(value.into())
    }
}

impl From<u32> for Value {
    fn from(value: u32) -> Self {
        Self::Int(value.into())
    }
}

impl From<u16> for Value {
    fn from(value: u16) -> Self {
        Self::Int(value.into())
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::Text(value.into())
    }
}

impl From<String> for Value {
    fn from(value: String) -> Self {
        Self::Text(value.into())
    }
}

impl From<ByteString> for Value {
    fn from(value: ByteString) -> Self {
        Self::Text(value)
    }
}

impl From<Bytes> for Value {
    fn from(value: Bytes) -> Self {
        Self::Bytes(value)
    }
}

impl From<Vec<u8>> for Value {
    fn from(value: Vec<u8>) -> Self {
        Self::Bytes(value.into())
    }
}

impl From<&[u8]> for Value {
    fn from(value: &[u8]) -> Self {
        Self::Bytes(Bytes::copy_from_slice(value))
    }
}

impl<const N: usize> From<&[u8; N]> for Value {
    fn from(value: &[u8; N]) -> Self {
        value.as_slice().into()
    }
}

impl From<Vec<Value>> for Value {
    fn from(values: Vec<Value>) -> Self {
        Self::List(values)
    }
}

impl From<Map> for Value {
    fn from(map: Map) -> Self {
        Self::Map(map)
    }
}

impl<V: Into<Value>> From<Option<V>> for Value {
    fn from(value: Option<V>) -> Self {
        value.map_or(Self::None, Into::into)
    }
}
