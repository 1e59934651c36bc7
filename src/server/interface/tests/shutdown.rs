//! The end of the server: sockets that are still open, and handshakes that are accepted, are aborted and counted.

use axum::extract::Request;
use axum::http::Method;
use axum::http::header::{CONNECTION, HOST, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE};
use bytestring::ByteString;
use metrics_util::debugging::{DebuggingRecorder, Snapshotter};

use crate::server::asgi::application::Application;
use crate::server::asgi::connections::Connections;
use crate::server::asgi::dispatch::dispatch;
use crate::server::asgi::handshake;
use crate::server::asgi::session::SocketContext;
use crate::server::counters::Counters;
use crate::server::interface::tests::*;
use crate::server::limits::origin::Origins;
use crate::server::transport::listener::Peer;
use crate::server::transport::shutdown::Shutdown;

/// Returns the number of messages that count as dropped since the last call.
fn dropped(snapshotter: &Snapshotter) -> u64 {
    let counted = |(key, _, _, value): (metrics_util::CompositeKey, _, _, _)| match value {
        DebugValue::Counter(count) if key.key().name() == "channel_layer_dropped_total" => count,
        _ => 0,
    };
    snapshotter.snapshot().into_vec().into_iter().map(counted).sum()
}

/// Reads up to the end of the connection. Returns the number of data frames.
async fn frames(socket: &mut Socket) -> u64 {
    let mut frames = 0;
    while let Some(Ok(frame)) = within(socket.next()).await {
        frames += u64::from(frame.is_binary());
    }
    frames
}

const FLOOD: u64 = 30;

/// Returns an open socket whose client accepts no more bytes.
async fn flooded(server: &Running) -> Socket {
    let (socket, reply_channel) = server.accepted().await;
    for _ in 0..FLOOD {
        server.send(&reply_channel, message! { "bytes": vec![0_u8; 512 * 1024] }).await;
    }
    socket
}

fn large_queues(server: InterfaceServer) -> InterfaceServer {
    server.sockets(SocketOptions::new().queue(1_000, 64 * 1024 * 1024))
}

#[tokio::test]
async fn a_socket_that_is_open_at_the_drain_timeout_is_aborted_and_reported() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let mut server = Running::start_with(|server| large_queues(server).drain_timeout(Duration::from_millis(200))).await;
    let mut socket = flooded(&server).await;
    server.stop().await;
    let disconnect = server.layer.try_receive(&["websocket.disconnect"]).await.unwrap();
    assert_eq!(disconnect.unwrap().message.int("code"), Some(1006));
    assert_eq!(frames(&mut socket).await + dropped(&snapshotter), FLOOD);
    let _ = socket.send(Frame::text("late")).await;
    for channel in ["websocket.receive", "websocket.disconnect"] {
        assert!(server.layer.try_receive(&[channel]).await.unwrap().is_none(), "{channel}");
    }
}

#[tokio::test]
async fn dropping_the_server_aborts_its_sockets() {
    let server = Running::start_with(|server| server).await;
    let (mut socket, _) = server.accepted().await;
    server.served.abort();
    assert_eq!(server.next("websocket.disconnect").await.int("code"), Some(1006));
    assert_eq!(frames(&mut socket).await, 0);
}

/// Returns the state of sockets without a server around it.
fn context(layer: &Arc<dyn ChannelLayer>) -> Arc<SocketContext> {
    let timeout = Duration::from_secs(5);
    Arc::new(SocketContext {
        application: Application::new(layer.clone(), ByteString::new(), timeout, false),
        connections: Connections::new(SocketOptions::new()).unwrap(),
        origins: Origins::default(),
        options: SocketOptions::new(),
        accept_timeout: timeout,
        counters: Arc::new(Counters::default()),
        shutdown: Shutdown::default(),
    })
}

#[tokio::test]
async fn the_reply_that_accepts_counts_as_dropped_if_the_client_leaves_before_its_socket_is_open() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let layer: Arc<dyn ChannelLayer> = Arc::new(MemoryLayer::new());
    let context = context(&layer);
    let (connections, counters) = (context.connections.clone(), context.counters.clone());
    let replies = layer.receiver(&[connections.channel().as_str()]).unwrap();
    tokio::spawn(dispatch(replies, connections, counters, tokio_util::sync::CancellationToken::new()));
    let mut request = Request::builder()
        .method(Method::GET)
        .header(HOST, "a")
        .header(CONNECTION, "upgrade")
        .header(UPGRADE, "websocket")
        .header(SEC_WEBSOCKET_VERSION, "13")
        .header(SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ==")
        .body(axum::body::Body::empty())
        .unwrap();
    // The connection of this request never becomes a socket.
    let failing = hyper::upgrade::on(Request::new(axum::body::Body::empty()));
    request.extensions_mut().insert(failing);
    let accepting = async {
        let connect = within(layer.receive(&["websocket.connect"])).await.unwrap().message;
        let reply_channel = connect.text("reply_channel").unwrap();
        layer.send(reply_channel, message! { "accept": true, "text": "hello" }).await.unwrap();
    };
    let (response, ()) = tokio::join!(handshake::answer(context, Peer::default(), request), accepting);
    assert_eq!(response.status(), 101);
    within(layer.receive(&["websocket.disconnect"])).await.unwrap();
    assert_eq!(dropped(&snapshotter), 1);
}
