//! Tests of the interface server over real sockets. Each test plays the application.

mod http;
mod panics;
mod shutdown;

use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use metrics_util::debugging::DebugValue;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error as ClientError, Message as Frame};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::capacity::CapacityRule;
use crate::config::Config;
use crate::error::Result;
use crate::layer::ChannelLayer;
use crate::memory::MemoryLayer;
use crate::message;
use crate::message::Message;
use crate::server::{InterfaceServer, SocketOptions};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

struct Running {
    layer: Arc<dyn ChannelLayer>,
    address: String,
    stop: Option<oneshot::Sender<()>>,
    served: JoinHandle<Result<()>>,
}

impl Running {
    async fn start() -> Self {
        Self::start_with(|server| server).await
    }

    async fn start_with(set: impl FnOnce(InterfaceServer) -> InterfaceServer) -> Self {
        let config = Config::new()
            .channel_capacity(CapacityRule::glob("websocket.send.*", 10_000))
            .channel_capacity(CapacityRule::glob("websocket.connect", 2));
        Self::on(Arc::new(MemoryLayer::with_config(&config).unwrap()), set).await
    }

    async fn on(layer: Arc<dyn ChannelLayer>, set: impl FnOnce(InterfaceServer) -> InterfaceServer) -> Self {
        let bound = set(InterfaceServer::new(layer.clone())).bind("127.0.0.1:0").await.unwrap();
        let address = bound.local_addr().to_string();
        let (stop, stopped) = oneshot::channel::<()>();
        let served = tokio::spawn(bound.serve(async {
            let _ = stopped.await;
        }));
        Self { layer, address, stop: Some(stop), served }
    }

    /// Starts a client that requests `/path`. The task ends when the handshake is answered.
    fn client(&self) -> JoinHandle<Result<Socket, ClientError>> {
        let request = format!("ws://{}/path?a=1", self.address).into_client_request().unwrap();
        tokio::spawn(async move { connect_async(request).await.map(|(socket, _)| socket) })
    }

    async fn next(&self, channel: &str) -> Message {
        within(self.layer.receive(&[channel])).await.unwrap().message
    }

    async fn send(&self, channel: &str, message: Message) {
        self.layer.send(channel, message).await.unwrap();
    }

    /// Returns an accepted client and its reply channel.
    async fn accepted(&self) -> (Socket, String) {
        let client = self.client();
        let reply_channel = self.next("websocket.connect").await.text("reply_channel").unwrap().to_owned();
        self.send(&reply_channel, message! { "accept": true }).await;
        (within(client).await.unwrap().unwrap(), reply_channel)
    }

    async fn stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        within(&mut self.served).await.unwrap().unwrap();
    }
}

async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(10), future).await.expect("the future completes within 10 s")
}

fn status(refused: Result<Socket, ClientError>) -> u16 {
    match refused {
        Err(ClientError::Http(response)) => response.status().as_u16(),
        other => panic!("{other:?}"),
    }
}

