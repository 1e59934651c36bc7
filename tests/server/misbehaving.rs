//! Clients and applications that violate HTTP or are slow.

use std::time::Duration;

use axum::Router;
use axum::routing::get;
use channel_layer::{Value, message};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Instant;

use super::client::Client;
use super::running::{Running, header, ok};
use crate::support::{DEADLINE, Log, eventually, within};

#[tokio::test]
async fn a_client_that_is_slow_with_its_headers_is_cut_off() {
    let server = Running::with(|server| server.header_timeout(Duration::from_millis(200))).await;
    let begun = Instant::now();
    for beginning in ["", "GET / HTTP/1.1\r\nHost: a\r\nX-Slow: "] {
        let mut client = server.sent(beginning).await;
        client.rest().await;
    }
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_client_that_sends_its_headers_byte_by_byte_is_cut_off() {
    let server = Running::with(|server| server.header_timeout(Duration::from_millis(300))).await;
    let mut client = server.sent("GET / HTTP/1.1\r\nX: ").await;
    let mut ticks = tokio::time::interval(Duration::from_millis(20));
    let cut = tokio::select! {
        cut = client.rest() => cut,
        () = async { for _ in 0..500 { ticks.tick().await; } } => panic!("the connection stays"),
    };
    assert_eq!(cut, "");
}

#[tokio::test]
async fn a_client_that_is_slow_with_its_body_gets_408() {
    let server = Running::with(|server| server.body_timeout(Duration::from_millis(100))).await;
    let mut client = server.sent("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf").await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 408 ") && head.contains("\r\nconnection: close\r\n"), "{head}");
    assert!(server.nothing_on("http.request").await);
}

#[tokio::test]
async fn a_client_that_sends_its_body_byte_by_byte_gets_408() {
    let server = Running::with(|server| server.upload_timeout(Duration::from_millis(300))).await;
    let (read, mut write) = TcpStream::connect(&server.address).await.unwrap().into_split();
    let writing = tokio::spawn(async move {
        let mut ticks = tokio::time::interval(Duration::from_millis(20));
        write.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n").await.unwrap();
        while write.write_all(b"x").await.is_ok() {
            ticks.tick().await;
        }
    });
    let head = Client::over(tokio::io::join(read, tokio::io::sink())).head().await;
    assert!(head.starts_with("HTTP/1.1 408 "), "{head}");
    writing.abort();
}

#[tokio::test]
async fn a_client_that_is_still_sending_gets_the_response_that_refuses_it() {
    let server = Running::with(|server| server.max_body_size(1_000)).await;
    let mut client = server.sent("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2000000\r\n\r\n").await;
    for _ in 0..10 {
        client.send(vec![b'x'; 100_000]).await;
    }
    let answer = client.rest().await;
    assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("\r\nconnection: close\r\n"), "{answer}");
    // After a reset these sends would fail.
    for _ in 0..10 {
        client.send(vec![b'x'; 100_000]).await;
    }
}

