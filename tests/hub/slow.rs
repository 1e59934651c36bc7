//! Clients that do not read: memory stays bounded, and no other client waits for them.

use std::sync::Arc;

use channel_layer::hub::Payload;
use channel_layer::server::{SlowConsumer, SocketOptions};
use channel_layer::{Hub, MemoryLayer};
use tokio::net::TcpSocket;

use super::{App, hears, hears_until};
use crate::support::{DEADLINE, eventually, needs_files, scaled, within};

/// Small enough that the socket buffers do not take the messages that a client does not read.
const SMALL: u32 = 4 * 1024;

/// Memory of a large message if each of many clients had its own copy.
const COPIES: usize = 1_000 * 1024 * 1024;

fn kilobytes(count: usize) -> Payload {
    vec![7; count * 1024].into()
}

#[tokio::test]
async fn a_client_that_does_not_read_is_closed_and_delays_no_other() {
    let app = App::start().await;
    let ((_slow, slow), (mut quick, _)) = (app.enter("lobby").await, app.enter("cellar").await);
    let end = tokio::time::Instant::now() + DEADLINE;
    while app.closes() == 0 {
        assert!(tokio::time::Instant::now() < end, "the client is never closed");
        let _ = slow.send(kilobytes(256));
        app.hub.broadcast("cellar", "still here").await.unwrap();
        assert_eq!(hears(&mut quick).await, "still here");
        let queues = app.hub.status().queues;
        assert!(queues.bytes <= 1024 * 1024 + 256 * 1024, "{queues:?}");
    }
    assert_eq!(app.closed(&slow).await.code, 1013);
}

#[tokio::test]
async fn a_slow_client_may_miss_the_oldest_or_the_newest_messages_instead() {
    for (policy, last) in [(SlowConsumer::DropOldest, true), (SlowConsumer::DropNewest, false)] {
        let app = App::with_options(SocketOptions::new().slow_consumer(policy).queue(10, 1024 * 1024)).await;
        let (mut socket, client) = app.enter("lobby").await;
        // More than the socket buffers take: queued messages stay queued until the client reads.
        for _ in 0..100 {
            client.send(kilobytes(100)).unwrap();
        }
        while app.hub.status().queues.messages < 10 {
            client.send(kilobytes(100)).unwrap();
        }
        let queues = app.hub.status().queues;
        assert!(queues.longest <= 10 && queues.bytes <= 1024 * 1024, "{queues:?}");
        client.send("the last").unwrap();
        let reading = async {
            loop {
                match futures_util::StreamExt::next(&mut socket).await.unwrap().unwrap() {
                    message if message.is_text() => return message.into_text().unwrap().to_string(),
                    _ => {}
                }
            }
        };
        let reader = tokio::spawn({
            let hub = app.hub.clone();
            async move {
                while hub.status().queues.messages > 0 {
                    tokio::task::yield_now().await;
                }
                client.send("the end").unwrap();
            }
        });
        let heard = within(DEADLINE, "the last messages", reading).await;
        assert_eq!(heard == "the last", last, "{policy:?}: {heard}");
        reader.await.unwrap();
    }
}

#[tokio::test]
async fn a_large_message_to_many_slow_clients_is_in_memory_once() {
    let clients = scaled(1_000);
    // Copies would multiply the memory by the number of clients.
    let size = COPIES / clients;
    needs_files(2 * clients);
    let listener = TcpSocket::new_v4().unwrap();
    listener.set_send_buffer_size(SMALL).unwrap();
    listener.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let hub = Hub::builder(Arc::new(MemoryLayer::new()));
    let app = App::listening(hub, listener.listen(1_024).unwrap()).await;
    let mut sockets = Vec::new();
    for _ in 0..clients {
        let stream = TcpSocket::new_v4().unwrap();
        stream.set_recv_buffer_size(SMALL).unwrap();
        let stream = stream.connect(app.address).await.unwrap();
        let (socket, _) = tokio_tungstenite::client_async(format!("ws://{}/lobby", app.address), stream).await.unwrap();
        sockets.push(socket);
    }
    for _ in 0..clients {
        app.enters().await;
    }
    let before = resident();
    assert_eq!(app.hub.broadcast("lobby", vec![7; size]).await.unwrap(), clients);
    // Every socket has filled its buffers, and holds the rest of the message.
    eventually("empty queues", async || (app.hub.status().queues.messages == 0).then_some(())).await;
    let held = resident().saturating_sub(before);
    eprintln!("{size} bytes for {clients} clients that do not read take {} MiB", held >> 20);
    assert!(held < COPIES / 5, "{held} bytes: a copy for each client is {COPIES}");
    for socket in &mut sockets[..10] {
        let message = within(DEADLINE, "the message", futures_util::StreamExt::next(socket)).await;
        assert_eq!(message.unwrap().unwrap().into_data(), vec![7; size]);
    }
}

/// Returns the resident memory of this process, in bytes.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[tokio::test]
async fn queued_messages_arrive_when_a_slow_client_reads_again() {
    let app = App::start().await;
    let (mut socket, client) = app.enter("lobby").await;
    for number in 0..900 {
        client.send(format!("{number}")).unwrap();
    }
    client.send("end").unwrap();
    let heard = hears_until(&mut socket, "end").await;
    assert!(heard.iter().map(String::as_str).eq((0..900).map(|number| number.to_string()).collect::<Vec<_>>()));
}
