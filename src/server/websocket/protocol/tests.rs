//! One socket over a pipe with a small buffer, and a client that reads at its own rate. Time is paused.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::time::{Instant, sleep, timeout};

use crate::server::websocket::frame::Frame;
use crate::server::websocket::protocol::*;

/// First bytes of the frames of the server.
const TEXT: u8 = 0x81;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;
const PONG: u8 = 0x8a;

/// An empty ping or pong of the client, masked with zeros.
fn empty(first: u8) -> [u8; 6] {
    [first, 0x80, 0, 0, 0, 0]
}

const SECOND: Duration = Duration::from_secs(1);

/// Ignores all messages.
struct IgnoreMessages;

impl MessageHandler for IgnoreMessages {
    async fn receive(&mut self, _: Data) -> Result<(), Closing> {
        Ok(())
    }
}

fn options() -> SocketOptions {
    SocketOptions::new().queue(10_000, 10_000_000)
}

/// Returns a socket with `frames` frames of `size` bytes in its queue, and the stream of its client.
fn start(frames: usize, size: usize, lifetime: Duration) -> (impl Future<Output = End>, DuplexStream) {
    let (server, client) = duplex(16);
    let queue = Queue::new(&options());
    for _ in 0..frames {
        queue.push(Reply::of(Frame::from(Data::Text("x".repeat(size).into())), None));
    }
    let expires = Instant::now() + lifetime;
    let running = async move { run(server, &mut IgnoreMessages, &queue, &options(), expires, Reply::default()).await };
    (running, client)
}

/// Reads frames at `bytes` bytes per second, answers pings if `answers` is set, and returns the first bytes of the
/// frames.
async fn trickle(client: &mut DuplexStream, bytes: u32, answers: bool) -> Vec<u8> {
    let mut seen = Vec::new();
    loop {
        let mut head = [0; 2];
        if client.read_exact(&mut head).await.is_err() {
            return seen;
        }
        seen.push(head[0]);
        let length = match head[1] {
            126 => client.read_u16().await.unwrap_or_default().into(),
            127 => client.read_u64().await.unwrap_or_default(),
            length => length.into(),
        };
        if answers && head[0] == PING {
            client.write_all(&empty(PONG)).await.unwrap();
        }
        for _ in 0..length {
            if client.read_u8().await.is_err() {
                return seen;
            }
            sleep(SECOND / bytes).await;
        }
    }
}

async fn within<T>(seconds: u64, future: impl Future<Output = T>) -> T {
    timeout(SECOND * u32::try_from(seconds).unwrap(), future).await.expect("the future completes in time")
}

#[tokio::test(start_paused = true)]
async fn a_socket_expires_however_slowly_its_client_reads() {
    // Reading one batch takes 16 s, and one frame half a second.
    let (running, mut client) = start(1_000, 200, 60 * SECOND);
    let (end, seen) = within(62, async { tokio::join!(running, trickle(&mut client, 400, true)) }).await;
    assert_eq!(end, End::Unread(Closing { code: 1001, reason: "the session is over" }));
    let (frames, last) = seen.split_at(seen.len() - 1);
    assert_eq!(last, [CLOSE], "after a whole frame");
    assert!(frames.len() > 20 && frames.iter().all(|first| matches!(*first, TEXT | PING)), "{frames:?}");
}

#[tokio::test(start_paused = true)]
async fn a_slow_client_is_pinged_and_has_to_answer() {
    for answers in [true, false] {
        let (running, mut client) = start(1_000, 100, 100 * SECOND);
        let started = Instant::now();
        let (end, seen) = within(120, async { tokio::join!(running, trickle(&mut client, 50, answers)) }).await;
        let pings = seen.split(|first| *first == PING).count() - 1;
        if answers {
            assert_eq!((end.code(), started.elapsed() > 99 * SECOND), (1001, true));
            assert!((3..=4).contains(&pings), "{pings}");
        } else {
            assert_eq!((end, pings), (End::Lost, 1));
            assert!(started.elapsed() < 40 * SECOND, "{:?}", started.elapsed());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_client_gets_a_large_message_whole() {
    let (running, mut client) = start(1, 100_000, 100 * SECOND);
    let (end, seen) = within(120, async { tokio::join!(running, trickle(&mut client, 2_000, true)) }).await;
    assert_eq!(end.code(), 1001);
    assert_eq!(&seen[..2], [TEXT, PING], "the ping waits for the end of the message");
}

#[tokio::test(start_paused = true)]
async fn the_ping_of_a_slow_client_is_answered_between_two_frames() {
    let (running, mut client) = start(1_000, 100, 30 * SECOND);
    client.write_all(&empty(PING)).await.unwrap();
    let (_, seen) = within(35, async { tokio::join!(running, trickle(&mut client, 50, true)) }).await;
    assert!(seen[..3].contains(&PONG), "{seen:?}");
}
