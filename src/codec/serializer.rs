//! `Serializer`: the encodings of Django Channels.

use bytes::Bytes;

use super::{MAX_DEPTH, json};
use crate::error::Result;
use crate::message::{Map, Message, Value};

/// The encoding of messages in the formats shared with Django Channels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Serializer {
    /// MessagePack, with distinct text and bytes: `msgpack` in a configuration.
    #[default]
    MessagePack,
    /// JSON as Python's `json` module writes it, ASCII only: `json` in a configuration. It has no byte strings. NaN and
    /// infinities become `NaN`, `Infinity` and `-Infinity`, which Python reads but other readers may refuse.
    Json,
}

impl Serializer {
    /// Appends `message` to `out`, with `routing` under the reserved key as its last key. Leaves `out` unchanged if the
    /// message cannot be encoded.
    pub(crate) fn encode(self, message: &Message, routing: Option<&Value>, out: &mut Vec<u8>) -> Result<()> {
        super::refuse_reserved(message)?;
        let start = out.len();
        let written = match self {
            Self::MessagePack => super::write(message, routing, out),
            Self::Json => json::write(message.map(), routing, MAX_DEPTH, out),
        };
        written.inspect_err(|_| out.truncate(start))
    }

    /// Decodes `bytes`, which must hold one map and nothing else: a message, with the reserved key if present.
    pub(crate) fn decode(self, bytes: &Bytes) -> Result<Map> {
        match self {
            Self::MessagePack => super::read(bytes),
            Self::Json => json::read(bytes, MAX_DEPTH),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message;

    /// Messages and their encodings by `msgpack.packb` of msgpack 1.1 in Python, in hexadecimal digits. All keys are
    /// sorted by name.
    fn golden() -> [(Message, &'static str); 7] {
        let integers = [0, 127, 128, 255, 256, 65_535, 65_536, 4_294_967_295, 4_294_967_296, i64::MAX];
        let negative = [-1, -32, -33, -128, -129, -32_768, -32_769, -2_147_483_648, -2_147_483_649, i64::MIN];
        let texts = [String::new(), "x".repeat(31), "x".repeat(32), "\u{e9}\u{1f600}\0\n\"".to_owned()];
        let bytes = [vec![], vec![0_u8, 0xff], vec![1; 40]];
        [
            (message! { "type": "a.b" }, "81a474797065a3612e62"),
            (
                message! { "text": "Ahoy-hoy!", "type": "test.message" },
                "82a474657874a941686f792d686f7921a474797065ac746573742e6d657373616765",
            ),
            (
                message! { "a": true, "b": None::<i64>, "c": message! { "d": Value::List(vec![]) } },
                "83a161c3a162c0a16381a16490",
            ),
            (
                message! { "i": Value::list(integers.into_iter().chain(negative)) },
                "81a169dc0014007fcc80ccffcd0100cdffffce00010000ceffffffffcf0000000100000000cf7fffffffffffffffffe0d0dfd080d1ff7fd18000d2ffff7fffd280000000d3ffffffff7fffffffd38000000000000000",
            ),
            (
                message! { "f": Value::list([0.0, -0.0, 1.5, 1e300]) },
                "81a16694cb0000000000000000cb8000000000000000cb3ff8000000000000cb7e37e43c8800759c",
            ),
            (
                message! { "s": Value::list(texts) },
                "81a17394a0bf78787878787878787878787878787878787878787878787878787878787878d9207878787878787878787878787878787878787878787878787878787878787878a9c3a9f09f9880000a22",
            ),
            (
                message! { "b": Value::list(bytes) },
                "81a16293c400c40200ffc42801010101010101010101010101010101010101010101010101010101010101010101010101010101",
            ),
        ]
    }

    fn hexadecimal(bytes: &[u8]) -> String {
        use std::fmt::Write as _;
        bytes.iter().fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").expect("writing to a string does not fail");
            text
        })
    }

    #[test]
    fn messagepack_is_the_same_as_in_python() {
        for (message, expected) in golden() {
            let mut out = Vec::new();
            Serializer::MessagePack.encode(&message, None, &mut out).expect("it can be encoded");
            assert_eq!(hexadecimal(&out), expected);
            let decoded = Serializer::MessagePack.decode(&out.into()).expect("it can be decoded");
            assert_eq!(Message::from(decoded), message);
        }
    }

    #[test]
    fn routing_is_the_last_key() {
        let channel = "specific.0123456789abcdef0123456789abcdef!fedcba9876543210fedcba9876543210";
        for (routing, expected) in [
            (
                Value::from(channel),
                "82a474797065a3612e62b05f5f617367695f6368616e6e656c5f5fd94a73706563696669632e3031323334353637383961626364656630313233343536373839616263646566216665646362613938373635343332313066656463626139383736353433323130",
            ),
            (
                Value::list(["specific.a!1", "specific.a!2"]),
                "82a474797065a3612e62b05f5f617367695f6368616e6e656c5f5f92ac73706563696669632e612131ac73706563696669632e612132",
            ),
        ] {
            let mut out = Vec::new();
            let message = message! { "type": "a.b" };
            Serializer::MessagePack.encode(&message, Some(&routing), &mut out).expect("it can be encoded");
            assert_eq!(hexadecimal(&out), expected);
            let mut decoded = Serializer::MessagePack.decode(&out.into()).expect("it can be decoded");
            assert_eq!(decoded.remove("__asgi_channel__"), Some(routing));
            assert_eq!(Message::from(decoded), message);
        }
    }

    #[test]
    fn a_message_with_the_reserved_key_is_refused() {
        for serializer in [Serializer::MessagePack, Serializer::Json] {
            let refused = serializer.encode(&message! { "__asgi_channel__": "a!b" }, None, &mut Vec::new());
            assert!(refused.is_err(), "{serializer:?}");
        }
    }
}
