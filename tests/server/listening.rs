//! Listeners, TLS and HTTP/2 connections.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use channel_layer::server::{Listener, Tls};
use channel_layer::{ChannelLayer, InterfaceServer, MemoryLayer};
use hyper::client::conn::http2::SendRequest;
use tokio::net::UnixStream;

use super::certified::Certified;
use super::client::Client;
use super::running::{Running, ok};
use crate::support::{DEADLINE, within};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

fn layer() -> Arc<dyn ChannelLayer> {
    Arc::new(MemoryLayer::new())
}

async fn answers<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(server: &Running, mut client: Client<S>) {
    client.send(GET).await;
    let message = server.next("http.request").await;
    server.reply(&message, ok("here")).await;
    assert!(client.until("here").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_unix_listener_replaces_an_abandoned_socket_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("site.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let layer = layer();
    let listener = Listener::unix(&path).unwrap();
    assert!(Listener::unix(&path).is_err(), "the socket is in use");
    let mut server = Running::serve(layer.clone(), InterfaceServer::new(layer).listen(listener));
    assert_eq!(server.address, format!("unix:{}", path.display()));
    let mut client = Client::over(UnixStream::connect(&path).await.unwrap());
    client.send(GET).await;
    let message = server.next("http.request").await;
    assert_eq!((message.get("client"), message.get("server")), (None, None));
    server.reply(&message, ok("here")).await;
    client.until("here").await;
    server.stop().await;
    assert!(!path.exists());
    std::fs::write(&path, "no socket").unwrap();
    assert!(Listener::unix(&path).is_err());
}

#[tokio::test]
async fn a_listener_of_another_process_is_inherited() {
    let opened = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let layer = layer();
    let listener = Listener::inherited(opened.as_raw_fd()).unwrap();
    let server = Running::serve(layer.clone(), InterfaceServer::new(layer).listen(listener));
    assert_eq!(server.address, opened.local_addr().unwrap().to_string());
    answers(&server, server.connect().await).await;
    let no_socket = tempfile::tempfile().unwrap();
    assert!(Listener::inherited(no_socket.as_raw_fd()).is_err());
    assert!(Listener::inherited(i32::MAX).is_err());
    assert!(Listener::activated().unwrap().is_empty());
}

#[tokio::test]
async fn a_socket_that_does_not_listen_is_not_inherited() {
    let datagrams = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let connected = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (unix, _other) = UnixStream::pair().unwrap();
    for descriptor in [datagrams.as_raw_fd(), connected.as_raw_fd(), unix.as_raw_fd()] {
        let error = Listener::inherited(descriptor).unwrap_err().to_string();
        assert_eq!(error, format!("file descriptor {descriptor} is not a listening socket"));
    }
}

#[tokio::test]
async fn a_server_has_several_listeners() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("site.sock");
    let layer = layer();
    let bound = InterfaceServer::new(layer.clone()).bind("127.0.0.1:0").await.unwrap();
    let server = Running::serve(layer, bound.and(Listener::unix(&path).unwrap()));
    answers(&server, server.connect().await).await;
    answers(&server, Client::over(UnixStream::connect(&path).await.unwrap())).await;
}

#[tokio::test]
async fn a_client_connects_with_tls() {
    let certified = Certified::start(&[]).await;
    let mut client = Client::over(certified.connect().await);
    client.send(GET).await;
    let message = certified.server.next("http.request").await;
    assert_eq!((message.text("scheme"), message.text("http_version")), (Some("https"), Some("1.1")));
    certified.server.reply(&message, ok("secret")).await;
    assert!(client.until("secret").await.starts_with("HTTP/1.1 200"));
    // A client without TLS is cut off, and no other.
    let mut plain = certified.server.sent(GET).await;
    plain.closes().await;
    answers(&certified.server, Client::over(certified.connect().await)).await;
}

#[tokio::test]
async fn a_client_connects_with_http_2() {
    let certified = Certified::start(&["h2", "http/1.1"]).await;
    let stream = hyper_util::rt::TokioIo::new(certified.connect().await);
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, stream).await.unwrap();
    tokio::spawn(connection);
    let request = hyper::Request::get("https://example.org/two").body(Body::empty()).unwrap();
    let answer = tokio::spawn(async move { sender.send_request(request).await });
    let message = certified.server.next("http.request").await;
    assert_eq!((message.text("http_version"), message.text("path")), (Some("2"), Some("/two")));
    let host = super::running::header("host", "example.org");
    assert!(message.get("headers").unwrap().as_list().unwrap().contains(&host));
    certified.server.reply(&message, ok("two")).await;
    assert_eq!(answer.await.unwrap().unwrap().status(), 200);
}

