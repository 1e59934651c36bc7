//! HTTP/2 requests as fields, and the response to each according to RFC 9113.

use channel_layer::{Value, message};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::certified::Certified;
use super::requests::{answer_all, values};
use super::running::header;
use crate::support::{DEADLINE, within};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// The pseudo-header fields of a request.
const GET: [(&str, &str); 4] = [(":method", "GET"), (":scheme", "https"), (":authority", "a"), (":path", "/")];

/// A client that sends any fields.
struct RawClient {
    stream: TlsStream<TcpStream>,
}

/// The response to one request.
#[derive(Debug, PartialEq)]
enum Answer {
    /// The status, and the size of the content; `None` if the stream ended with the head.
    Response(u16, Option<usize>),
    Reset,
}

impl RawClient {
    async fn connect(certified: &Certified) -> Self {
        let mut stream = certified.connect().await;
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        let mut client = Self { stream };
        client.write(SETTINGS, 0, 0, &[]).await;
        client
    }

    async fn write(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
        self.stream.write_all(&[&head, payload].concat()).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    /// Sends a request without a body, with literal fields (RFC 7541, section 6.2.2).
    async fn ask(&mut self, fields: &[(&str, &str)]) {
        let mut block = Vec::new();
        for (name, value) in fields {
            block.push(0);
            for text in [name, value] {
                block.push(u8::try_from(text.len()).unwrap());
                block.extend_from_slice(text.as_bytes());
            }
        }
        self.write(HEADERS, END_STREAM | END_HEADERS, 1, &block).await;
    }

    async fn answer(&mut self) -> Answer {
        let (mut status, mut content) = (None, None);
        loop {
            let mut head = [0; 9];
            self.stream.read_exact(&mut head).await.unwrap();
            let [high, middle, low, kind, flags, ..] = head;
            let mut payload = vec![0; u32::from_be_bytes([0, high, middle, low]) as usize];
            self.stream.read_exact(&mut payload).await.unwrap();
            match kind {
                HEADERS => status = Some(status_of(&payload)),
                DATA => *content.get_or_insert(0) += payload.len(),
                RST_STREAM | GOAWAY => return Answer::Reset,
                _ => continue,
            }
            if flags & END_STREAM != 0 {
                return Answer::Response(status.unwrap(), content);
            }
        }
    }
}

/// Returns the status at the start of a header block if HPACK has an index for it (RFC 7541, appendix A).
fn status_of(block: &[u8]) -> u16 {
    let known = [200, 204, 206, 304, 400, 404, 500];
    let status = block[0].checked_sub(0x88).and_then(|at| known.get(usize::from(at)));
    // These tests use no other status.
    status.copied().unwrap_or(0)
}

#[tokio::test]
async fn a_malformed_request_does_not_reach_the_application() {
    const FINE: Answer = Answer::Response(200, Some(8));
    const BAD: Answer = Answer::Response(400, None);
    let with = |fields: &[(&'static str, &'static str)]| [&GET[..], fields].concat();
    let instead = |at: usize, value: &'static str| {
        let mut fields = GET;
        fields[at].1 = value;
        fields.to_vec()
    };
    let without =
        |at: usize| GET.iter().enumerate().filter(|(index, _)| *index != at).map(|(_, field)| *field).collect();
    let hosted = |host: &'static str| vec![GET[0], GET[1], GET[3], ("host", host)];
    let cases: Vec<(Vec<(&str, &str)>, Answer)> = vec![
        (GET.to_vec(), FINE),
        (with(&[("host", "a")]), FINE),
        (with(&[("host", "A:443")]), FINE),
        (hosted("a"), FINE),
        (with(&[("x", "a b"), ("te", "trailers"), ("content-length", "0")]), FINE),
        // The host.
        (with(&[("host", "b")]), BAD),
        (with(&[("host", "a:80")]), BAD),
        (with(&[("host", "a"), ("host", "a")]), BAD),
        (hosted("a b"), BAD),
        (without(2), BAD),
        (instead(2, "user@a"), BAD),
        (instead(2, "user:secret@a"), BAD),
        (instead(2, "a:b"), BAD),
        // The target.
        (instead(3, "*"), BAD),
        ([&[(":method", "OPTIONS"), GET[1], GET[2]][..], &[(":path", "*")]].concat(), FINE),
        (instead(3, "path"), Answer::Reset),
        (instead(3, ""), Answer::Reset),
        (without(0), Answer::Reset),
        (without(1), Answer::Reset),
        (without(3), Answer::Reset),
        (instead(1, "ftp"), BAD),
        // The fields.
        (with(&[("x", " a")]), BAD),
        (with(&[("x", "a\t")]), BAD),
        (with(&[("content-length", "0"), ("content-length", "0")]), BAD),
        (with(&[("content-length", "0"), ("content-length", "1")]), Answer::Reset),
        (with(&[("content-length", "1")]), Answer::Reset),
        (with(&[("x", "a\nb")]), Answer::Reset),
        (with(&[("X", "a")]), Answer::Reset),
        (with(&[("connection", "close")]), Answer::Reset),
        (with(&[("upgrade", "websocket")]), Answer::Reset),
        (with(&[("transfer-encoding", "chunked")]), Answer::Reset),
        (with(&[("te", "gzip")]), Answer::Reset),
        (with(&[(":method", "GET")]), Answer::Reset),
        (with(&[(":status", "200")]), Answer::Reset),
        ([&[("x", "a")][..], &GET[..]].concat(), Answer::Reset),
        // A tunnel, and one for a WebSocket, which this server does not support.
        (vec![(":method", "CONNECT"), (":authority", "a:443")], Answer::Response(404, None)),
        ([&[(":method", "CONNECT"), (":protocol", "websocket")][..], &GET[1..]].concat(), Answer::Reset),
    ];
    let certified = Certified::start(&["h2"]).await;
    let mut wrong = Vec::new();
    for (fields, expected) in cases {
        let mut client = RawClient::connect(&certified).await;
        client.ask(&fields).await;
        let answer = tokio::select! {
            answer = within(DEADLINE, "an answer", client.answer()) => answer,
            () = answer_all(&certified.server) => unreachable!("it never returns"),
        };
        if answer != expected {
            wrong.push(format!("{expected:?} and not {answer:?} for {fields:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn the_cookies_of_a_request_are_one_header() {
    let certified = Certified::start(&["h2"]).await;
    let mut client = RawClient::connect(&certified).await;
    let cookies = [("cookie", "sessionid=1"), ("x", "y"), ("cookie", "a=\"b\""), ("cookie", "c=d; e=f")];
    client.ask(&[&GET[..], &cookies].concat()).await;
    let message = certified.server.next("http.request").await;
    assert_eq!(values(&message, "cookie"), [b"sessionid=1; a=\"b\"; c=d; e=f"]);
    assert_eq!(values(&message, "host"), [b"a"]);
}

#[tokio::test]
async fn a_response_without_content_ends_with_its_head() {
    let certified = Certified::start(&["h2"]).await;
    for (method, status, more) in
        [("GET", 204, false), ("GET", 204, true), ("GET", 304, false), ("HEAD", 200, false), ("HEAD", 200, true)]
    {
        let mut client = RawClient::connect(&certified).await;
        client.ask(&[&[(":method", method)][..], &GET[1..]].concat()).await;
        let asked = certified.server.next("http.request").await;
        let headers = Value::list([header("Content-Length", "5")]);
        let answer = message! { "status": status, "headers": headers, "content": b"hello", "more_content": more };
        certified.server.reply(&asked, answer).await;
        let expected = Answer::Response(u16::try_from(status).unwrap(), None);
        assert_eq!(within(DEADLINE, "the response", client.answer()).await, expected, "{method} {status} {more}");
    }
}

#[tokio::test]
async fn a_request_has_at_most_100_headers() {
    let certified = Certified::start(&["h2"]).await;
    let stream = hyper_util::rt::TokioIo::new(certified.connect().await);
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, stream).await.unwrap();
    tokio::spawn(connection);
    for (count, status) in [(100, 200), (101, 431)] {
        let mut request = hyper::Request::get("https://localhost/");
        for number in 0..count {
            request = request.header(format!("x-{number}"), "1");
        }
        let response = sender.send_request(request.body(axum::body::Body::empty()).unwrap());
        let answering = async {
            if status == 200 {
                let message = certified.server.next("http.request").await;
                certified.server.reply(&message, super::running::ok("fine")).await;
            }
        };
        let (response, ()) = tokio::join!(within(DEADLINE, "a response", response), answering);
        assert_eq!(response.unwrap().status(), status, "{count} headers");
    }
    assert!(certified.server.nothing_on("http.request").await);
}
