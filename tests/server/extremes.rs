//! Settings at the limits of their ranges.

use std::sync::Arc;
use std::time::Duration;

use channel_layer::server::SocketOptions;
use channel_layer::{InterfaceServer, MemoryLayer};
use futures_util::{SinkExt, StreamExt};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message as Frame;

use super::certified::Certified;
use super::running::{Running, ok};
use crate::support::{DEADLINE, within};

fn largest(server: InterfaceServer) -> InterfaceServer {
    let (longest, most) = (Duration::MAX, usize::MAX);
    let sockets = SocketOptions::new()
        .queue(most, most)
        .write_timeout(longest)
        .ping(longest, longest)
        .close_timeout(longest)
        .max_frame_size(most)
        .max_connections(most)
        .max_connections_per_address(most)
        .max_connections_per_user(most)
        .max_handshakes_per_second(u32::MAX)
        .max_messages_per_second(u32::MAX)
        .max_bytes_per_second(u32::MAX);
    server
        .sockets(sockets)
        .accept_timeout(longest)
        .send_timeout(longest)
        .drain_timeout(longest)
        .close_spread(longest)
        .response_timeout(longest)
        .response_buffer(most)
        .response_memory(most)
        .max_body_size(most)
        .body_timeout(longest)
        .upload_timeout(longest)
        .stall_timeout(longest)
        .header_timeout(longest)
        .max_header_size(most, most)
        .max_http_connections(most)
        .max_http_connections_per_address(most)
}

#[tokio::test]
async fn the_largest_settings_work() {
    let mut server = Running::with(largest).await;
    let mut client = server.sent("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello").await;
    let message = server.next("http.request").await;
    server.reply(&message, ok("fine")).await;
    client.until("fine").await;
    let opening = tokio::spawn(connect_async(format!("ws://{}/", server.address)));
    let connect = server.next("websocket.connect").await;
    server.reply(&connect, channel_layer::message! { "accept": true, "text": "hello" }).await;
    let (mut socket, _) = within(DEADLINE, "the handshake", opening).await.unwrap().unwrap();
    assert_eq!(within(DEADLINE, "a frame", socket.next()).await.unwrap().unwrap(), Frame::text("hello"));
    socket.send(Frame::text("hi")).await.unwrap();
    assert_eq!(server.next("websocket.receive").await.text("text"), Some("hi"));
    drop((client, socket));
    server.stop().await;
}

#[tokio::test]
async fn the_largest_settings_work_for_http_2() {
    let certified = Certified::with(&["h2"], largest).await;
    let stream = TokioIo::new(certified.connect().await);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    let request = hyper::Request::get("https://localhost/").body(axum::body::Body::empty()).unwrap();
    let answering = async {
        let message = certified.server.next("http.request").await;
        certified.server.reply(&message, ok("fine")).await;
    };
    let (response, ()) = tokio::join!(within(DEADLINE, "a response", sender.send_request(request)), answering);
    assert_eq!(response.unwrap().status(), 200);
}

/// Sets a setting to 0.
type Zero<T> = fn(T) -> T;

#[test]
fn a_setting_of_0_that_would_serve_no_client_is_refused_by_name() {
    let sockets: [(&str, Zero<SocketOptions>); 7] = [
        ("--queue-messages", |sockets| sockets.queue(0, 1)),
        ("--write-timeout", |sockets| sockets.write_timeout(Duration::ZERO)),
        ("--ping-interval", |sockets| sockets.ping(Duration::ZERO, Duration::MAX)),
        ("--pong-timeout", |sockets| sockets.ping(Duration::MAX, Duration::ZERO)),
        ("close_timeout", |sockets| sockets.close_timeout(Duration::ZERO)),
        ("--max-message-size", |sockets| sockets.max_message_size(0)),
        ("--max-frame-size", |sockets| sockets.max_frame_size(0)),
    ];
    let server: [(&str, Zero<InterfaceServer>); 10] = [
        ("--accept-timeout", |server| server.accept_timeout(Duration::ZERO)),
        ("--response-timeout", |server| server.response_timeout(Duration::ZERO)),
        ("--response-buffer", |server| server.response_buffer(0)),
        ("--response-memory", |server| server.response_memory(0)),
        ("--body-timeout", |server| server.body_timeout(Duration::ZERO)),
        ("--upload-timeout", |server| server.upload_timeout(Duration::ZERO)),
        ("--stall-timeout", |server| server.stall_timeout(Duration::ZERO)),
        ("--header-timeout", |server| server.header_timeout(Duration::ZERO)),
        ("--max-header-size", |server| server.max_header_size(0, 1)),
        ("--max-url-size", |server| server.max_header_size(1, 0)),
    ];
    let new = || InterfaceServer::new(Arc::new(MemoryLayer::new()));
    let sockets = sockets.map(|(name, set)| (name, new().sockets(set(SocketOptions::new()))));
    let servers = sockets.into_iter().chain(server.map(|(name, set)| (name, set(new()))));
    for (name, server) in servers {
        let error = server.validate().expect_err(name).to_string();
        assert!(error.contains(name) && error.contains("expected a value above 0"), "{error}");
    }
}

#[tokio::test]
async fn the_smallest_settings_work() {
    let sockets = SocketOptions::new().queue(1, 0);
    let smallest = |server: InterfaceServer| {
        let server = server.sockets(sockets).send_timeout(Duration::ZERO).shutdown_delay(Duration::ZERO);
        server.close_spread(Duration::ZERO).max_body_size(0).max_http_connections(0)
    };
    let mut server = Running::with(smallest).await;
    let opening = tokio::spawn(connect_async(format!("ws://{}/", server.address)));
    let connect = server.next("websocket.connect").await;
    server.reply(&connect, channel_layer::message! { "accept": true, "text": "hello" }).await;
    let (mut socket, _) = within(DEADLINE, "the handshake", opening).await.unwrap().unwrap();
    assert_eq!(within(DEADLINE, "a frame", socket.next()).await.unwrap().unwrap(), Frame::text("hello"));
    socket.send(Frame::text("hi")).await.unwrap();
    assert_eq!(server.next("websocket.receive").await.text("text"), Some("hi"));
    drop(socket);
    server.stop().await;
}