fn close_code(frame: Option<Result<Frame, ClientError>>) -> u16 {
    match frame {
        Some(Ok(Frame::Close(Some(frame)))) => frame.code.into(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_socket_opens_keeps_the_order_and_closes_once() {
    let mut server = Running::start().await;
    let (mut socket, reply_channel) = server.accepted().await;
    server.send(&reply_channel, message! { "text": "hello" }).await;
    server.send(&reply_channel, message! { "bytes": b"\x00\xff" }).await;
    assert_eq!(within(socket.next()).await.unwrap().unwrap(), Frame::text("hello"));
    assert_eq!(within(socket.next()).await.unwrap().unwrap(), Frame::binary(&b"\x00\xff"[..]));

    for number in 1..=50 {
        socket.send(Frame::text(number.to_string())).await.unwrap();
        let message = server.next("websocket.receive").await;
        assert_eq!((message.int("order"), message.text("text")), (Some(number), Some(&*number.to_string())));
        assert_eq!((message.text("reply_channel"), message.text("path")), (Some(&*reply_channel), Some("/path")));
    }
    let frame = CloseFrame { code: 4321.into(), reason: "".into() };
    socket.close(Some(frame)).await.unwrap();
    assert_eq!(close_code(within(socket.next()).await), 4321, "the code is echoed");
    let message = server.next("websocket.disconnect").await;
    assert_eq!((message.int("code"), message.int("order")), (Some(4321), Some(51)));
    // The shutdown waits for every disconnect notice.
    server.stop().await;
    assert!(server.layer.try_receive(&["websocket.disconnect"]).await.unwrap().is_none());
}

#[tokio::test]
async fn the_application_gets_every_close_code_that_a_client_may_send() {
    let server = Running::start().await;
    for (sent, expected) in
        [(1000, 1000), (1010, 1010), (1014, 1014), (3000, 3000), (1004, 1002), (1015, 1002), (5000, 1002)]
    {
        let (mut socket, _) = server.accepted().await;
        socket.close(Some(CloseFrame { code: sent.into(), reason: "".into() })).await.unwrap();
        assert_eq!(close_code(within(socket.next()).await), u16::try_from(expected).unwrap(), "the code is echoed");
        assert_eq!(server.next("websocket.disconnect").await.int("code"), Some(expected));
    }
}

#[tokio::test]
async fn the_handshake_waits_for_the_application() {
    let server = Running::start().await;
    let client = server.client();
    let connect = server.next("websocket.connect").await;
    assert_eq!(
        (connect.int("order"), connect.bytes("query_string").map(|query| &query[..])),
        (Some(0), Some(&b"a=1"[..]))
    );
    server.send(connect.text("reply_channel").unwrap(), message! { "accept": false, "text": "never" }).await;
    assert_eq!(status(within(client).await.unwrap()), 403);
    assert_eq!(server.next("websocket.disconnect").await.int("code"), Some(1006));
}

#[tokio::test]
async fn a_handshake_without_an_answer_is_refused() {
    let server = Running::start_with(|server| server.accept_timeout(Duration::from_millis(50))).await;
    assert_eq!(status(within(server.client()).await.unwrap()), 403);
    server.next("websocket.disconnect").await;
}

#[tokio::test]
async fn data_with_a_close_opens_sends_and_closes() {
    let server = Running::start().await;
    let client = server.client();
    let reply_channel = server.next("websocket.connect").await.text("reply_channel").unwrap().to_owned();
    server.send(&reply_channel, message! { "text": "go away", "close": 4400 }).await;
    let mut socket = within(client).await.unwrap().unwrap();
    assert_eq!(within(socket.next()).await.unwrap().unwrap(), Frame::text("go away"));
    assert_eq!(close_code(within(socket.next()).await), 4400);
    assert_eq!(server.next("websocket.disconnect").await.int("code"), Some(4400));
}

#[tokio::test]
async fn a_full_connect_channel_answers_503() {
    let server = Running::start().await;
    for _ in 0..2 {
        server.send("websocket.connect", message! {}).await;
    }
    assert_eq!(status(within(server.client()).await.unwrap()), 503);
    assert!(server.layer.try_receive(&["websocket.disconnect"]).await.unwrap().is_none());
}

#[tokio::test]
async fn a_full_receive_channel_closes_with_1013() {
    let server = Running::start_with(|server| server.send_timeout(Duration::from_millis(100))).await;
    let (mut socket, _) = server.accepted().await;
    for number in 0..101 {
        socket.send(Frame::text(number.to_string())).await.unwrap();
    }
    assert_eq!(close_code(within(socket.next()).await), 1013);
    assert_eq!(server.next("websocket.disconnect").await.int("code"), Some(1013));
}

#[tokio::test]
async fn a_client_that_does_not_read_is_closed_and_delays_no_other() {
    let server = Running::start_with(|server| server.sockets(SocketOptions::new().queue(1_000, 1024 * 1024))).await;
    let (_slow, slow) = server.accepted().await;
    let (mut quick, reply_channel) = server.accepted().await;
    let flood = message! { "bytes": vec![0_u8; 256 * 1024] };
    while server.layer.try_receive(&["websocket.disconnect"]).await.unwrap().is_none() {
        server.send(&slow, flood.clone()).await;
        server.send(&reply_channel, message! { "text": "still here" }).await;
        assert_eq!(within(quick.next()).await.unwrap().unwrap(), Frame::text("still here"));
    }
}

#[tokio::test]
async fn a_client_that_pings_and_does_not_read_is_closed() {
    let server =
        Running::start_with(|server| server.sockets(SocketOptions::new().write_timeout(Duration::from_millis(100))))
            .await;
    let (mut socket, _) = server.accepted().await;
    let pinging = async { while socket.send(Frame::Ping(vec![0; 125].into())).await.is_ok() {} };
    let message = within(async {
        tokio::select! {
            biased;
            message = server.next("websocket.disconnect") => message,
            () = pinging => server.next("websocket.disconnect").await,
        }
    });
    assert_eq!(message.await.int("code"), Some(1013));
}

#[tokio::test]
async fn every_dropped_reply_is_counted() {
    let recorder = metrics_util::debugging::DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let server = Running::start().await;
    let client = server.client();
    let reply_channel = server.next("websocket.connect").await.text("reply_channel").unwrap().to_owned();
    server.send(&reply_channel, message! { "text": "go away", "close": true }).await;
    for _ in 0..3 {
        server.send(&reply_channel, message! { "text": "too late" }).await;
    }
    let mut socket = within(client).await.unwrap().unwrap();
    while within(socket.next()).await.is_some() {}
    server.next("websocket.disconnect").await;
    let counted = |(key, _, _, value): (metrics_util::CompositeKey, _, _, _)| match value {
        DebugValue::Counter(count) if key.key().name() == "channel_layer_dropped_total" => count,
        _ => 0,
    };
    assert_eq!(snapshotter.snapshot().into_vec().into_iter().map(counted).sum::<u64>(), 3);
}

#[tokio::test]
async fn every_ping_is_answered() {
    let server = Running::start().await;
    let (mut socket, _) = server.accepted().await;
    for number in 0..100_u8 {
        socket.feed(Frame::Ping(vec![number].into())).await.unwrap();
    }
    socket.flush().await.unwrap();
    for number in 0..100_u8 {
        assert_eq!(within(socket.next()).await.unwrap().unwrap(), Frame::Pong(vec![number].into()));
    }
}

#[tokio::test]
async fn too_large_a_message_closes_with_1009() {
    let server = Running::start_with(|server| server.sockets(SocketOptions::new().max_message_size(1_000))).await;
    let (mut socket, _) = server.accepted().await;
    socket.send(Frame::text("x".repeat(1_001))).await.unwrap();
    assert_eq!(close_code(within(socket.next()).await), 1009);
    assert_eq!(server.next("websocket.disconnect").await.int("code"), Some(1009));
}

#[tokio::test]
async fn a_client_that_vanishes_is_noticed() {
    let server = Running::start().await;
    let (socket, _) = server.accepted().await;
    drop(socket);
    assert_eq!(server.next("websocket.disconnect").await.int("code"), Some(1006));
}

#[tokio::test]
async fn a_disconnect_during_the_handshake_is_reported_after_the_decision_of_the_application() {
    let server = Running::start().await;
    let client = server.client();
    let reply_channel = server.next("websocket.connect").await.text("reply_channel").unwrap().to_owned();
    client.abort();
    // A worker is handling the connect. With a disconnect now, another worker could remove the client from groups
    // before the first worker has added it.
    let early = tokio::time::timeout(Duration::from_millis(300), server.layer.receive(&["websocket.disconnect"])).await;
    assert!(early.is_err(), "{early:?}");
    server.send(&reply_channel, message! { "accept": true }).await;
    assert_eq!(server.next("websocket.disconnect").await.int("code"), Some(1006));
}

#[tokio::test]
async fn a_client_that_left_during_the_handshake_releases_its_permit() {
    let server = Running::start_with(|server| server.sockets(SocketOptions::new().max_connections(1))).await;
    let client = server.client();
    server.next("websocket.connect").await;
    client.abort();
    // The server notices the disconnect at some time; the application never decides.
    let admitted = within(async {
        loop {
            let mut client = server.client();
            tokio::select! {
                connect = server.layer.receive(&["websocket.connect"]) => return (client, connect.unwrap().message),
                refused = &mut client => assert_eq!(status(refused.unwrap()), 503),
            }
        }
    });
    let (client, connect) = admitted.await;
    server.send(connect.text("reply_channel").unwrap(), message! { "accept": true }).await;
    within(client).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_client_that_left_during_the_handshake_does_not_delay_a_shutdown() {
    let mut server = Running::start().await;
    let client = server.client();
    server.next("websocket.connect").await;
    client.abort();
    let _ = client.await;
    server.stop().await;
    server.next("websocket.disconnect").await;
}

#[tokio::test]
async fn a_client_that_answers_no_ping_is_closed() {
    let times = [Duration::from_millis(50), Duration::from_millis(50)];
    let server = Running::start_with(|server| server.sockets(SocketOptions::new().ping(times[0], times[1]))).await;
    // The client does not read, so it sends no pong.
    let (_socket, _) = server.accepted().await;
    assert_eq!(server.next("websocket.disconnect").await.int("code"), Some(1006));
}

#[tokio::test]
async fn a_shutdown_writes_the_queue_closes_with_1001_and_sends_disconnects() {
    let mut server = Running::start().await;
    let mut sockets = Vec::new();
    for _ in 0..10 {
        let (socket, _) = server.accepted().await;
        sockets.push(tokio::spawn(socket.map(close_code_or_frame).collect::<Vec<_>>()));
    }
    server.stop().await;
    for socket in sockets {
        assert_eq!(within(socket).await.unwrap(), [Some(1001)]);
    }
    for _ in 0..10 {
        assert_eq!(server.next("websocket.disconnect").await.int("code"), Some(1001));
    }
    assert!(TcpStream::connect(&server.address).await.is_err());
}

#[tokio::test]
async fn a_server_that_restarts_closes_with_1012() {
    let mut server = Running::start_with(|server| server.restarts(true)).await;
    let (mut socket, _) = server.accepted().await;
    let closed = tokio::spawn(async move { close_code(socket.next().await) });
    server.stop().await;
    assert_eq!(within(closed).await.unwrap(), 1012);
}

#[tokio::test]
async fn a_socket_ends_with_its_memberships() {
    let config = Config::new().group_expiry(Duration::from_millis(500));
    let layer: Arc<dyn ChannelLayer> = Arc::new(MemoryLayer::with_config(&config).unwrap());
    let server = Running::on(layer, |server| server).await;
    let (mut socket, _) = server.accepted().await;
    assert_eq!(close_code(within(socket.next()).await), 1001);
    assert_eq!(server.next("websocket.disconnect").await.int("code"), Some(1001));
}

#[tokio::test]
async fn outcomes_of_handshakes_are_counted_and_permits_are_released() {
    let recorder = metrics_util::debugging::DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let options = SocketOptions::new().max_connections(1);
    let server = Running::start_with(|server| server.sockets(options)).await;
    let (socket, _) = server.accepted().await;
    assert_eq!(status(within(server.client()).await.unwrap()), 503);
    drop(socket);
    server.next("websocket.disconnect").await;
    let client = server.client();
    let connect = server.next("websocket.connect").await;
    server.send(connect.text("reply_channel").unwrap(), message! { "close": true }).await;
    assert_eq!(status(within(client).await.unwrap()), 403);
    server.next("websocket.disconnect").await;
    let mut found: Vec<_> = snapshotter.snapshot().into_vec();
    found.retain(|(key, ..)| {
        key.key().name().ends_with("handshakes_total") || key.key().name().ends_with("connections")
    });
    let shown = found.into_iter().map(|(key, _, _, value)| match value {
        DebugValue::Counter(count) => (key.key().labels().map(|label| label.value().to_owned()).collect(), count),
        DebugValue::Gauge(value) => ("open".to_owned(), value.0.abs().to_bits()),
        DebugValue::Histogram(_) => (String::new(), 0),
    });
    let shown: std::collections::BTreeMap<String, u64> = shown.collect();
    let wanted = [("accepted", 1), ("limited", 1), ("open", 0), ("refused", 1)];
    assert!(shown.iter().map(|(name, count)| (&**name, *count)).eq(wanted), "{shown:?}");
}

fn close_code_or_frame(frame: Result<Frame, ClientError>) -> Option<u16> {
    match frame {
        Ok(Frame::Close(Some(frame))) => Some(frame.code.into()),
        _ => None,
    }
}

#[tokio::test]
async fn one_group_message_reaches_every_socket() {
    let server = Running::start().await;
    let mut sockets = Vec::new();
    for _ in 0..20 {
        let (socket, reply_channel) = server.accepted().await;
        server.layer.group_add("all", &reply_channel).await.unwrap();
        sockets.push(socket);
    }
    server.layer.group_send("all", message! { "text": "hi" }).await.unwrap();
    for socket in &mut sockets {
        assert_eq!(within(socket.next()).await.unwrap().unwrap(), Frame::text("hi"));
    }
}
