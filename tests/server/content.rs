//! Responses that must have no content, whatever the application sends.

use channel_layer::{Value, message};

use super::running::{Running, header};

/// Returns the head and the content of the response to a request with `method`.
async fn answered(method: &str, status: i64, length: Option<&str>, parts: &[&str]) -> String {
    let server = Running::start().await;
    let mut client = server.sent(&format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n")).await;
    let message = server.next("http.request").await;
    let headers = Value::list(length.map(|length| header("Content-Length", length)));
    for (at, content) in parts.iter().enumerate() {
        let part = message! { "content": content.as_bytes(), "more_content": at + 1 < parts.len() };
        let part = if at == 0 { part.with("status", status).with("headers", headers.clone()) } else { part };
        server.reply(&message, part).await;
    }
    client.send("GET /next HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let next = server.next("http.request").await;
    assert_eq!(next.text("path"), Some("/next"), "the connection stays open");
    server.reply(&next, message! { "status": 299 }).await;
    let whole = client.until("HTTP/1.1 299").await;
    assert!(server.nothing_on("http.disconnect").await, "the client is still connected");
    whole.strip_suffix("HTTP/1.1 299").unwrap().to_owned()
}

fn lines<'r>(response: &'r str, name: &str) -> Vec<&'r str> {
    response.lines().filter(|line| line.starts_with(name)).collect()
}

#[tokio::test]
async fn some_statuses_have_no_content_and_no_length() {
    for status in [204, 205, 304] {
        for (length, parts) in [
            (None, &["hello"][..]),
            (Some("5"), &["hello"]),
            (None, &["hel", "lo"]),
            (Some("5"), &["hel", "lo"]),
            (Some("nonsense"), &[""]),
            (None, &[""]),
        ] {
            let response = answered("GET", status, length, parts).await;
            assert!(response.ends_with("\r\n\r\n"), "{response}");
            // A client would wait for content only after 205.
            let wanted: &[&str] = if status == 205 { &["content-length: 0"] } else { &[] };
            assert_eq!(lines(&response, "content-length"), wanted, "{response}");
            assert!(lines(&response, "transfer-encoding").is_empty(), "{response}");
        }
    }
}

#[tokio::test]
async fn the_response_to_head_has_the_length_of_the_application_or_none() {
    for (length, parts, wanted) in [
        (None, &["hello"][..], &["content-length: 5"][..]),
        (Some("7"), &["hello"], &["content-length: 7"]),
        (Some("7"), &[""], &["content-length: 7"]),
        (Some("7"), &["hel", "lo"], &["content-length: 7"]),
        (None, &["hel", "lo"], &[]),
        (None, &[""], &[]),
    ] {
        let response = answered("HEAD", 200, length, parts).await;
        assert!(response.ends_with("\r\n\r\n"), "{response}");
        assert_eq!(lines(&response, "content-length"), wanted, "{length:?} {parts:?}");
    }
    for status in [204, 304] {
        assert!(lines(&answered("HEAD", status, Some("7"), &["hello"]).await, "content-length").is_empty());
    }
}

#[tokio::test]
async fn a_route_cannot_send_content_either() {
    let routes =
        axum::Router::new().route("/", axum::routing::get(|| async { (axum::http::StatusCode::NO_CONTENT, "hello") }));
    let server = Running::with(|server| server.routes(routes)).await;
    let request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let response = server.sent(request).await.rest().await;
    assert!(response.starts_with("HTTP/1.1 204 ") && response.ends_with("\r\n\r\n"), "{response}");
    assert!(lines(&response, "content-length").is_empty(), "{response}");
}

#[tokio::test]
async fn the_application_cannot_set_hop_by_hop_headers() {
    let server = Running::start().await;
    let mut client = server.sent("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let message = server.next("http.request").await;
    let names = ["Connection", "Keep-Alive", "Proxy-Connection", "TE", "Trailer", "Transfer-Encoding", "Upgrade"];
    let headers = Value::list(names.map(|name| header(name, "close")).into_iter().chain([header("X", " padded\t")]));
    server.reply(&message, message! { "status": 200, "headers": headers, "content": b"fine" }).await;
    let head = client.head().await;
    assert!(!head.contains("close") && head.contains("\r\nx: padded\r\n"), "{head}");
}
