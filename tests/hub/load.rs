//! Many clients that connect and disconnect.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use channel_layer::{Hub, MemoryLayer};
use tokio::net::TcpListener;
use tokio_tungstenite::client_async;

use super::App;
use crate::support::{eventually, scaled};

/// Number of clients if the heavy tests are enabled.
const CONNECTS: usize = 20_000;

/// Number of clients connected at the same time.
const AT_ONCE: usize = 64;

const ROOMS: usize = 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_come_and_go_leave_nothing_behind() {
    // Clients use several addresses, because each has some 28,000 ports, which rest for a minute after use.
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let app = App::listening(Hub::builder(Arc::new(MemoryLayer::new())), listener).await;
    let connects = scaled(CONNECTS);
    let (next, over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let broadcasting = tokio::spawn({
        let (hub, over) = (app.hub.clone(), over.clone());
        async move {
            let mut number = 0;
            while !over.load(Ordering::Relaxed) {
                number += 1;
                hub.broadcast(&format!("room{}", number % ROOMS), "to a room").await.unwrap();
                hub.broadcast_all("to all").await.unwrap();
                // Lets another task run.
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
        }
    });
    let coming = (0..AT_ONCE).map(|_| {
        let (next, hub, port) = (next.clone(), app.hub.clone(), app.address.port());
        tokio::spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= connects {
                    return;
                }
                come_and_go(number, port, &hub).await;
            }
        })
    });
    for coming in coming.collect::<Vec<_>>() {
        coming.await.unwrap();
    }
    over.store(true, Ordering::Relaxed);
    broadcasting.await.unwrap();
    app.is_empty().await;
    // A handler is called after its client has been removed from everything.
    eventually("the disconnect of each client", async || (app.closes() >= connects).then_some(())).await;
    assert_eq!(app.closes(), connects, "each client is reported as closed once");
}

/// Connects a client and ends it in one of four ways: with a close frame, after a message, with a message under way, or
/// at once.
async fn come_and_go(number: usize, port: u16, hub: &Hub) {
    let host = [127, 0, 0, u8::try_from(1 + number % 100).unwrap()];
    let stream = tokio::net::TcpStream::connect((std::net::Ipv4Addr::from(host), port)).await.unwrap();
    let room = format!("room{}", number % ROOMS);
    let (mut socket, _) = client_async(format!("ws://localhost/{room}"), stream).await.unwrap();
    match number % 4 {
        // On a slow machine the server may have closed the client already.
        0 => drop(socket.close(None).await),
        1 => {
            let _ = futures_util::SinkExt::send(&mut socket, "hello".into()).await;
        }
        2 => {
            if let Some(member) = hub.members(&room).first() {
                let _ = hub.send_to(member, "to you").await;
            }
        }
        _ => {}
    }
}
