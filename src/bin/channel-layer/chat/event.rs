//! Messages between clients and the chat: JSON objects with a `type`.

use serde::{Deserialize, Serialize};

/// A message from a client.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub(super) enum ClientMessage {
    /// A message for the room. `key` is sent back with it, so that the sender recognises its own message.
    Message {
        text: String,
        #[serde(default)]
        key: Option<u64>,
    },
    /// The client is still connected.
    Here,
}

impl ClientMessage {
    /// Parses the JSON text of a client.
    ///
    /// # Errors
    ///
    /// A sentence for the user.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        serde_json::from_str(text).map_err(|error| format!("Invalid message: {error}."))
    }
}

/// A message to a client. `id` names a connection, and `at` is in milliseconds since the epoch.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub(super) enum Event<'a> {
    /// The first event: the identity of the client, and the limits in characters and seconds.
    Welcome {
        id: &'a str,
        room: &'a str,
        name: &'a str,
        limit: usize,
        announce: u64,
        forget: u64,
    },
    /// A client joined; `before` is the connection that this one replaces.
    Joined {
        id: &'a str,
        name: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        before: Option<&'a str>,
        at: u128,
    },
    Left {
        id: &'a str,
        name: &'a str,
        at: u128,
    },
    Message {
        id: &'a str,
        name: &'a str,
        text: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        key: Option<u64>,
        /// Increases with every message of this connection: several workers may pass two messages on in the wrong
        /// order.
        order: i64,
        at: u128,
    },
    /// Some of the clients that are connected.
    Here {
        people: Vec<Person>,
    },
    /// A sentence for the user.
    Error {
        text: String,
    },
}

impl Event<'_> {
    pub(super) fn to_json(&self) -> String {
        serde_json::to_string(self).expect("an event has only text keys and JSON values")
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Person {
    pub(super) id: String,
    pub(super) name: String,
}
