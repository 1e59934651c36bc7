//! Messages that Python stores in Redis, for fuzzing.

use std::time::Duration;

use bytes::Bytes;

use super::payload::{Payload, Routing};
use crate::codec::serializer::Serializer;
use crate::message::Value;
use crate::name::ChannelName;

/// Round trip of a stored message with its channels under `__asgi_channel__`: encoding a decoded message and decoding
/// it again yields the same message. The first of `bytes` chooses options, and the message follows.
///
/// # Panics
///
/// Panics if the two messages differ.
pub fn django_payload(bytes: &[u8]) {
    let Some((&options, stored)) = bytes.split_first() else { return };
    let payload = Payload {
        serializer: if options & 1 == 0 { Serializer::MessagePack } else { Serializer::Json },
        keys: None,
        random_prefix: if options & 2 == 0 { 0 } else { 12 },
        expiry: Duration::from_mins(1),
        max_message_size: 1 << 16,
    };
    let now = Duration::from_secs(1);
    let Ok((message, routing)) = payload.decode(&Bytes::copy_from_slice(stored), now) else { return };
    let written = match &routing {
        Routing::None => payload.encode(&message, None).map(|plain| payload.wrap(&plain, now).into()),
        Routing::One(channel) => payload.encode_again(&message, &Value::from(channel.as_str()), now),
        Routing::Many(channels) => {
            let names: Vec<_> = channels.iter().map(ChannelName::as_str).collect();
            payload.encode_again(&message, &Value::list(names), now)
        }
    };
    if let Ok(written) = written {
        let again = payload.decode(&written, now).expect("what was written is read");
        assert_eq!(format!("{again:?}"), format!("{:?}", (message, routing)));
    }
}
