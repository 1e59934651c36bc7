//! Clients that break the protocol: each is closed with the code of RFC 6455, and no other client is affected.

use channel_layer::server::SocketOptions;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{App, hears};
use crate::support::{DEADLINE, eventually, within};

/// A client that sends arbitrary bytes.
struct Raw(TcpStream);

const FINAL: u8 = 0x80;
const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 0xa;
const UNKNOWN: u8 = 0xb;
/// Marks two bytes of length.
const LONG: u8 = 0x7e;
const MASKED: u8 = 0x80;

/// The other headers of a handshake.
const HANDSHAKE: &str = "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

impl Raw {
    async fn enter(app: &App) -> Self {
        let request = format!("GET /lobby HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\n{HANDSHAKE}\r\n", app.address);
        let (raw, answer) = Self::ask(app, &request).await;
        assert!(answer.starts_with("http/1.1 101 "), "{answer}");
        assert!(answer.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="), "{answer}");
        raw
    }

    /// Connects and sends `request`. Returns the client with the head of the response in lower case.
    async fn ask(app: &App, request: &str) -> (Self, String) {
        let mut stream = TcpStream::connect(app.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(within(DEADLINE, "the answer to a handshake", stream.read_u8()).await.unwrap());
        }
        (Self(stream), String::from_utf8(answer).unwrap().to_ascii_lowercase())
    }

    /// Sends a frame with a zero mask.
    async fn frame(&mut self, first: u8, payload: &[u8]) {
        let mut frame = vec![first];
        match payload.len() {
            short @ ..=125 => frame.push(MASKED | u8::try_from(short).unwrap()),
            long => {
                frame.push(MASKED | LONG);
                frame.extend(u16::try_from(long).unwrap().to_be_bytes());
            }
        }
        frame.extend([0; 4]);
        frame.extend(payload);
        self.bytes(&frame).await;
    }

    async fn bytes(&mut self, bytes: &[u8]) {
        // The server may have closed already.
        let _ = self.0.write_all(bytes).await;
    }

    /// Returns the first byte and the payload of the server's next frame.
    async fn reads(&mut self) -> Option<(u8, Vec<u8>)> {
        let read = async {
            let first = self.0.read_u8().await.ok()?;
            let length = self.0.read_u8().await.ok()?;
            let length = if length == LONG { self.0.read_u16().await.ok()? } else { length.into() };
            let mut payload = vec![0; length.into()];
            self.0.read_exact(&mut payload).await.ok()?;
            Some((first, payload))
        };
        within(DEADLINE, "a frame", read).await
    }

    /// Returns the code with which the server closes.
    async fn is_closed(&mut self) -> Option<u16> {
        while let Some((first, payload)) = self.reads().await {
            if first == FINAL | CLOSE {
                return Some(payload.get(..2).map_or(1005, |code| u16::from_be_bytes([code[0], code[1]])));
            }
        }
        None
    }
}

/// Violations, as bytes after the handshake, with the expected close code.
fn offences() -> Vec<(&'static str, Vec<u8>, u16)> {
    let masked = |first: u8, payload: &[u8]| {
        let length = u8::try_from(payload.len()).unwrap();
        [&[first, MASKED | length, 0, 0, 0, 0], payload].concat()
    };
    vec![
        ("a text that is not UTF-8", masked(FINAL | TEXT, b"\xc3\x28"), 1007),
        (
            "a text that is not UTF-8 over two fragments",
            [masked(TEXT, b"\xce\xba\xe1"), masked(FINAL, b"\xbd")].concat(),
            1007,
        ),
        ("a reason that is not UTF-8", masked(FINAL | CLOSE, b"\x03\xe8\xff"), 1007),
        ("a frame without a mask", vec![FINAL | TEXT, 1, b'x'], 1002),
        ("a reserved bit", masked(FINAL | 0x40 | TEXT, b"x"), 1002),
        ("a data frame of unknown kind", masked(FINAL | 3, b"x"), 1002),
        ("a control frame of unknown kind", masked(FINAL | UNKNOWN, b""), 1002),
        ("a ping in fragments", masked(PING, b"x"), 1002),
        ("a ping of 126 bytes", [&[FINAL | PING, MASKED | LONG, 0, 126, 0, 0, 0, 0][..], &[b'x'; 126]].concat(), 1002),
        ("a continuation of nothing", masked(FINAL | CONTINUATION, b"x"), 1002),
        ("a message inside another", [masked(TEXT, b"x"), masked(FINAL | TEXT, b"y")].concat(), 1002),
        ("a close frame of one byte", masked(FINAL | CLOSE, b"x"), 1002),
        ("a close code that may not travel", masked(FINAL | CLOSE, &1006_u16.to_be_bytes()), 1002),
        ("a frame that is too large", vec![FINAL | BINARY, 0xff, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0], 1009),
        ("a frame larger than memory", [&[FINAL | BINARY, 0xff, 0x7f][..], &[0xff; 11]].concat(), 1009),
        ("fragments that are too large together", [masked(BINARY, &[0; 100]), masked(FINAL, &[0; 100])].concat(), 1009),
    ]
}

#[tokio::test]
async fn an_invalid_handshake_is_refused() {
    let app = App::start().await;
    let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    for (headers, status) in [
        ("Host: a\r\nUpgrade: websocket\r\n", 101),
        ("Host: a\r\nUpgrade: h2c, WebSocket\r\n", 101),
        ("Host: a\r\nUpgrade: h2c\r\n", 426),
        ("Upgrade: websocket\r\n", 400),
        ("Host: a b\r\nUpgrade: websocket\r\n", 400),
        ("Host: a\r\nHost: a\r\nUpgrade: websocket\r\n", 400),
        ("Host: a\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n", 400),
        (&format!("Host: a\r\nUpgrade: websocket\r\n{key}"), 400),
        ("Host: a\r\nUpgrade: websocket\r\nContent-Length: 5\r\n", 400),
    ] {
        let (_raw, answer) = Raw::ask(&app, &format!("GET /lobby HTTP/1.1\r\n{headers}{HANDSHAKE}\r\n")).await;
        assert!(answer.starts_with(&format!("http/1.1 {status} ")), "{status} for {headers:?}: {answer}");
    }
}

#[tokio::test]
async fn a_protocol_violation_has_its_close_code() {
    let app = App::with_options(SocketOptions::new().max_message_size(150)).await;
    let (mut other, _) = app.enter("lobby").await;
    for (offence, bytes, code) in offences() {
        let mut raw = Raw::enter(&app).await;
        raw.bytes(&bytes).await;
        assert_eq!(raw.is_closed().await, Some(code), "{offence}");
        assert_eq!(raw.reads().await, None, "{offence}: the connection is still open");
    }
    eventually("the disconnect of the others", async || (app.hub.count("lobby") == 1).then_some(())).await;
    app.hub.broadcast("lobby", "still here").await.unwrap();
    assert_eq!(hears(&mut other).await, "still here");
}

#[tokio::test]
async fn bytes_may_come_one_by_one_and_fragments_between_pings() {
    let app = App::start().await;
    let mut raw = Raw::enter(&app).await;
    for byte in [FINAL | TEXT, 0x82, 1, 2, 3, 4, b'h' ^ 1, b'i' ^ 2] {
        raw.bytes(&[byte]).await;
    }
    assert_eq!(raw.reads().await, Some((FINAL | TEXT, b"hi".to_vec())));
    raw.frame(TEXT, b"one ").await;
    raw.frame(FINAL | PING, &[b'p'; 125]).await;
    raw.frame(CONTINUATION, b"").await;
    raw.frame(FINAL | CONTINUATION, b"message").await;
    assert_eq!(raw.reads().await, Some((FINAL | PONG, vec![b'p'; 125])), "a pong has the payload of its ping");
    assert_eq!(raw.reads().await, Some((FINAL | TEXT, b"one message".to_vec())));
}

#[tokio::test]
async fn a_close_code_of_the_client_is_echoed() {
    let app = App::start().await;
    for (payload, code) in [(&b""[..], 1005), (&[3, 232], 1000), (&[15, 160, b'!'], 4000)] {
        let mut raw = Raw::enter(&app).await;
        raw.frame(FINAL | CLOSE, payload).await;
        assert_eq!(raw.is_closed().await, Some(code));
        assert_eq!(raw.reads().await, None);
    }
    app.is_empty().await;
}

#[tokio::test]
async fn fragments_without_an_end_count_as_bytes() {
    let app = App::with_options(SocketOptions::new().max_bytes_per_second(10_000)).await;
    let mut raw = Raw::enter(&app).await;
    let client = app.enters().await;
    raw.frame(TEXT, b"").await;
    for _ in 0..10_000 {
        raw.frame(CONTINUATION, b"").await;
    }
    // The server closes while the client still sends, so the close frame may be lost.
    assert!(matches!(raw.is_closed().await, Some(1008) | None));
    assert_eq!(app.closed(&client).await.code, 1008);
    app.is_empty().await;
}

#[tokio::test]
async fn random_bytes_end_only_their_connection() {
    let app = App::start().await;
    let (mut other, _) = app.enter("lobby").await;
    for seed in 0..50_u64 {
        let mut raw = Raw::enter(&app).await;
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let bytes: Vec<u8> = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        })
        .take(200)
        .collect();
        raw.bytes(&bytes).await;
    }
    eventually("the disconnect of the others", async || (app.hub.count("lobby") == 1).then_some(())).await;
    app.hub.broadcast("lobby", "still here").await.unwrap();
    assert_eq!(hears_until_text(&mut other, "still here").await, "still here");
}

/// Random bytes may form a message to the room.
async fn hears_until_text(socket: &mut super::Socket, text: &str) -> String {
    loop {
        match within(DEADLINE, "a message", futures_util::StreamExt::next(socket)).await {
            Some(Ok(message)) if message.to_text().is_ok_and(|heard| heard == text) => return text.to_owned(),
            Some(Ok(_)) => {}
            other => panic!("{other:?}"),
        }
    }
}
