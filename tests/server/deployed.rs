//! The interface server and workers as programs, and what happens to clients when one of them dies.

use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message as Frame;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use super::client::Client;
use super::program::Program;
use crate::support::{DEADLINE, RedisServer, eventually, within};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

async fn serve(redis: &RedisServer) -> Program {
    Program::start(&["serve", "--listen", "127.0.0.1:0", "--redis", &redis.url()], &[]).await
}

async fn echo(redis: &RedisServer) -> Program {
    Program::start(&["worker", "echo", "--redis", &redis.url()], &[]).await
}

async fn open(server: &Program) -> Socket {
    let url = format!("ws://{}/", server.address());
    within(DEADLINE, "the handshake", connect_async(url)).await.unwrap().0
}

async fn next(socket: &mut Socket) -> Frame {
    within(DEADLINE, "a frame", socket.next()).await.unwrap().unwrap()
}

async fn get(server: &Program, path: &str) -> String {
    let mut client = Client::connect(server.address()).await;
    client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")).await;
    client.rest().await
}

#[tokio::test]
async fn a_server_and_a_worker_serve_clients_together() {
    let redis = RedisServer::start();
    let (mut server, mut worker) = (serve(&redis).await, echo(&redis).await);
    let mut socket = open(&server).await;
    for frame in [Frame::text("hello"), Frame::binary(&b"\x00\xff"[..])] {
        socket.send(frame.clone()).await.unwrap();
        assert_eq!(next(&mut socket).await, frame);
    }
    let answer = get(&server, "/caf%C3%A9").await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("GET /café over HTTP/1.1\n"), "{answer}");

    server.signal("TERM").await;
    let Frame::Close(Some(close)) = next(&mut socket).await else { panic!("no close frame") };
    assert_eq!(u16::from(close.code), 1001);
    assert!(server.ends().await.success());
    worker.signal("TERM").await;
    assert!(worker.ends().await.success());
}

#[tokio::test]
async fn options_come_from_the_environment_too() {
    let redis = RedisServer::start();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("site.sock");
    let listen = format!("127.0.0.1:0,unix:{}", path.display());
    let variables = [
        ("CHANNEL_LAYER_HOSTS", &*redis.url()),
        ("CHANNEL_SERVER_LISTEN", &listen),
        ("CHANNEL_SERVER_CHAT", "true"),
        ("CHANNEL_SERVER_ROOT_PATH", "/chat"),
    ]
    .map(|(name, value)| (name, value.to_owned()));
    let variables: Vec<_> = variables.iter().map(|(name, value)| (*name, &**value)).collect();
    let server = Program::start(&["serve"], &variables).await;
    assert!(server.line.ends_with(&format!(", unix:{}", path.display())), "{}", server.line);
    let mut client = Client::over(tokio::net::UnixStream::connect(&path).await.unwrap());
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(client.until("</html>").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_second_signal_ends_the_program_immediately() {
    let redis = RedisServer::start();
    let (mut server, _worker) = (serve(&redis).await, echo(&redis).await);
    // The server waits for a client that does not answer the close frame.
    let _socket = open(&server).await;
    server.signal("INT").await;
    eventually("a closed port", async || TcpStream::connect(server.address()).await.is_err().then_some(())).await;
    server.signal("INT").await;
    assert_eq!(server.ends().await.code(), Some(130));
}

#[tokio::test]
async fn a_killed_worker_loses_at_most_one_message() {
    let redis = RedisServer::start();
    let (server, mut worker) = (serve(&redis).await, echo(&redis).await);
    let mut socket = open(&server).await;
    worker.signal("STOP").await;
    socket.send(Frame::text("in flight")).await.unwrap();
    worker.kill().await;
    let _next = echo(&redis).await;
    for text in ["0", "1", "2"] {
        socket.send(Frame::text(text)).await.unwrap();
    }
    let mut echoed = Vec::new();
    while echoed.last() != Some(&Frame::text("2")) {
        echoed.push(next(&mut socket).await);
    }
    // The read of the killed worker took the first message, or the next one if it still waited in Redis.
    let sent = ["in flight", "0", "1", "2"].map(Frame::text);
    let lost: Vec<_> = sent.iter().filter(|frame| !echoed.contains(frame)).collect();
    assert!(lost.len() <= 1, "lost: {lost:?}");
    assert!(get(&server, "/").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn clients_of_a_killed_server_connect_to_the_next_one() {
    let redis = RedisServer::start();
    let (mut server, _worker) = (serve(&redis).await, echo(&redis).await);
    let mut socket = open(&server).await;
    server.kill().await;
    assert!(within(DEADLINE, "the end", socket.next()).await.is_none_or(|frame| frame.is_err()));
    let server = serve(&redis).await;
    let mut socket = open(&server).await;
    socket.send(Frame::text("again")).await.unwrap();
    assert_eq!(next(&mut socket).await, Frame::text("again"));
}

#[tokio::test]
async fn sockets_stay_open_after_a_loss_of_data_if_configured() {
    let mut redis = RedisServer::start();
    let arguments = ["serve", "--listen", "127.0.0.1:0", "--redis", &redis.url(), "--on-data-loss", "stay"];
    let (server, _worker) = (Program::start(&arguments, &[]).await, echo(&redis).await);
    let mut socket = open(&server).await;
    redis.restart();
    eventually("an answer through the new server", async || {
        get(&server, "/").await.starts_with("HTTP/1.1 200").then_some(())
    })
    .await;
    // Long enough for a close frame to arrive.
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    socket.send(Frame::text("still here")).await.unwrap();
    assert_eq!(next(&mut socket).await, Frame::text("still here"));
}

#[tokio::test]
async fn without_redis_clients_get_503_and_can_reconnect_later() {
    let mut redis = RedisServer::start();
    let (server, _worker) = (serve(&redis).await, echo(&redis).await);
    let mut socket = open(&server).await;
    redis.stop();
    let refused = within(DEADLINE, "an answer", connect_async(format!("ws://{}/", server.address()))).await;
    assert!(refused.unwrap_err().to_string().contains("503"));
    assert!(get(&server, "/").await.starts_with("HTTP/1.1 503"));
    redis.start_again();
    let Frame::Close(Some(close)) = next(&mut socket).await else { panic!("no close frame") };
    assert_eq!(u16::from(close.code), 1012);
    eventually("an echo", async || {
        let mut socket = connect_async(format!("ws://{}/", server.address())).await.ok()?.0;
        socket.send(Frame::text("again")).await.ok()?;
        let echoed = socket.next().await?.ok()?;
        (echoed == Frame::text("again")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn handshakes_that_failed_without_redis_release_their_permits() {
    let mut redis = RedisServer::start();
    let url = redis.url();
    let arguments =
        ["serve", "--listen", "127.0.0.1:0", "--redis", &url, "--max-connections", "3", "--on-data-loss", "stay"];
    let (server, _worker) = (Program::start(&arguments, &[]).await, echo(&redis).await);
    let mut socket = open(&server).await;
    socket.send(Frame::text("hello")).await.unwrap();
    assert_eq!(next(&mut socket).await, Frame::text("hello"));
    drop(socket);
    redis.stop();
    for _ in 0..5 {
        let refused = within(DEADLINE, "an answer", connect_async(format!("ws://{}/", server.address()))).await;
        assert!(refused.unwrap_err().to_string().contains("503"));
    }
    redis.start_again();
    let mut sockets = Vec::new();
    while sockets.len() < 3 {
        let opened = eventually("room for another socket", async || {
            connect_async(format!("ws://{}/", server.address())).await.ok()
        });
        sockets.push(opened.await.0);
    }
}
