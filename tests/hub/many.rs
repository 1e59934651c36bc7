//! Ten thousand sockets at once. Their clients are in a process of their own: one process may not have as many files open
//! as both sides need.

use std::env;
use std::net::SocketAddr;
use std::process::Stdio;

use futures_util::stream::{self, StreamExt};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use super::App;
use crate::support::eventually;

const SOCKETS: usize = 10_000;

/// Handshakes at the same time.
const OPENING: usize = 64;

/// Where the clients find the server; set for the process of the clients alone.
const SERVER: &str = "CHANNEL_LAYER_TEST_SERVER";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_sockets_are_there_at_once_and_all_are_reached() {
    let app = App::start().await;
    let clients = Command::new(env::current_exe().unwrap())
        .args(["--exact", "hub::many::the_clients_when_they_are_asked_for"])
        .env(SERVER, app.address.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    // Longer than other things take: this is most of the work of the test.
    let mut before = 0;
    while app.hub.count("lobby") < SOCKETS {
        let now = app.hub.count("lobby");
        assert!(before <= now, "clients have left");
        before = eventually("another client", async || {
            let count = app.hub.count("lobby");
            (count > now || count == SOCKETS).then_some(count)
        })
        .await;
    }
    assert_eq!(app.hub.status().connections, SOCKETS);
    assert_eq!(app.hub.broadcast("lobby", "hello").await.unwrap(), SOCKETS);
    let ended = clients.wait_with_output().await.unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stdout));
    app.is_empty().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_clients_when_they_are_asked_for() {
    // In the process of the tests themselves nobody asks.
    let Ok(server) = env::var(SERVER) else { return };
    let server: SocketAddr = server.parse().unwrap();
    let sockets: Vec<_> = stream::iter(0..SOCKETS).map(|_| enter(server)).buffer_unordered(OPENING).collect().await;
    for mut socket in sockets {
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("hello"));
    }
}

async fn enter(server: SocketAddr) -> WebSocketStream<TcpStream> {
    let stream = TcpStream::connect(server).await.unwrap();
    let config = WebSocketConfig::default().read_buffer_size(1024);
    client_async_with_config(format!("ws://{server}/lobby"), stream, Some(config)).await.unwrap().0
}
