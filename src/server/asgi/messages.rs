//! Converts requests into ASGI messages, and ASGI messages into replies, without I/O.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::http::Version;
use axum::http::header::HeaderMap;
use axum::http::request::Parts;
use bytes::Bytes;
use bytestring::ByteString;
use tungstenite::Utf8Bytes;

use crate::message;
use crate::message::{Map, Message, Value};
use crate::server::transport::listener::Peer;
use crate::server::websocket::close_code;
use crate::server::websocket::frame::{self, Data, Frame};
use crate::server::websocket::reply::Reply;
use crate::server::websocket::upgrade::subprotocols;
use crate::trace::{self, TraceParent};

/// Converts messages of the application into replies. It keeps the frame of the last reply: the members of a group get
/// the same bytes one after the other, so the reader checks and encodes them once.
#[derive(Default)]
pub(crate) struct ReplyReader {
    last: Option<(Value, Frame)>,
}

impl ReplyReader {
    /// Converts one message.
    ///
    /// # Errors
    ///
    /// The reason why the message is ignored.
    pub(crate) fn read(&mut self, message: &Message) -> Result<Reply, &'static str> {
        let data = match (message.get("text"), message.get("bytes")) {
            (None | Some(Value::None), None | Some(Value::None)) => None,
            (Some(data @ Value::Text(_)), None | Some(Value::None))
            | (None | Some(Value::None), Some(data @ Value::Bytes(_))) => Some(self.frame(data)?),
            (Some(Value::Text(_)), Some(Value::Bytes(_))) => return Err("both text and bytes are set"),
            _ => return Err("text is not a string, or bytes is not a byte string"),
        };
        Ok(Reply {
            data,
            close: read_close(message.get("close"))?,
            accept: read_accept(message.get("accept"))?,
            trace: if trace::is_enabled() { TraceParent::of(message).map(Arc::new) } else { None },
        })
    }

    fn frame(&mut self, value: &Value) -> Result<Frame, &'static str> {
        if let Some((last, frame)) = &self.last
            && is_same_buffer(last, value)
        {
            return Ok(frame.clone());
        }
        let data = match value {
            Value::Text(text) => {
                Data::Text(Utf8Bytes::try_from(text.as_bytes().clone()).map_err(|_| "text is not UTF-8")?)
            }
            Value::Bytes(bytes) => Data::Binary(bytes.clone()),
            _ => return Err("neither a string nor a byte string"),
        };
        let frame = Frame::from(data);
        self.last = Some((value.clone(), frame.clone()));
        Ok(frame)
    }
}

/// Returns `true` if two values have the same type and share their bytes in memory.
fn is_same_buffer(one: &Value, other: &Value) -> bool {
    let location = |bytes: &Bytes| (bytes.as_ptr(), bytes.len());
    match (one, other) {
        (Value::Text(one), Value::Text(other)) => location(one.as_bytes()) == location(other.as_bytes()),
        (Value::Bytes(one), Value::Bytes(other)) => location(one) == location(other),
        _ => false,
    }
}

fn read_accept(value: Option<&Value>) -> Result<Option<bool>, &'static str> {
    match value {
        None | Some(Value::None) => Ok(None),
        Some(Value::Bool(accept)) => Ok(Some(*accept)),
        Some(_) => Err("accept is not a boolean"),
    }
}

/// Reads a close code; `true` means 1000.
fn read_close(value: Option<&Value>) -> Result<Option<u16>, &'static str> {
    match value {
        None | Some(Value::None | Value::Bool(false) | Value::Int(0)) => Ok(None),
        Some(Value::Bool(true)) => Ok(Some(close_code::NORMAL)),
        Some(Value::Int(code)) => {
            Ok(Some(u16::try_from(*code).map_or(close_code::INTERNAL_ERROR, close_code::sendable)))
        }
        Some(_) => Err("close is neither a boolean nor a code"),
    }
}

/// Creates the message for `websocket.connect`.
pub(crate) fn connect(
    reply_channel: &str,
    request: &Parts,
    path: &ByteString,
    root_path: &ByteString,
    peer: Peer,
) -> Message {
    let scheme = if peer.secure { "wss" } else { "ws" };
    let mut map = request_map(reply_channel, scheme, request, path, root_path, peer);
    map.insert("subprotocols", Value::list(subprotocols(&request.headers)));
    map.insert("order", 0);
    map.into()
}

