//! A panic in a shared task costs one message, request or connection.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::layer::Event;
use crate::server::asgi::connections::Connections;
use crate::server::hub::tests::faulty;
use crate::server::interface::tests::*;
use crate::server::status::gauges;
use crate::supervise::trap::{arm, is_armed};

async fn sprung() {
    within(async {
        while is_armed() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// Returns the whole response to a request.
async fn get(server: &Running, path: &str) -> String {
    let mut stream = TcpStream::connect(&server.address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    // The server may have closed the connection already.
    let _ = stream.write_all(request.as_bytes()).await;
    let mut response = String::new();
    let _ = within(stream.read_to_string(&mut response)).await;
    response
}

async fn answered(server: &Running) -> String {
    let answering = async {
        let channel = server.next("http.request").await.text("reply_channel").unwrap().to_owned();
        server.send(&channel, message! { "status": 200, "content": b"fine" }).await;
    };
    tokio::join!(get(server, "/"), answering).0
}

#[tokio::test]
async fn in_the_dispatch_of_replies() {
    let server = Running::start().await;
    let (mut socket, reply_channel) = server.accepted().await;
    arm("dispatch of replies");
    for text in ["lost", "comes"] {
        server.send(&reply_channel, message! { "text": text }).await;
    }
    assert_eq!(within(socket.next()).await.unwrap().unwrap(), Frame::text("comes"));
    assert!(!is_armed());
}

#[tokio::test]
async fn in_the_dispatch_of_responses() {
    let server = Running::start().await;
    arm("dispatch of responses");
    assert!(answered(&server).await.starts_with("HTTP/1.1 502"));
    assert!(answered(&server).await.ends_with("fine"));
}

#[tokio::test]
async fn in_the_acceptor() {
    let server = Running::start().await;
    arm("acceptor");
    assert_eq!(get(&server, "/").await, "");
    assert!(answered(&server).await.ends_with("fine"));
}

#[tokio::test]
async fn in_what_the_status_page_shows() {
    let layer = faulty();
    let server = Running::on(layer.clone(), |server| server.status_page(true)).await;
    for _ in 0..2 {
        arm("history of the status page");
        sprung().await;
        arm("layer of the status page");
        assert!(get(&server, "/status").await.starts_with("HTTP/1.1 200"));
        sprung().await;
        arm("events of the status page");
        layer.emit(Event::ShardUp { shard: 0 });
        sprung().await;
    }
}

#[tokio::test(start_paused = true)]
async fn in_the_gauges() {
    let gauging = tokio::spawn(gauges::update(Connections::new(SocketOptions::default()).unwrap()));
    for _ in 0..2 {
        arm("gauges");
        sprung().await;
    }
    assert!(!gauging.is_finished());
}
