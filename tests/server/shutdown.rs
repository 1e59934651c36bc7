//! A shutdown finishes complete requests and waits for nothing else.

use std::time::Duration;

use channel_layer::message;
use channel_layer::server::SocketOptions;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::running::{Running, ok};
use crate::support::eventually;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

#[tokio::test]
async fn a_shutdown_finishes_the_requests_in_progress_and_accepts_no_more() {
    let mut server = Running::start().await;
    let (mut asking, mut reading) = (server.sent(GET).await, server.sent(GET).await);
    let asked = server.next("http.request").await;
    let begun = server.next("http.request").await;
    server.reply(&begun, message! { "status": 200, "content": b"first ", "more_content": true }).await;
    server.start_shutdown();
    eventually("a closed port", async || TcpStream::connect(&server.address).await.is_err().then_some(())).await;
    server.reply(&asked, ok("answered")).await;
    server.reply(&begun, message! { "content": b"second" }).await;
    let mut both = [asking.rest().await, reading.rest().await];
    both.sort();
    assert!(both.iter().all(|one| one.starts_with("HTTP/1.1 200")));
    assert!(both.iter().any(|one| one.ends_with("answered")));
    assert!(both.iter().any(|one| one.contains("first ") && one.ends_with("0\r\n\r\n")));
    server.ended().await;
    assert!(server.nothing_on("http.disconnect").await);
}

#[tokio::test]
async fn a_response_that_its_client_reads_slowly_is_finished() {
    let mut server = Running::start().await;
    let mut client = server.sent(GET).await;
    let message = server.next("http.request").await;
    // More than the operating system buffers for a client that does not read.
    let content = vec![b'x'; 7_000_000];
    server.reply(&message, message! { "status": 200, "content": content }).await;
    assert!(client.head().await.starts_with("HTTP/1.1 200"));
    server.start_shutdown();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(client.rest().await.len(), 7_000_000);
    server.ended().await;
}

#[tokio::test]
async fn unlimited_timeouts_are_accepted() {
    let endless = Duration::MAX;
    let server = Running::with(|server| {
        let sockets = SocketOptions::new().write_timeout(endless);
        server
            .header_timeout(endless)
            .body_timeout(endless)
            .upload_timeout(endless)
            .stall_timeout(endless)
            .sockets(sockets)
    })
    .await;
    let mut client = server.sent(GET).await;
    let message = server.next("http.request").await;
    server.reply(&message, message! { "status": 200, "content": vec![b'x'; 7_000_000] }).await;
    assert!(client.head().await.starts_with("HTTP/1.1 200"));
    // Long enough for the server to wait for its client.
    tokio::time::sleep(Duration::from_millis(200)).await;
    client.until(&"x".repeat(7_000_000)).await;
}

#[tokio::test]
async fn an_incomplete_request_does_not_delay_a_shutdown() {
    let mut server = Running::with(|server| server.drain_timeout(Duration::from_mins(2))).await;
    let mut clients = Vec::new();
    for beginning in ["", "GET / HTTP/1.1\r\nHost", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf"] {
        clients.push(server.sent(beginning).await);
    }
    // An idle connection that has had a request.
    let mut used = server.sent(GET).await;
    let message = server.next("http.request").await;
    server.reply(&message, ok("used")).await;
    used.until("used").await;
    let begun = Instant::now();
    server.stop().await;
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    for client in &mut clients {
        let answer = client.rest().await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 503 "), "{answer}");
    }
}

#[tokio::test]
async fn a_server_in_its_shutdown_delay_is_not_ready_and_still_accepts_clients() {
    let ready = || axum::Router::new().route("/ready", axum::routing::get(|| async { "ready" }));
    let mut server = Running::with(|server| server.routes(ready()).shutdown_delay(Duration::from_secs(3))).await;
    let ask = "GET /ready HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    assert!(server.sent(ask).await.rest().await.starts_with("HTTP/1.1 200 "));
    server.start_shutdown();
    eventually("the end of readiness", async || {
        server.sent(ask).await.rest().await.starts_with("HTTP/1.1 503 ").then_some(())
    })
    .await;
    server.ended().await;
}

#[tokio::test]
async fn a_shutdown_waits_for_the_application_up_to_the_drain_timeout() {
    let mut server = Running::with(|server| server.drain_timeout(Duration::from_millis(200))).await;
    let mut client = server.sent(GET).await;
    let message = server.next("http.request").await;
    server.stop().await;
    client.closes().await;
    assert_eq!(server.next("http.disconnect").await.text("reply_channel"), message.text("reply_channel"));
}
