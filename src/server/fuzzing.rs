//! Entry points for fuzzing the parsers of the interface server.

use axum::http::header::{HeaderMap, HeaderValue};
use bytes::Bytes;

use crate::codec;
use crate::server::asgi::messages as asgi;
use crate::server::asgi::messages::ReplyReader;
use crate::server::http::response::Part;
use crate::server::hub::peers::wire;
use crate::server::transport::http::request::trace_parent;
use crate::server::transport::peer::Peer;
use crate::server::transport::proxy::TrustedProxies;

/// Parses a `MessagePack` message of an application: as a reply to a socket, as a part of a response, and as a message
/// of another hub.
pub fn answer(bytes: &[u8]) {
    let Ok(message) = codec::decode(&Bytes::copy_from_slice(bytes)) else { return };
    let mut replies = ReplyReader::default();
    if let Ok(reply) = replies.read(&message) {
        drop(reply.handshake_action());
    }
    drop(Part::read(&message));
    drop(wire::read(&message, &mut replies));
}

/// Parses headers of proxies and clients: the values of `x-forwarded-for`, `x-forwarded-proto` and `traceparent`, one
/// per line.
///
/// # Panics
///
/// If a proxy sets a value that only this server may set. The fuzz target looks for that.
pub fn proxy_headers(bytes: &[u8]) {
    let proxies = TrustedProxies::parse(["10.0.0.0/8", "unix"]).expect("the networks are valid");
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
    let _ = trace_parent(&headers);
    drop(asgi::decode_path(&String::from_utf8_lossy(bytes)));
}
