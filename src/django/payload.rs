//! `Payload`: converts messages to the bytes that Python stores in Redis, and back. They are bounded in size, and
//! encrypted if there are keys.

use std::time::Duration;

use bytes::Bytes;
use rand::RngCore;

use crate::codec::serializer::Serializer;
use crate::crypto::FernetKeys;
use crate::drops::DropReason;
use crate::error::{Error, Result};
use crate::message::{Map, Message, RESERVED_KEY, Value};
use crate::name::ChannelName;
use crate::redis::receive::Unreadable;

/// Python opens an encrypted message for this much longer than its expiry.
const LEEWAY: Duration = Duration::from_secs(10);
/// The most bytes that the routing may add to a message: ten thousand names of the usual length.
const ROUTING: usize = 1 << 20;

/// The options by which messages are encoded and decoded.
#[derive(Debug)]
pub(super) struct Payload {
    pub(super) serializer: Serializer,
    pub(super) keys: Option<FernetKeys>,
    /// Random bytes before each message, which make the members of a sorted set differ.
    pub(super) random_prefix: usize,
    pub(super) expiry: Duration,
    pub(super) max_message_size: usize,
}

/// The channels that a message is for, in addition to the channel of its key.
#[derive(Debug, PartialEq)]
pub(super) enum Routing {
    /// The channel that the key belongs to.
    None,
    One(ChannelName),
    Many(Vec<ChannelName>),
}

impl Payload {
    /// Encodes `message` with its routing. [`wrap`](Self::wrap) turns the result into the stored bytes.
    ///
    /// # Errors
    ///
    /// [`Error::Codec`], [`Error::MessageTooLarge`].
    pub(super) fn encode(&self, message: &Message, routing: Option<&Value>) -> Result<Bytes> {
        let mut plain = Vec::with_capacity(192);
        self.encode_plain(message, routing, &mut plain)?;
        Ok(plain.into())
    }

    /// Encodes a message that was read with another routing, and returns its stored bytes. It may have any size.
    pub(super) fn encode_again(&self, message: &Message, routing: &Value, now: Duration) -> Result<Bytes> {
        let mut plain = Vec::with_capacity(192);
        self.serializer.encode(message, Some(routing), &mut plain)?;
        Ok(self.wrap(&plain, now).into())
    }

    /// Checks that `message` can be sent.
    pub(super) fn check(&self, message: &Message) -> Result<()> {
        self.encode_plain(message, None, &mut Vec::with_capacity(192))
    }

    /// The stored bytes of an encoded message: a random beginning, and the message, encrypted if there are keys. `now`
    /// counts from the epoch by the clock of the server: an encrypted message opens only for a limited time, and may
    /// wait for its server before that.
    pub(super) fn wrap(&self, plain: &[u8], now: Duration) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.random_prefix + plain.len() + 64);
        bytes.resize(self.random_prefix, 0);
        rand::rng().fill_bytes(&mut bytes);
        match &self.keys {
            None => bytes.extend_from_slice(plain),
            Some(keys) => keys.seal(now, plain, &mut bytes),
        }
        bytes
    }

    fn encode_plain(&self, message: &Message, routing: Option<&Value>, out: &mut Vec<u8>) -> Result<()> {
        let start = out.len();
        self.serializer.encode(message, routing, out)?;
        let mut size = out.len() - start;
        if size > self.max_message_size && routing.is_some() {
            let mut alone = Vec::with_capacity(size);
            self.serializer.encode(message, None, &mut alone)?;
            size = alone.len();
        }
        if size > self.max_message_size {
            return Err(Error::MessageTooLarge { size, limit: self.max_message_size });
        }
        Ok(())
    }

    /// Decodes the message in `bytes` and its routing.
    pub(super) fn decode(&self, bytes: &Bytes, now: Duration) -> Result<(Message, Routing), Unreadable> {
        if bytes.len() < self.random_prefix {
            return Err(undecodable("it is shorter than its random prefix"));
        }
        let body = bytes.slice(self.random_prefix..);
        let plain = match &self.keys {
            None => body,
            Some(keys) => {
                let opened = keys.open(&body, now, Some(self.expiry + LEEWAY));
                opened.map_err(|error| unreadable(DropReason::Undecryptable, error.to_string()))?.into()
            }
        };
        if plain.len() > self.max_message_size + ROUTING {
            // Values take more memory than their bytes, and only this limit bounds them.
            return Err(undecodable("it is larger than the limit"));
        }
        let mut map = self.serializer.decode(&plain).map_err(|error| undecodable(&error.to_string()))?;
        let routing = take_routing(&mut map).ok_or_else(|| undecodable("its routing names no channel"))?;
        Ok((map.into(), routing))
    }
}