/// Creates the message for `http.request`, without its body.
pub(crate) fn request(
    reply_channel: &str,
    request: &Parts,
    path: &ByteString,
    root_path: &ByteString,
    peer: Peer,
) -> Message {
    let scheme = if peer.secure { "https" } else { "http" };
    let mut map = request_map(reply_channel, scheme, request, path, root_path, peer);
    map.insert("http_version", http_version(request.version));
    map.insert("method", request.method.as_str());
    map.into()
}

/// Creates the keys that `websocket.connect` and `http.request` share.
fn request_map(
    reply_channel: &str,
    scheme: &str,
    request: &Parts,
    path: &ByteString,
    root_path: &ByteString,
    peer: Peer,
) -> Map {
    let message = message! {
        "reply_channel": reply_channel,
        "scheme": scheme,
        "path": path.clone(),
        "query_string": request.uri.query().unwrap_or_default().as_bytes(),
        "root_path": root_path.clone(),
        "headers": headers(&request.headers),
    };
    let mut map = message.into_map();
    let addresses = [("client", peer.client), ("server", peer.server)];
    map.extend(addresses.into_iter().filter_map(|(key, end)| Some((key, address(end?)))));
    map
}

fn http_version(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        _ => "1.1",
    }
}

/// Creates the message for `websocket.receive`.
pub(crate) fn receive(reply_channel: &str, path: &ByteString, order: i64, data: Data) -> Message {
    let (key, value) = match data {
        Data::Text(text) => ("text", Value::Text(frame::to_byte_string(text))),
        Data::Binary(bytes) => ("bytes", Value::Bytes(bytes)),
    };
    let message = message! { "reply_channel": reply_channel, "path": path.clone(), "order": order };
    message.with(key, value)
}

/// Creates the message for `http.disconnect`.
pub(crate) fn http_disconnect(reply_channel: &str, path: &ByteString) -> Message {
    message! { "reply_channel": reply_channel, "path": path.clone() }
}

/// Creates the message for `websocket.disconnect`.
pub(crate) fn disconnect(reply_channel: &str, path: &ByteString, order: i64, code: u16) -> Message {
    message! { "reply_channel": reply_channel, "path": path.clone(), "order": order, "code": code }
}

/// Returns the headers as pairs of a name in lower case and a value. Names with an underscore are left out: behind a
/// gateway that converts `-` to `_` they could pass for another header (CVE-2015-0219). Several headers of one name
/// keep their order, but all come at the place of the first, because `HeaderMap` groups them.
fn headers(headers: &HeaderMap) -> Value {
    let pairs = headers.iter().filter(|(name, _)| !name.as_str().contains('_'));
    Value::list(pairs.map(|(name, value)| Value::list([name.as_str().as_bytes(), value.as_bytes()])))
}

fn address(address: SocketAddr) -> Value {
    Value::List(vec![address.ip().to_canonical().to_string().into(), address.port().into()])
}

/// Decodes `%` escapes. Invalid escapes stay as they are, and bytes that are not UTF-8 become U+FFFD.
pub(crate) fn decode_path(path: &str) -> ByteString {
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let value = if byte == b'%' { escaped(tail) } else { None };
        decoded.push(value.unwrap_or(byte));
        rest = if value.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&decoded).into_owned().into()
}

