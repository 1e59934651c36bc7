//! `HubMessage`: the messages between the processes of a hub.

use crate::message;
use crate::message::{Message, Value};
use crate::server::asgi::messages::ReplyReader;
use crate::server::hub::Payload;
use crate::server::hub::names::Kind;
use crate::server::websocket::reply::Reply;
use crate::trace::{self, TraceParent};

/// A message of another process.
#[derive(Debug, PartialEq)]
pub(crate) enum HubMessage {
    /// A message for clients of the receiving process.
    Content { from: String, to: Address, reply: Reply },
    /// Announces a new process, with its channel.
    Hello(String),
    /// Answers an announcement, with the channel of the answering process.
    Answer(String),
}

/// The clients that a message is for.
#[derive(Debug, PartialEq)]
pub(crate) enum Address {
    Everyone,
    Audience(Kind, String),
}

/// Encodes a message to clients, from the process on `channel`, with its trace span if there is one.
pub(crate) fn content(
    channel: &str,
    to: Option<(Kind, &str)>,
    payload: Payload,
    trace: Option<TraceParent>,
) -> Message {
    let (key, value): (_, Value) = match to {
        Some((kind, name)) => (kind.label(), name.into()),
        None => ("everyone", true.into()),
    };
    to_client(payload, trace).with("from", channel).with(key, value)
}

/// Encodes a message to one client, which is sent to the client's own channel.
pub(crate) fn to_client(payload: Payload, trace: Option<TraceParent>) -> Message {
    let message = message! {}.with(payload.key(), payload);
    match trace {
        Some(trace) => message.with(trace::KEY, trace.to_string()),
        None => message,
    }
}

pub(crate) fn hello(channel: &str) -> Message {
    message! { "hello": channel }
}

pub(crate) fn answer(channel: &str) -> Message {
    message! { "answer": channel }
}

/// Decodes a message that arrived on the channel of this process.
///
/// # Errors
///
/// The reason why the message is ignored.
pub(crate) fn read(message: &Message, replies: &mut ReplyReader) -> Result<HubMessage, &'static str> {
    if let Some(channel) = message.text("hello") {
        return Ok(HubMessage::Hello(channel.to_owned()));
    }
    if let Some(channel) = message.text("answer") {
        return Ok(HubMessage::Answer(channel.to_owned()));
    }
    let named = |kind: Kind| message.text(kind.label()).map(|name| Address::Audience(kind, name.to_owned()));
    let everyone = || message.get("everyone").map(|_| Address::Everyone);
    let to = named(Kind::Room).or_else(|| named(Kind::User)).or_else(everyone).ok_or("no recipient")?;
    let from = message.text("from").ok_or("no sender")?.to_owned();
    // A message to a room must not close clients.
    let reply = Reply { close: None, accept: None, ..replies.read(message)? };
    if reply.data.is_none() {
        return Err("neither text nor bytes");
    }
    Ok(HubMessage::Content { from, to, reply })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_a_round_trip() {
        let read = |message: &Message| read(message, &mut ReplyReader::default());
        let reply = |payload: &Payload| Reply::of(payload.clone().into(), None);
        for payload in [Payload::from("hi"), Payload::from(vec![0, 255])] {
            for (to, address) in [
                (None, Address::Everyone),
                (Some((Kind::Room, "lobby")), Address::Audience(Kind::Room, "lobby".to_owned())),
                (Some((Kind::User, "ada")), Address::Audience(Kind::User, "ada".to_owned())),
            ] {
                let expected = HubMessage::Content { from: "p!".to_owned(), to: address, reply: reply(&payload) };
                assert_eq!(read(&content("p!", to, payload.clone(), None)), Ok(expected));
            }
        }
        assert_eq!(read(&hello("p!x")), Ok(HubMessage::Hello("p!x".to_owned())));
        assert_eq!(read(&answer("p!x")), Ok(HubMessage::Answer("p!x".to_owned())));
    }

    #[test]
    fn invalid_messages_are_refused() {
        for message in [
            message! {},
            message! { "text": "hi" },
            message! { "room": "lobby", "text": "hi" },
            message! { "room": "lobby", "from": "p!" },
            message! { "room": "lobby", "from": "p!", "text": "hi", "bytes": b"hi" },
        ] {
            assert!(read(&message, &mut ReplyReader::default()).is_err(), "{message:?}");
        }
    }
}