fn take_routing(map: &mut Map) -> Option<Routing> {
    let name = |value: &Value| ChannelName::parse_target(value.as_text()?).ok();
    match map.remove(RESERVED_KEY) {
        None => Some(Routing::None),
        // An invalid name must not prevent delivery to the others.
        Some(Value::List(names)) => {
            let channels: Vec<_> = names.iter().filter_map(name).collect();
            (names.is_empty() || !channels.is_empty()).then_some(Routing::Many(channels))
        }
        Some(value) => name(&value).map(Routing::One),
    }
}

pub(super) fn undecodable(reason: &str) -> Unreadable {
    unreadable(DropReason::Undecodable, reason.to_owned())
}

fn unreadable(drop: DropReason, reason: String) -> Unreadable {
    Unreadable { drop, reason }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::message;

    const NOW: Duration = Duration::from_secs(1_700_000_000);

    fn payload(serializer: Serializer, keys: Option<FernetKeys>, random_prefix: usize) -> Payload {
        Payload { serializer, keys, random_prefix, expiry: Duration::from_mins(1), max_message_size: 1 << 20 }
    }

    fn all() -> impl Iterator<Item = Payload> {
        let keys = || FernetKeys::new(&["secret".to_owned()], &[]).expect("the key is good");
        [Serializer::MessagePack, Serializer::Json].into_iter().flat_map(move |serializer| {
            [None, Some(keys())].into_iter().flat_map(move |found| {
                let again = found.is_some().then(keys);
                [payload(serializer, found, 12), payload(serializer, again, 0)]
            })
        })
    }

    fn name(text: &str) -> ChannelName {
        ChannelName::parse(text).expect("it is a name")
    }

    #[test]
    fn messages_come_back_with_their_routing() {
        let message = message! { "type": "chat.message", "text": "hi" };
        for payload in all() {
            for (routing, expected) in [
                (None, Routing::None),
                (Some(Value::from("a!1")), Routing::One(name("a!1"))),
                (Some(Value::list(["a!1", "a!2"])), Routing::Many(vec![name("a!1"), name("a!2")])),
            ] {
                let plain = payload.encode(&message, routing.as_ref()).expect("it can be encoded");
                let bytes = payload.wrap(&plain, NOW).into();
                assert_eq!(payload.decode(&bytes, NOW).expect("it can be decoded"), (message.clone(), expected));
            }
        }
    }

    /// The bytes that `channels_redis` 4.3.0 wrote for `{"type": "a.b"}` to a specific channel.
    #[test]
    fn what_python_wrote_is_read() {
        let channel = "specific.0123456789abcdef0123456789abcdef!fedcba9876543210fedcba9876543210";
        let mut bytes =
            b"\x51\x0c\xbb\x3f\x51\xbc\xe3\x7c\x44\xfd\x39\x00\x82\xa4type\xa3a.b\xb0__asgi_channel__\xd9\x4a".to_vec();
        bytes.extend_from_slice(channel.as_bytes());
        let decoded = payload(Serializer::MessagePack, None, 12).decode(&bytes.into(), NOW);
        assert_eq!(decoded.expect("it is a message"), (message! { "type": "a.b" }, Routing::One(name(channel))));
    }

    #[test]
    fn routing_does_not_count_for_the_limit() {
        let payload = Payload { max_message_size: 40, ..payload(Serializer::MessagePack, None, 12) };
        let fits = message! { "t": "x".repeat(35) };
        let routing = Value::list(["a!1", "a!2"]);
        payload.encode(&fits, None).expect("it is as long as the limit");
        payload.encode(&fits, Some(&routing)).expect("its routing does not count");
        let refused = payload.encode(&message! { "t": "x".repeat(36) }, Some(&routing));
        assert!(matches!(refused, Err(Error::MessageTooLarge { size: 41, limit: 40 })), "{refused:?}");
    }

    #[test]
    fn bad_routing_is_refused() {
        let payload = payload(Serializer::Json, None, 0);
        for routing in ["1", "null", "\"\"", "\"a!\"", "\"a b\"", "[1]", "[\"!\"]", "{}"] {
            let bytes = Bytes::from(format!("{{\"__asgi_channel__\": {routing}}}"));
            assert!(payload.decode(&bytes, NOW).is_err(), "{routing}");
        }
        let some_good = Bytes::from(r#"{"__asgi_channel__": ["a", "!", 1]}"#);
        let (_, routing) = payload.decode(&some_good, NOW).expect("it has a good name");
        assert_eq!(routing, Routing::Many(vec![name("a")]));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let bytes = Bytes::from(bytes);
            for payload in all() {
                let _ = payload.decode(&bytes, NOW);
            }
        }
    }
}
