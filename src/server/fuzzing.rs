//! Entry points for fuzzing the parsers of the interface server.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use axum::http::Request;
use axum::http::header::{HeaderMap, HeaderValue};
use bytes::Bytes;
use tokio::io::{AsyncRead, ReadBuf};
use tungstenite::Message;
use tungstenite::handshake::derive_accept_key;

use crate::codec;
use crate::server::asgi::messages::{self as asgi, ReplyReader};
use crate::server::http::response::Part;
use crate::server::hub::peers::wire;
use crate::server::options::SocketOptions;
use crate::server::transport::http::request::trace_parent;
use crate::server::transport::listener::Peer;
use crate::server::transport::proxy::TrustedProxies;
use crate::server::websocket::socket::Socket;
use crate::server::websocket::upgrade;

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
/// If the headers set a value that only this server may set.
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

/// Reads the frames of a client, which arrive in pieces. The first of `bytes` is the size of a piece; the frames
/// follow.
///
/// # Panics
///
/// If the messages depend on the size of the pieces, or one of them is above the limit.
pub fn websocket_frames(bytes: &[u8]) {
    let Some((&at_once, frames)) = bytes.split_first() else { return };
    let options = SocketOptions::new().max_message_size(1 << 16).max_frame_size(1 << 12);
    let in_pieces = read_frames(frames, usize::from(at_once).max(1), &options);
    assert_eq!(in_pieces, read_frames(frames, frames.len().max(1), &options));
    for message in &in_pieces {
        assert!(message.len() <= options.max_message_size, "{message:?}");
    }
}

/// Returns the messages in `frames` up to the first fault. `at_once` bytes arrive at a time.
fn read_frames(frames: &[u8], at_once: usize, options: &SocketOptions) -> Vec<Message> {
    let arriving = Pieces { rest: frames, at_once };
    let mut socket = Socket::new(tokio::io::join(arriving, tokio::io::sink()), options);
    let mut cx = Context::from_waker(Waker::noop());
    let mut messages = Vec::new();
    while let Poll::Ready(Ok(message)) = socket.poll_read(&mut cx) {
        messages.push(message);
    }
    messages
}

/// A stream that returns at most `at_once` bytes for each read.
struct Pieces<'b> {
    rest: &'b [u8],
    at_once: usize,
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let taken = self.at_once.min(self.rest.len()).min(buffer.remaining());
        let (now, later) = self.rest.split_at(taken);
        buffer.put_slice(now);
        self.rest = later;
        Poll::Ready(Ok(()))
    }
}

/// Checks a request for a WebSocket: the method and the target are in the first line, and a header is in each further
/// line.
///
/// # Panics
///
/// If a request that does not ask for an upgrade opens a socket, or a subprotocol is empty.
pub fn websocket_handshake(bytes: &[u8]) {
    let mut lines = bytes.split(|&byte| byte == b'\n');
    let mut first = lines.next().unwrap_or_default().splitn(2, |&byte| byte == b' ');
    let (method, target) = (first.next().unwrap_or_default(), first.next().unwrap_or_default());
    let mut request = Request::builder().method(method).uri(target);
    for line in lines {
        let mut parts = line.splitn(2, |&byte| byte == b':');
        request = request.header(parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    }
    let Ok(request) = request.body(()) else { return };
    let parts = request.into_parts().0;
    if let Ok(key) = upgrade::key(&parts) {
        assert!(upgrade::is_upgrade(parts.version, &parts.headers));
        HeaderValue::try_from(derive_accept_key(key.as_bytes())).expect("the answer to a key is a header");
    }
    drop(asgi::decode_path(parts.uri.path()));
    upgrade::subprotocols(&parts.headers).for_each(|protocol| assert!(!protocol.is_empty()));
    let _ = trace_parent(&parts.headers);
}