#[tokio::test]
async fn the_operating_system_buffers_little_for_a_client_that_does_not_read() {
    let server = Running::with(|server| server.response_buffer(500_000)).await;
    let _client = server.sent("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let request = server.next("http.request").await;
    server.reply(&request, ok("").with("more_content", true)).await;
    for _ in 0..20 {
        server.reply(&request, message! { "content": vec![b'x'; 100_000], "more_content": true }).await;
    }
    server.next("http.disconnect").await;
}

#[tokio::test]
async fn a_response_above_the_memory_limit_of_all_responses_is_cut_off() {
    let server = Running::with(|server| server.response_memory(500_000)).await;
    let mut client = server.sent("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let request = server.next("http.request").await;
    server.reply(&request, ok(&"x".repeat(1_000_000))).await;
    assert!(client.rest().await.len() < 1_000_000);
    let mut client = server.sent("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let request = server.next("http.request").await;
    server.reply(&request, ok(&format!("{}end", "x".repeat(400_000)))).await;
    client.until("end").await;
}

#[tokio::test]
async fn parts_without_content_count_for_a_client_that_does_not_read() {
    let log = Log::default();
    let _guard = log.keep();
    let server = Running::with(|server| server.response_buffer(1 << 20)).await;
    let _client = server.sent("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let request = server.next("http.request").await;
    // More than the operating system buffers.
    let first = message! { "status": 200, "content": vec![0_u8; 7 << 20], "more_content": true };
    server.reply(&request, first).await;
    let channel = request.text("reply_channel").unwrap();
    let sending = async {
        for _ in 0..20_000 {
            let part = message! { "content": b"", "more_content": true };
            while server.layer.send(channel, part.clone()).await.is_err() {
                tokio::task::yield_now().await;
            }
        }
    };
    within(DEADLINE, "room for all parts", sending).await;
    eventually("a line in the log", async || log.text().contains("response cut off").then_some(())).await;
}

#[tokio::test]
async fn connections_above_the_limit_wait_for_others_to_end() {
    let server = Running::with(|server| server.max_http_connections(1)).await;
    let idle = server.sent("GET / HTTP/1.1\r\n").await;
    // Sent before the next one, and therefore accepted before it.
    let mut client = server.sent("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let early = tokio::time::timeout(Duration::from_millis(300), server.layer.receive(&["http.request"])).await;
    assert!(early.is_err(), "{early:?}");
    drop(idle);
    let message = server.next("http.request").await;
    server.reply(&message, ok("at last")).await;
    client.until("at last").await;
}

#[tokio::test]
async fn connections_above_the_limit_of_an_address_are_closed_and_others_accepted() {
    let server = Running::with(|server| server.max_http_connections_per_address(2)).await;
    let from = async |address: &str| {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(format!("{address}:0").parse().unwrap()).unwrap();
        let mut client = Client::over(socket.connect(server.address.parse().unwrap()).await.unwrap());
        client.send("GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n").await;
        client
    };
    let answered = async |client: &mut Client| {
        let message = server.next("http.request").await;
        server.reply(&message, ok("here")).await;
        client.until("here").await;
    };
    let (mut first, mut second) = (from("127.0.0.2").await, from("127.0.0.2").await);
    answered(&mut first).await;
    answered(&mut second).await;
    from("127.0.0.2").await.closes().await;
    answered(&mut from("127.0.0.3").await).await;
    drop(first);
    eventually("room for another connection", async || {
        let _third = from("127.0.0.2").await;
        let asked = tokio::time::timeout(Duration::from_millis(100), server.layer.receive(&["http.request"])).await;
        asked.is_ok().then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_panic_in_a_route_ends_its_connection_and_is_logged() {
    let log = Log::default();
    let _guard = log.keep();
    let route = get(async || -> &'static str { panic!("as the test wants it") });
    let server = Running::with(|server| server.routes(Router::new().route("/panic", route))).await;
    assert_eq!(server.sent("GET /panic HTTP/1.1\r\nHost: a\r\n\r\n").await.rest().await, "");
    eventually("a line in the log", async || log.text().contains("a page or route panicked").then_some(())).await;
    let mut client = server.sent("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let message = server.next("http.request").await;
    server.reply(&message, ok("goes on")).await;
    client.until("goes on").await;
}

#[tokio::test]
async fn a_request_that_is_too_large_is_refused() {
    let server = Running::with(|server| server.max_header_size(10_000, 1_000).max_body_size(1_000)).await;
    let long = |length| "x".repeat(length);
    for (request, status) in [
        (format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", long(1_000)), 414),
        (format!("GET /?{} HTTP/1.1\r\nHost: a\r\n\r\n", long(1_000)), 414),
        (format!("GET / HTTP/1.1\r\nHost: a\r\nX-Long: {}\r\n\r\n", long(10_000)), 431),
        (format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(200)), 431),
        (format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\n\r\n{}", long(1_001)), 413),
    ] {
        let head = server.sent(&request).await.head().await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{status}: {head}");
    }
    assert!(server.nothing_on("http.request").await);
}

#[tokio::test]
async fn an_invalid_request_gets_400_or_the_end_of_the_connection() {
    let server = Running::start().await;
    for nonsense in [
        "nonsense\r\n\r\n",
        "GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nno colon\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        "POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nnot hexadecimal\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "CONNECT example.org:443 HTTP/1.1\r\nHost: example.org\r\n\r\n",
    ] {
        let mut client = server.sent(nonsense).await;
        let answer = client.rest().await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{nonsense:?}: {answer}");
    }
    assert!(server.nothing_on("http.request").await);
}

#[tokio::test]
async fn a_path_with_invalid_escapes_is_passed_on() {
    let server = Running::start().await;
    for (sent, path) in [("/%", "/%"), ("/%zz", "/%zz"), ("/%ff", "/\u{fffd}"), ("/%00", "/\0"), ("/a%2Fb", "/a/b")] {
        let mut client = server.sent(&format!("GET {sent} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        let message = server.next("http.request").await;
        assert_eq!(message.text("path"), Some(path), "{sent}");
        server.reply(&message, ok("fine")).await;
        client.until("fine").await;
    }
}

#[tokio::test]
async fn a_client_that_disconnects_before_its_request_is_complete_sends_no_message() {
    let server = Running::start().await;
    for beginning in
        ["", "GET / HT", "GET / HTTP/1.1\r\n", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf"]
    {
        drop(server.sent(beginning).await);
    }
    let mut client = server.sent("GET /next HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let message = server.next("http.request").await;
    assert_eq!(message.text("path"), Some("/next"));
    server.reply(&message, ok("fine")).await;
    client.until("fine").await;
    assert!(server.nothing_on("http.disconnect").await);
}

#[tokio::test]
async fn an_invalid_handshake_is_refused() {
    let server = Running::start().await;
    for request in [
        "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Version: 13\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Version: 7\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    ] {
        let head = server.sent(request).await.head().await;
        assert!(head.starts_with("HTTP/1.1 4"), "{head}");
    }
    assert!(server.nothing_on("websocket.connect").await);
}

#[tokio::test]
async fn a_response_with_too_many_headers_is_502_and_affects_no_other_request() {
    let server = Running::start().await;
    for count in [25_000, 40_000] {
        let mut client = server.sent("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let request = server.next("http.request").await;
        let headers = Value::list((0..count).map(|number| header(&format!("x-{number}"), "1")));
        server.reply(&request, message! { "status": 200, "headers": headers }).await;
        assert!(client.head().await.starts_with("HTTP/1.1 502 "));
        let mut next = server.sent("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let request = server.next("http.request").await;
        server.reply(&request, ok("goes on")).await;
        next.until("goes on").await;
    }
}
