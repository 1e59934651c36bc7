//! Origins, trusted proxies, and secrets in the access log.

use channel_layer::server::TrustedProxies;
use channel_layer::{Value, message};

use super::running::{Running, header, ok};
use crate::support::{Log, eventually};

pub fn handshake(headers: &str) -> String {
    format!(
        "GET /?token=secret HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
    )
}

#[tokio::test]
async fn pages_of_other_origins_cannot_open_sockets() {
    let server = Running::with(|server| server.allowed_origins(["https://example.org"]).unwrap()).await;
    let head = server.sent(&handshake("Origin: https://evil.net\r\n")).await.head().await;
    assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
    assert!(server.nothing_on("websocket.connect").await);
    let mut client = server.sent(&handshake("Origin: https://example.org\r\n")).await;
    let message = server.next("websocket.connect").await;
    server.reply(&message, message! { "accept": true }).await;
    assert!(client.head().await.starts_with("HTTP/1.1 101 "));
}

#[tokio::test]
async fn only_a_trusted_proxy_sets_the_client() {
    let forwarded = "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: https\r\n\r\n";
    for (proxies, client, scheme) in [(vec!["127.0.0.1"], "203.0.113.9", "https"), (vec![], "127.0.0.1", "http")] {
        let trusted = TrustedProxies::parse(proxies).unwrap();
        let server = Running::with(|server| server.trusted_proxies(trusted)).await;
        let _client = server.sent(forwarded).await;
        let message = server.next("http.request").await;
        assert_eq!(message.get("client").unwrap().as_list().unwrap()[0].as_text(), Some(client));
        assert_eq!(message.text("scheme"), Some(scheme));
        // The application gets the headers in any case.
        let headers = message.get("headers").and_then(Value::as_list).unwrap();
        assert!(headers.contains(&header("x-forwarded-for", "203.0.113.9")));
    }
}

#[tokio::test]
async fn the_access_log_has_a_line_for_each_request_and_no_secret() {
    let log = Log::default();
    let _guard = log.keep();
    let server = Running::with(|server| server.access_log(true)).await;
    let request = "POST /in?token=secret HTTP/1.1\r\nHost: a\r\nCookie: secret\r\nContent-Length: 6\r\n\r\nsecret";
    let mut client = server.sent(request).await;
    let message = server.next("http.request").await;
    server.reply(&message, ok("content")).await;
    client.until("content").await;
    let mut socket = server.sent(&handshake("Cookie: secret\r\n")).await;
    let message = server.next("websocket.connect").await;
    server.reply(&message, message! { "accept": false }).await;
    socket.head().await;
    let log = eventually("two lines", async || {
        let log = log.text();
        (log.matches("channel_layer::access").count() == 2).then_some(log)
    })
    .await;
    let lines: Vec<_> = log.lines().filter(|line| line.contains("channel_layer::access")).collect();
    for (line, fields) in lines.iter().zip([
        ["method=POST", "path=\"/in\"", "status=200", "bytes=7"],
        ["method=GET", "path=\"/\"", "status=403", "bytes=0"],
    ]) {
        assert!(fields.iter().all(|fields| line.contains(fields)) && line.contains("client=127.0.0.1:"), "{line}");
    }
    let ours: Vec<_> = log.lines().filter(|line| line.contains("channel_layer")).collect();
    assert!(ours.iter().all(|line| !line.contains("secret")), "{ours:?}");
}
