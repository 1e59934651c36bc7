//! HTTP/1 requests as bytes, and the status of each response according to RFC 9110, 9112 and 6455.

use channel_layer::{Message, Value, message};

use super::running::{Running, header, ok};
use crate::support::{DEADLINE, within};

/// The end of a request with a valid host.
const HOST: &str = "\r\nHost: a\r\n\r\n";

/// The rest of a handshake.
const WEBSOCKET: &str = "Connection: upgrade\r\nSec-WebSocket-Version: 13\r\n\
                         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// Answers every request and accepts every socket, for as long as it is polled.
pub async fn answer_all(server: &Running) {
    loop {
        let asked = server.layer.receive(&["http.request", "websocket.connect"]).await.unwrap();
        let is_socket = asked.channel.as_str() == "websocket.connect";
        let answer = if is_socket {
            message! { "accept": true }
        } else {
            ok("answered")
        };
        server.reply(&asked.message, answer).await;
    }
}

/// Returns the status of the first response to `request`.
async fn status(server: &Running, request: &str) -> u16 {
    let head = async { server.sent(request).await.head().await };
    let head = tokio::select! {
        head = head => head,
        () = answer_all(server) => unreachable!("it never returns"),
    };
    head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("the head of a response")
}

async fn check(cases: impl IntoIterator<Item = (String, u16)>) {
    let server = Running::start().await;
    let mut wrong = Vec::new();
    for (request, expected) in cases {
        let got = within(DEADLINE, &request, status(&server, &request)).await;
        if got != expected {
            wrong.push(format!("{expected} and not {got} for {request:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn a_target_has_one_of_four_forms() {
    let cases = [
        ("GET / HTTP/1.1", 200),
        ("GET /?a=/b HTTP/1.1", 200),
        ("GET //a HTTP/1.1", 200),
        ("GET /caf\u{e9} HTTP/1.1", 200),
        ("GET http://a HTTP/1.1", 200),
        ("GET http://b:80/c HTTP/1.1", 200),
        ("GET HTTPS://b/c HTTP/1.1", 200),
        ("OPTIONS * HTTP/1.1", 200),
        ("OPTIONS /a HTTP/1.1", 200),
        ("M-SEARCH / HTTP/1.1", 200),
        ("GET * HTTP/1.1", 400),
        ("OPTIONS *?a HTTP/1.1", 400),
        ("OPTIONS ** HTTP/1.1", 400),
        ("GET path HTTP/1.1", 400),
        ("GET a/b HTTP/1.1", 400),
        ("GET ?a HTTP/1.1", 400),
        ("GET localhost:80 HTTP/1.1", 400),
        ("GET ftp://a/ HTTP/1.1", 400),
        ("GET http:///a HTTP/1.1", 400),
        ("GET http://user@a/ HTTP/1.1", 400),
        ("GET http://user:secret@a/ HTTP/1.1", 400),
        ("GET http://a:b/ HTTP/1.1", 400),
        ("GET http:a HTTP/1.1", 400),
        ("GET /a b HTTP/1.1", 400),
        ("GET  / HTTP/1.1", 400),
        ("GET /\x7f HTTP/1.1", 400),
        ("G(T / HTTP/1.1", 400),
        ("GET / HTTP/1.2", 400),
        ("GET / http/1.1", 400),
        ("GET /", 400),
        ("CONNECT a:443 HTTP/1.1", 404),
        ("CONNECT / HTTP/1.1", 400),
        ("\r\nGET / HTTP/1.1", 200),
    ];
    check(cases.map(|(line, status)| (format!("{line}{HOST}"), status))).await;
}

#[tokio::test]
async fn a_request_names_one_host() {
    let cases = [
        ("GET / HTTP/1.1", "Host: example.org\r\n", 200),
        ("GET / HTTP/1.1", "hOST:a_b.c:8000  \r\n", 200),
        ("GET / HTTP/1.1", "Host: [2001:db8::7]:443\r\n", 200),
        ("GET / HTTP/1.1", "", 400),
        ("GET / HTTP/1.1", "Host:\r\n", 400),
        ("GET / HTTP/1.1", "Host: a\r\nHost: a\r\n", 400),
        ("GET / HTTP/1.1", "Host: a\r\nHost: b\r\n", 400),
        ("GET / HTTP/1.1", "Host: a, b\r\n", 400),
        ("GET / HTTP/1.1", "Host: a b\r\n", 400),
        ("GET / HTTP/1.1", "Host: a/b\r\n", 400),
        ("GET / HTTP/1.1", "Host: user@a\r\n", 400),
        ("GET / HTTP/1.1", "Host: a:port\r\n", 400),
        ("GET / HTTP/1.1", "Host: a:65536\r\n", 400),
        ("GET / HTTP/1.1", "Host: caf\u{e9}\r\n", 400),
        ("GET / HTTP/1.1", "Host: [::1\r\n", 400),
        ("GET / HTTP/1.1", "Host : a\r\n", 400),
        ("GET / HTTP/1.1", " Host: a\r\n", 400),
        ("GET / HTTP/1.1", "Host: a\r\n b\r\n", 400),
        ("GET http://a/ HTTP/1.1", "", 400),
        ("GET http://a/ HTTP/1.1", "Host: b\r\n", 200),
        ("GET / HTTP/1.0", "", 200),
        ("GET http://a/ HTTP/1.0", "", 200),
        ("GET / HTTP/1.0", "Host: a\r\nHost: a\r\n", 400),
        ("GET / HTTP/1.0", "Host: a b\r\n", 400),
    ];
    check(cases.map(|(line, host, status)| (format!("{line}\r\n{host}\r\n"), status))).await;
}

#[tokio::test]
async fn a_body_has_one_length() {
    let cases = [
        ("Content-Length: 5\r\n\r\nhello", 200),
        ("Content-Length: 0\r\n\r\n", 200),
        ("Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", 200),
        ("Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!", 400),
        ("Content-Length: 5, 5\r\n\r\nhello", 400),
        ("Content-Length: +5\r\n\r\nhello", 400),
        ("Content-Length: -1\r\n\r\nhello", 400),
        ("Content-Length: 0x5\r\n\r\nhello", 400),
        ("Content-Length:\r\n\r\n", 400),
        ("Content-Length: 99999999999999999999\r\n\r\n", 400),
        ("Content-Length : 5\r\n\r\nhello", 400),
        ("Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 200),
        ("Transfer-Encoding: CHUNKED\r\n\r\n5 ;a=b\r\nhello\r\n0\r\n\r\n", 200),
        ("Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
        ("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 501),
        ("Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n", 501),
        ("Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 400),
        ("Transfer-Encoding: Chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        ("Transfer-Encoding: chunked, gzip, chunked\r\n\r\n0\r\n\r\n", 400),
        ("Transfer-Encoding: , chunked\r\n\r\n0\r\n\r\n", 400),
        ("Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", 400),
        ("Transfer-Encoding: gzip\r\n\r\n0\r\n\r\n", 400),
        ("Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400),
        ("Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n", 400),
        ("Transfer-Encoding: chunked;a=b\r\n\r\n0\r\n\r\n", 400),
        ("Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 400),
        ("Transfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n", 400),
        ("Transfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n", 400),
        ("Transfer-Encoding: chunked\r\n\r\n5;\n\r\nhello\r\n0\r\n\r\n", 400),
        ("Transfer-Encoding: chunked\r\n\r\n5\r\nhello0\r\n\r\n", 400),
        ("Transfer-Encoding: chunked\r\n\r\n5\r\nhello\n0\r\n\r\n", 400),
        ("Transfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n", 400),
        ("Transfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n", 400),
        ("Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n", 400),
        ("Expect: 100-continue\r\n\r\n", 200),
        ("Expect: 200-ok\r\n\r\n", 417),
        ("Expect: 100-continue, 200-ok\r\n\r\n", 417),
    ];
    let ones = cases.map(|(rest, status)| (format!("POST / HTTP/1.1\r\nHost: a\r\n{rest}"), status));
    let zeros = [("Expect: 200-ok\r\n\r\n", 200), ("Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400)];
    check(ones.into_iter().chain(zeros.map(|(rest, status)| (format!("POST / HTTP/1.0\r\n{rest}"), status)))).await;
}

#[tokio::test]
async fn a_header_has_a_name_and_a_value() {
    let cases = [
        ("X: a", 200),
        ("X:", 200),
        ("X: caf\u{e9}", 200),
        ("X_Y: forged", 200),
        ("!#$%&'*+-.^_`|~: a", 200),
        ("Upgrade: h2c\r\nConnection: upgrade", 200),
        ("Connection: keep-alive, x-other", 200),
        (": a", 400),
        ("X", 400),
        ("X Y: a", 400),
        ("X : a", 400),
        ("X\t: a", 400),
        ("X: a\r\n b", 400),
        ("X: a\r\n\tb", 400),
        (" X: a", 400),
        ("X: a\x00b", 400),
        ("X: a\rb", 400),
        ("X: a\x0bb", 400),
        ("X(y): a", 400),
        ("caf\u{e9}: a", 400),
    ];
    check(cases.map(|(line, status)| (format!("GET / HTTP/1.1\r\nHost: a\r\n{line}\r\n\r\n"), status))).await;
}

#[tokio::test]
async fn an_invalid_websocket_handshake_is_refused() {
    let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let cases = [
        ("GET / HTTP/1.1", format!("Host: a\r\nUpgrade: websocket\r\n{WEBSOCKET}"), 101),
        ("GET http://a/ HTTP/1.1", format!("Host: b\r\nUpgrade: websocket\r\n{WEBSOCKET}"), 101),
        ("GET / HTTP/1.1", format!("Host: a\r\nUpgrade: websocket, h2c\r\n{WEBSOCKET}"), 101),
        ("GET / HTTP/1.1", format!("Host: a\r\nUpgrade: h2c\r\nUpgrade: WebSocket\r\n{WEBSOCKET}"), 101),
        ("GET / HTTP/1.1", format!("Host: a\r\nUpgrade: websocket\r\n{WEBSOCKET}Content-Length: 0\r\n"), 101),
        ("GET / HTTP/1.1", format!("Host: a\r\nUpgrade: h2c\r\n{WEBSOCKET}"), 200),
        ("GET / HTTP/1.1", format!("Host: a\r\nUpgrade: xwebsocket\r\n{WEBSOCKET}"), 200),
        ("GET / HTTP/1.1", format!("Upgrade: websocket\r\n{WEBSOCKET}"), 400),
        ("GET / HTTP/1.1", format!("Host: a\r\nHost: b\r\nUpgrade: websocket\r\n{WEBSOCKET}"), 400),
        ("GET a HTTP/1.1", format!("Host: a\r\nUpgrade: websocket\r\n{WEBSOCKET}"), 400),
        ("GET / HTTP/1.1", format!("Host: a\r\nUpgrade: websocket\r\n{WEBSOCKET}{key}"), 400),
        ("GET / HTTP/1.1", format!("Host: a\r\nUpgrade: websocket\r\n{WEBSOCKET}Sec-WebSocket-Version: 13\r\n"), 400),
        ("GET / HTTP/1.1", format!("Host: a\r\nUpgrade: websocket\r\n{WEBSOCKET}Sec-WebSocket-Version: 8\r\n"), 400),
        ("GET / HTTP/1.1", format!("Host: a\r\nUpgrade: websocket\r\n{WEBSOCKET}Content-Length: 5\r\n\r\nhello"), 400),
        (
            "GET / HTTP/1.1",
            format!("Host: a\r\nUpgrade: websocket\r\n{WEBSOCKET}Transfer-Encoding: chunked\r\n\r\n0\r\n"),
            400,
        ),
        ("POST / HTTP/1.1", format!("Host: a\r\nUpgrade: websocket\r\n{WEBSOCKET}"), 405),
        ("GET / HTTP/1.1", format!("Host: a\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n{key}"), 426),
        ("GET / HTTP/1.1", format!("Host: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n{key}"), 426),
        ("GET / HTTP/1.0", format!("Host: a\r\nUpgrade: websocket\r\n{WEBSOCKET}"), 200),
    ];
    check(cases.map(|(line, headers, status)| (format!("{line}\r\n{headers}\r\n"), status))).await;
}

/// Returns the values of a header in a message for the application.
pub fn values<'m>(message: &'m Message, name: &str) -> Vec<&'m [u8]> {
    let headers = message.get("headers").and_then(Value::as_list).unwrap().iter().map(|pair| pair.as_list().unwrap());
    let named = headers.filter(|pair| pair[0].as_bytes().unwrap() == name.as_bytes());
    named.map(|pair| &pair[1].as_bytes().unwrap()[..]).collect()
}

#[tokio::test]
async fn the_host_of_an_absolute_url_replaces_the_header() {
    let server = Running::start().await;
    let head = "GET http://example.org:8000/a?b HTTP/1.1\r\nHost: other.net\r\nX: y\r\n";
    let _request = server.sent(&format!("{head}\r\n")).await;
    let message = server.next("http.request").await;
    assert_eq!(values(&message, "host"), [b"example.org:8000"]);
    assert_eq!(
        (message.text("path"), message.bytes("query_string").map(|query| &query[..])),
        (Some("/a"), Some(&b"b"[..]))
    );
    let _handshake = server.sent(&format!("{head}Upgrade: websocket\r\n{WEBSOCKET}\r\n")).await;
    assert_eq!(values(&server.next("websocket.connect").await, "host"), [b"example.org:8000"]);
}

#[tokio::test]
async fn a_refused_request_is_the_last_one_on_its_connection() {
    let server = Running::start().await;
    for refused in [
        "GET a HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    ] {
        let both = server.sent(&format!("{refused}GET / HTTP/1.1\r\nHost: a\r\n\r\n")).await.rest().await;
        assert!(both.contains("\r\nconnection: close\r\n") && both.matches("HTTP/1.1 ").count() == 1, "{both}");
    }
    assert!(server.nothing_on("http.request").await);
}

/// Some proxies end a trailer line at a bare LF, and hyper does not. The server must not take the request after it as
/// part of the trailers while the connection stays open.
#[tokio::test]
async fn no_request_follows_one_with_trailers() {
    let chunked = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n";
    let next = "GET /next HTTP/1.1\r\nHost: a\r\n\r\n";
    for (trailers, answers) in [("\r\n", 2), ("X: y\r\n\r\n", 1), ("X: y\n\r\n", 1)] {
        let server = Running::start().await;
        let mut client = server.sent(&format!("{chunked}{trailers}{next}{next}")).await;
        let message = server.next("http.request").await;
        assert_eq!(message.bytes("body").unwrap(), "hello");
        server.reply(&message, ok("first")).await;
        let first = client.until("first").await;
        assert_eq!(first.contains("\r\nconnection: close\r\n"), answers == 1, "{trailers:?}: {first}");
        if answers == 1 {
            assert_eq!(client.rest().await, "", "{trailers:?}");
            assert!(server.nothing_on("http.request").await);
        } else {
            let message = server.next("http.request").await;
            assert_eq!(message.text("path"), Some("/next"));
        }
    }
}

#[tokio::test]
async fn no_request_follows_an_unread_chunked_body() {
    let server = Running::with(|server| server.page("/page", "text/plain", "page")).await;
    let request = "GET /page HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: y\n\r\n";
    let both = server.sent(&format!("{request}GET /page HTTP/1.1\r\nHost: a\r\n\r\n\r\n")).await.rest().await;
    assert!(both.contains("\r\nconnection: close\r\n") && both.matches("HTTP/1.1 ").count() == 1, "{both}");
}

#[tokio::test]
async fn names_with_an_underscore_are_not_passed_on() {
    let server = Running::start().await;
    let _client =
        server.sent("GET / HTTP/1.1\r\nHost: a\r\nX_Forwarded_For: forged\r\nX-Forwarded_For: forged\r\n\r\n").await;
    let message = server.next("http.request").await;
    assert_eq!(message.get("headers"), Some(&Value::list([header("host", "a")])));
}
