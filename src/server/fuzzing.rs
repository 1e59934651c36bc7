//! What an interface server parses, for fuzzing.

use axum::http::header::{HeaderMap, HeaderValue};
use bytes::Bytes;

use super::http::response::Part;
use crate::codec;
use crate::server::asgi::messages as asgi;
use crate::server::asgi::messages::{Peer, ReplyReader};
use crate::server::hub::peers::wire;
use crate::server::transport::proxy::TrustedProxies;

/// Answers of an application, in `MessagePack`: as a reply to a socket, a part of a response, and from another hub.
pub fn answer(bytes: &[u8]) {
    let Ok(message) = codec::decode(&Bytes::copy_from_slice(bytes)) else { return };
    let mut replies = ReplyReader::default();
    if let Ok(reply) = replies.read(&message) {
        drop(reply.opening());
    }
    drop(Part::read(&message));
    drop(wire::read(&message, &mut replies));
}

/// Headers that proxies and clients set: the values of `x-forwarded-for`, `x-forwarded-proto` and `traceparent`, one a
/// line.
///
/// # Panics
///
/// If a proxy sets what only this side may set: that is what the target looks for.
pub fn proxy_headers(bytes: &[u8]) {
    let proxies = TrustedProxies::parse(["10.0.0.0/8", "unix"]).expect("they are good");
    let mut headers = HeaderMap::new();
    for (name, value) in
        ["x-forwarded-for", "x-forwarded-proto", "traceparent"].into_iter().zip(bytes.split(|&b| b == b'\n'))
    {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.append(name, value);
        }
    }
    let peer = proxies.resolve(Peer::default(), &headers);
    assert!(peer.server.is_none());
    let _ = asgi::trace_of(&headers);
    drop(asgi::decode_path(&String::from_utf8_lossy(bytes)));
}
