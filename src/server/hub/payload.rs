//! `Payload`: one WebSocket message, text or bytes.

use bytes::Bytes;
use bytestring::ByteString;
use tungstenite::Utf8Bytes;

use crate::message::Value;
use crate::server::websocket::frame::{self, Data, Frame};

/// One WebSocket message. Cheap to clone: the bytes are shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// A text message.
    Text(ByteString),
    /// A binary message.
    Binary(Bytes),
}

impl Payload {
    /// Returns the text of a text message.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Binary(_) => None,
        }
    }

    /// Returns the bytes of a message of either kind.
    pub fn as_bytes(&self) -> &Bytes {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Binary(bytes) => bytes,
        }
    }

    /// Returns the key of this kind of payload in a message of the layer.
    pub(crate) fn key(&self) -> &'static str {
        match self {
            Self::Text(_) => "text",
            Self::Binary(_) => "bytes",
        }
    }
}

impl From<&str> for Payload {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for Payload {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}

impl From<ByteString> for Payload {
    fn from(text: ByteString) -> Self {
        Self::Text(text)
    }
}

impl From<Vec<u8>> for Payload {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Binary(bytes.into())
    }
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Self {
        Self::Binary(bytes)
    }
}

impl From<Payload> for Value {
    fn from(payload: Payload) -> Self {
        match payload {
            Payload::Text(text) => Self::Text(text),
            Payload::Binary(bytes) => Self::Bytes(bytes),
        }
    }
}

impl From<Data> for Payload {
    fn from(data: Data) -> Self {
        match data {
            Data::Text(text) => Self::Text(frame::to_byte_string(text)),
            Data::Binary(bytes) => Self::Binary(bytes),
        }
    }
}

impl From<Payload> for Frame {
    fn from(payload: Payload) -> Self {
        match payload {
            Payload::Text(text) => match Utf8Bytes::try_from(text.into_bytes()) {
                Ok(text) => Data::Text(text).into(),
                Err(_) => unreachable!("text is UTF-8"),
            },
            Payload::Binary(bytes) => Data::Binary(bytes).into(),
        }
    }
}
