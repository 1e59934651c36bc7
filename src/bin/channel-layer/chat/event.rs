//! What clients and the chat say to each other: JSON objects with a `type`.

use serde::{Deserialize, Serialize};

/// From a client.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub(super) enum Said {
    /// A message for the room; `key` comes back with it, so that its sender knows it again.
    Message {
        text: String,
        #[serde(default)]
        key: Option<u64>,
    },
    /// The client is still there.
    Here,
}

impl Said {
    /// # Errors
    ///
    /// A sentence for the client.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        serde_json::from_str(text).map_err(|error| format!("This is not understood: {error}."))
    }
}

/// To a client. `id` names a connection, `at` is in milliseconds since the epoch.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub(super) enum Event<'a> {
    /// The first event: who the client is, and the rules in characters and seconds.
    Welcome {
        id: &'a str,
        room: &'a str,
        name: &'a str,
        limit: usize,
        announce: u64,
        forget: u64,
    },
    /// Somebody came; `before` is the connection that this one takes the place of.
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
        /// Grows with every message of this connection: several workers may pass two of them on the wrong way round.
        order: i64,
        at: u128,
    },
    /// These clients are here, among others.
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
        serde_json::to_string(self).expect("an event has only text keys and values that JSON knows")
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Person {
    pub(super) id: String,
    pub(super) name: String,
}
