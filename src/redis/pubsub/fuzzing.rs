//! Fuzz targets for published messages.

use std::sync::Arc;

use bytes::Bytes;
use redis::PushInfo;

use super::inbox::addressed;
use super::subscribe::subscriber::message;
use super::topic::{Sharding, Topics};
use super::wire::Wire;
use crate::config::{Config, Serializer};

/// Published messages: a byte of options, the Redis channel, a new line, and the payload. A message that is read is
/// written as one that is read the same.
///
/// # Panics
///
/// If that is not so.
pub fn published_payload(bytes: &[u8]) {
    let Some((&options, rest)) = bytes.split_first() else { return };
    let topic_len = rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len());
    let (topic, payload) = rest.split_at(topic_len);
    let json = if options & 1 == 0 { Serializer::MessagePack } else { Serializer::Json };
    let config = Config::new().serializer(json);
    let config = if options & 2 == 0 { config } else { config.symmetric_encryption_keys(["a key"]) };
    let wire = Wire::new(&config).expect("the configuration is valid");
    let sharding = [Sharding::Classic(3), Sharding::Sharded(3), Sharding::Partitioned];
    let topics = Topics::new("asgi", sharding[usize::from(options >> 2) % sharding.len()]);
    let Ok(opened) = wire.open(&Bytes::copy_from_slice(payload.get(1..).unwrap_or_default())) else { return };
    if let Some(target) = std::str::from_utf8(topic).ok().and_then(|topic| topics.target(topic)) {
        drop(addressed(target, &opened));
    }
    if let Ok(written) = wire.seal(&opened.message, opened.channel.as_deref()) {
        let again = wire.open(&written.into()).expect("what was written is read");
        assert_eq!(format!("{again:?}"), format!("{opened:?}"));
    }
}

/// Handles a push of a server.
pub(crate) fn pushed(push: PushInfo) {
    let topics = Arc::new(Topics::new("asgi", Sharding::Classic(3)));
    if let Some((topic, _)) = message(push)
        && let Ok(topic) = std::str::from_utf8(&topic)
    {
        drop(topics.target(topic));
    }
}