#[tokio::test]
async fn an_http_2_client_without_requests_is_cut_off() {
    let certified = Certified::with(&["h2"], |server| server.header_timeout(Duration::from_millis(300))).await;
    let mut silent = Client::over(certified.connect().await);
    silent.closes().await;
    // A client that sends its preface and no request.
    let stream = hyper_util::rt::TokioIo::new(certified.connect().await);
    let executor = hyper_util::rt::TokioExecutor::new();
    let (_sender, connection) = hyper::client::conn::http2::handshake::<_, _, Body>(executor, stream).await.unwrap();
    let _ = within(DEADLINE, "the end of the connection", connection).await;
}

/// An HTTP/2 client whose window for each response has 20,000 bytes.
struct Http2<'a> {
    server: &'a Running,
    sender: SendRequest<Body>,
}

impl<'a> Http2<'a> {
    async fn connect(certified: &'a Certified) -> Self {
        let stream = hyper_util::rt::TokioIo::new(certified.connect().await);
        let mut builder = hyper::client::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new());
        let (sender, connection) = builder.initial_stream_window_size(20_000).handshake(stream).await.unwrap();
        tokio::spawn(connection);
        Self { server: &certified.server, sender }
    }

    /// Returns the body of a response with `bytes` bytes. If `last` is not set, the application announces more.
    async fn get(&mut self, bytes: usize, last: bool) -> Body {
        let request = hyper::Request::get("https://example.org/").body(Body::empty()).unwrap();
        let answer = tokio::spawn(self.sender.send_request(request));
        let message = self.server.next("http.request").await;
        self.server.reply(&message, ok(&"x".repeat(bytes)).with("more_content", !last)).await;
        Body::new(within(DEADLINE, "the head of a response", answer).await.unwrap().unwrap().into_body())
    }
}

async fn all_of(body: Body) -> Result<usize, axum::Error> {
    within(DEADLINE, "the end of a response", to_bytes(body, usize::MAX)).await.map(|bytes| bytes.len())
}

#[tokio::test]
async fn the_http_2_stream_with_the_most_waiting_bytes_is_cut_off() {
    let certified = Certified::with(&["h2"], |server| server.response_memory(3_000_000)).await;
    let mut client = Http2::connect(&certified).await;
    let large = client.get(1_500_000, true).await;
    let small = client.get(1_000_000, true).await;
    let last = client.get(1_000_000, true).await;
    assert!(all_of(large).await.is_err());
    for body in [small, last] {
        assert_eq!(all_of(body).await.unwrap(), 1_000_000);
    }
}

#[tokio::test]
async fn an_http_2_client_that_accepts_nothing_of_its_response_is_cut_off() {
    let certified = Certified::with(&["h2"], |server| server.stall_timeout(Duration::from_millis(300))).await;
    let mut client = Http2::connect(&certified).await;
    let unread = client.get(1_000_000, false).await;
    let read = client.get(1_000_000, true).await;
    assert_eq!(all_of(read).await.unwrap(), 1_000_000, "another response on the same connection is complete");
    certified.server.next("http.disconnect").await;
    all_of(unread).await.unwrap_err();
}

#[tokio::test]
async fn an_idle_http_2_connection_stays_until_its_client_has_the_end_of_the_response() {
    let certified = Certified::with(&["h2"], |server| server.header_timeout(Duration::from_millis(200))).await;
    let mut client = Http2::connect(&certified).await;
    let paused = client.get(30_000, true).await;
    // Several times as long as an idle connection stays.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(all_of(paused).await.unwrap(), 30_000);
}

#[test]
fn an_invalid_private_key_is_refused_and_not_shown() {
    let generated = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let error = Tls::from_pem(generated.cert.pem().as_bytes(), b"secret").unwrap_err();
    assert!(!format!("{error:?} {error}").contains("secret"));
    let error = Tls::from_pem(b"", generated.signing_key.serialize_pem().as_bytes()).unwrap_err();
    assert_eq!(error.to_string(), "invalid certificate for TLS");
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    assert!(Tls::from_pem(generated.cert.pem().as_bytes(), other.signing_key.serialize_pem().as_bytes()).is_err());
}
