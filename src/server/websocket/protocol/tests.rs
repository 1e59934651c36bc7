//! One socket over a pipe that holds a few bytes, and a client that reads at a pace of its own. Time is paused.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::time::{Instant, sleep, timeout};

use crate::server::websocket::frame::Frame;
use crate::server::websocket::protocol::*;

/// What frames of the server begin with.
const TEXT: u8 = 0x81;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;
const PONG: u8 = 0x8a;

/// A ping or pong of the client without content, masked with zeros.
fn empty(first: u8) -> [u8; 6] {
    [first, 0x80, 0, 0, 0, 0]
}

const SECOND: Duration = Duration::from_secs(1);

/// Makes nothing of what comes.
struct Deaf;

impl Inbox for Deaf {
    async fn receive(&mut self, _: Data) -> Result<(), Closing> {
        Ok(())
    }
}

fn options() -> SocketOptions {
    SocketOptions::new().queue(10_000, 10_000_000)
}

/// A socket with so many frames of so many bytes to write, and the stream of its client.
fn start(frames: usize, size: usize, lifetime: Duration) -> (impl Future<Output = End>, DuplexStream) {
    let (server, client) = duplex(16);
    let queue = Queue::new(&options());
    for _ in 0..frames {
        queue.push(Reply::of(Frame::from(Data::Text("x".repeat(size).into())), None));
    }
    let expires = Instant::now() + lifetime;
    let running = async move { run(server, &mut Deaf, &queue, &options(), expires, Reply::default()).await };
    (running, client)
}

/// Reads frames, so many bytes a second, answers pings if it is to, and gives their first bytes.
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
    timeout(SECOND * u32::try_from(seconds).unwrap(), future).await.expect("it ends in time")
}

#[tokio::test(start_paused = true)]
async fn a_socket_ends_when_it_expires_however_slowly_its_client_reads() {
    // It takes 16 s for what is written at once, and half a second for each frame.
    let (running, mut client) = start(1_000, 200, 60 * SECOND);
    let (end, seen) = within(62, async { tokio::join!(running, trickle(&mut client, 400, true)) }).await;
    assert_eq!(end, End::Unread(Closing { code: 1001, reason: "the session is over" }));
    let (frames, last) = seen.split_at(seen.len() - 1);
    assert_eq!(last, [CLOSE], "after a whole frame");
    assert!(frames.len() > 20 && frames.iter().all(|first| matches!(*first, TEXT | PING)), "{frames:?}");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_a_trickle_is_pinged_and_has_to_answer() {
    for answers in [true, false] {
        let (running, mut client) = start(1_000, 100, 100 * SECOND);
        let begun = Instant::now();
        let (end, seen) = within(120, async { tokio::join!(running, trickle(&mut client, 50, answers)) }).await;
        let pings = seen.split(|first| *first == PING).count() - 1;
        if answers {
            assert_eq!((end.code(), begun.elapsed() > 99 * SECOND), (1001, true));
            assert!((3..=4).contains(&pings), "{pings}");
        } else {
            assert_eq!((end, pings), (End::Lost, 1));
            assert!(begun.elapsed() < 40 * SECOND, "{:?}", begun.elapsed());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_on_a_slow_line_gets_a_large_message_whole() {
    let (running, mut client) = start(1, 100_000, 100 * SECOND);
    let (end, seen) = within(120, async { tokio::join!(running, trickle(&mut client, 2_000, true)) }).await;
    assert_eq!(end.code(), 1001);
    assert_eq!(&seen[..2], [TEXT, PING], "the ping waits for the end of the message");
}

#[tokio::test(start_paused = true)]
async fn the_ping_of_a_client_that_reads_a_trickle_is_answered_between_two_frames() {
    let (running, mut client) = start(1_000, 100, 30 * SECOND);
    client.write_all(&empty(PING)).await.unwrap();
    let (_, seen) = within(35, async { tokio::join!(running, trickle(&mut client, 50, true)) }).await;
    assert!(seen[..3].contains(&PONG), "{seen:?}");
}