fn escaped(digits: &[u8]) -> Option<u8> {
    let digit = |at: usize| digits.get(at).and_then(|&byte| char::from(byte).to_digit(16));
    u8::try_from(digit(0)? * 16 + digit(1)?).ok()
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;
    use crate::server::websocket::reply::HandshakeAction;

    fn read(message: &Message) -> Result<Reply, &'static str> {
        ReplyReader::default().read(message)
    }

    fn action(message: &Message) -> HandshakeAction {
        read(message).unwrap().handshake_action()
    }

    fn text(text: &str) -> Frame {
        Data::Text(text.into()).into()
    }

    #[test]
    fn replies_decide_a_handshake_as_the_specification_says() {
        let accepted = |data, close, accept| HandshakeAction::Accept(Reply { data, close, accept, trace: None });
        assert_eq!(action(&message! { "accept": true }), accepted(None, None, Some(true)));
        assert_eq!(action(&message! { "accept": true, "text": "a" }), accepted(Some(text("a")), None, Some(true)));
        assert_eq!(action(&message! { "accept": false, "text": "a" }), HandshakeAction::Refuse);
        assert_eq!(action(&message! { "text": "a" }), accepted(Some(text("a")), None, None));
        assert_eq!(action(&message! { "close": true }), HandshakeAction::Refuse);
        assert_eq!(action(&message! { "close": 4000 }), HandshakeAction::Refuse);
        assert_eq!(action(&message! { "close": 4000, "text": "a" }), accepted(Some(text("a")), Some(4000), None));
        assert_eq!(action(&message! { "text": "" }), HandshakeAction::Wait);
        assert_eq!(action(&message! {}), HandshakeAction::Wait);
    }

    #[test]
    fn a_reply_with_text_and_bytes_is_ignored() {
        assert!(read(&message! { "text": "a", "bytes": b"a" }).is_err());
        assert!(read(&message! { "text": b"a" }).is_err());
        assert!(read(&message! { "bytes": None::<i64>, "text": "a" }).is_ok());
    }

    #[test]
    fn only_close_codes_that_may_be_sent_pass() {
        let close = |value: Value| read(&Message::new().with("close", value)).map(|reply| reply.close);
        assert_eq!(close(true.into()), Ok(Some(1000)));
        assert_eq!(close(false.into()), Ok(None));
        assert_eq!(close(4321.into()), Ok(Some(4321)));
        for refused in [1005, 1006, 1015, 2000, 5000, -1, 70_000] {
            assert_eq!(close(refused.into()), Ok(Some(1011)), "{refused}");
        }
        assert!(close("now".into()).is_err());
    }

    #[test]
    fn the_data_of_a_group_message_is_encoded_once_and_never_copied() {
        let message = message! { "text": "to everyone" };
        let mut reader = ReplyReader::default();
        let frames: Vec<_> = (0..2).map(|_| reader.read(&message).unwrap().data.unwrap()).collect();
        assert_eq!(frames[0].head().as_ptr(), frames[1].head().as_ptr());
        assert_eq!(message.text("text").unwrap().as_ptr(), frames[0].payload().as_ptr());
        let other = reader.read(&message! { "text": "to everyone else" }).unwrap().data.unwrap();
        assert_eq!(other, text("to everyone else"));
    }

    #[test]
    fn a_request_becomes_a_connect_message() {
        let request = Request::builder()
            .uri("/chat/caf%C3%A9?a=%20b")
            .header("X-Tag", "1")
            .header("X_Tag", "forged")
            .header("x-tag", "2")
            .header("Sec-WebSocket-Protocol", "soap, wamp")
            .body(())
            .unwrap();
        let parts = request.into_parts().0;
        let peer = Peer { client: "[::ffff:10.0.0.1]:5000".parse().ok(), ..Peer::default() };
        let message = connect("websocket.send.p!c", &parts, &decode_path(parts.uri.path()), &"/site".into(), peer);

        assert_eq!(message.text("path"), Some("/chat/café"));
        assert_eq!(message.bytes("query_string").unwrap(), "a=%20b");
        assert_eq!(message.int("order"), Some(0));
        assert_eq!(message.get("subprotocols"), Some(&Value::list(["soap", "wamp"])));
        assert_eq!(message.get("client"), Some(&Value::List(vec!["10.0.0.1".into(), 5000.into()])));
        assert_eq!((message.get("server"), message.text("root_path")), (None, Some("/site")));
        assert_eq!(message.text("scheme"), Some("ws"));
        let pair = |name: &str, value: &str| Value::list([name.as_bytes(), value.as_bytes()]);
        let expected = [pair("x-tag", "1"), pair("x-tag", "2"), pair("sec-websocket-protocol", "soap, wamp")];
        assert_eq!(message.get("headers"), Some(&Value::list(expected)));
    }

    #[test]
    fn an_invalid_escape_stays_as_it_is() {
        assert_eq!(decode_path("/a%2Fb%zz%4"), "/a/b%zz%4");
        assert_eq!(decode_path("/%ff"), "/\u{fffd}");
    }
}
