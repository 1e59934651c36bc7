//! What the processes of a hub tell each other, as messages of the layer.

use crate::message;
use crate::message::{Message, Value};
use crate::server::asgi::messages::{Reply, ReplyReader};
use crate::server::hub::Payload;
use crate::server::hub::names::Kind;
use crate::trace::{self, TraceParent};

/// A message of another process.
#[derive(Debug, PartialEq)]
pub(crate) enum Letter {
    /// For the clients of the receiving process.
    Content { from: String, to: Address, reply: Reply },
    /// A process has come; its channel.
    Hello(String),
    /// The answer to that; the channel of who answers.
    Answer(String),
}

#[derive(Debug, PartialEq)]
pub(crate) enum Address {
    Everyone,
    Some(Kind, String),
}

/// A message to clients, from the process on `channel`, at a place in a trace if there is one.
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

/// A message to a client, on its own channel.
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

/// Reads what came on the channel of this process.
///
/// # Errors
///
/// Why the message has to be ignored.
pub(crate) fn read(message: &Message, replies: &mut ReplyReader) -> Result<Letter, &'static str> {
    if let Some(channel) = message.text("hello") {
        return Ok(Letter::Hello(channel.to_owned()));
    }
    if let Some(channel) = message.text("answer") {
        return Ok(Letter::Answer(channel.to_owned()));
    }
    let named = |kind: Kind| message.text(kind.label()).map(|name| Address::Some(kind, name.to_owned()));
    let everyone = || message.get("everyone").map(|_| Address::Everyone);
    let to = named(Kind::Room).or_else(|| named(Kind::User)).or_else(everyone).ok_or("it is for nobody")?;
    let from = message.text("from").ok_or("it is from nobody")?.to_owned();
    // Clients of a hub are not closed by messages to their room.
    let reply = Reply { close: None, accept: None, ..replies.read(message)? };
    if reply.data.is_none() {
        return Err("it has neither text nor bytes");
    }
    Ok(Letter::Content { from, to, reply })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let read = |message: &Message| read(message, &mut ReplyReader::default());
        let reply = |payload: &Payload| Reply::of(payload.clone().into(), None);
        for payload in [Payload::from("hi"), Payload::from(vec![0, 255])] {
            for (to, address) in [
                (None, Address::Everyone),
                (Some((Kind::Room, "lobby")), Address::Some(Kind::Room, "lobby".to_owned())),
                (Some((Kind::User, "ada")), Address::Some(Kind::User, "ada".to_owned())),
            ] {
                let letter = Letter::Content { from: "p!".to_owned(), to: address, reply: reply(&payload) };
                assert_eq!(read(&content("p!", to, payload.clone(), None)), Ok(letter));
            }
        }
        assert_eq!(read(&hello("p!x")), Ok(Letter::Hello("p!x".to_owned())));
        assert_eq!(read(&answer("p!x")), Ok(Letter::Answer("p!x".to_owned())));
    }

    #[test]
    fn what_is_no_letter_is_refused() {
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
