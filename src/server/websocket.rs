//! The protocol of one open socket: frames in, replies out, pings, and its end.
//!
//! One task holds the socket. Reading and writing go on beside each other in it, so that a client that does not read
//! is still heard, and a frame that waits for room on its channel holds up nothing but the frames after it.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket};
use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};

use super::asgi::{Data, Reply, code};
use super::heartbeat::{Beat, Heartbeat, LONGEST};
use super::queue::{Ending, Queue};
use super::session::Session;
use super::settings::Settings;
use crate::drops::{self, DropReason};
use crate::error::Error;

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The client sent a close frame.
    Client(u16),
    /// This side closes with a code.
    Server(u16),
    /// This side closes, and the client is not likely to read it.
    Unread(u16),
    /// The connection broke.
    Lost,
}

impl End {
    /// What the application hears.
    fn code(self) -> u16 {
        match self {
            Self::Client(code) | Self::Server(code) | Self::Unread(code) => code,
            Self::Lost => code::ABNORMAL,
        }
    }
}

impl From<Ending> for End {
    fn from(ending: Ending) -> Self {
        if ending.at_once { Self::Unread(ending.code) } else { Self::Server(ending.code) }
    }
}

const TOO_SLOW: End = End::Unread(code::TRY_AGAIN_LATER);

/// How long a client that does not read may take for the close frame.
const LAST_WORD: Duration = Duration::from_secs(1);

/// What the reading and the writing side tell each other.
#[derive(Debug, Default)]
struct Signs {
    /// Something came from the client since this was last looked at.
    heard: AtomicBool,
    /// A close frame was sent; what still comes is not for the application.
    closing: AtomicBool,
    /// A ping came, and its pong waits to be written.
    pinged: Notify,
    /// What waited to be written has been.
    ponged: Notify,
}

/// Serves an open socket until its end. `first` is the reply that accepted it.
pub(crate) async fn run(socket: WebSocket, mut session: Session, first: Reply) {
    let settings = session.shared().settings;
    let group_expiry = session.shared().layer.group_expiry();
    let (sink, mut frames) = socket.split();
    let mut writer = Writer {
        sink,
        queue: session.queue().clone(),
        batch: VecDeque::from([first]),
        heartbeat: Heartbeat::new(Instant::now(), session.begun() + group_expiry.min(LONGEST), &settings),
        settings,
    };
    let signs = Signs::default();

    let end = {
        let mut reading = pin!(read(&mut frames, &mut session, &signs));
        let mut writing = pin!(writer.run(&signs));
        tokio::select! {
            end = &mut reading => end,
            end = &mut writing => {
                if let End::Server(_) = end {
                    // A frame on its way to the application gets there, and the client has time to answer the close.
                    let _ = timeout(settings.close_timeout, reading).await;
                }
                end
            }
        }
    };
    session.set_code(end.code());
    drops::count(DropReason::ClientGone, writer.batch.len());
    if !signs.closing.load(Ordering::Relaxed) {
        writer.finish(end, &mut frames).await;
    }
    tracing::debug!(?end, "a socket closed");
}

/// Passes frames to the application until the client closes, the connection breaks, or the application cannot be
/// reached.
async fn read(frames: &mut SplitStream<WebSocket>, session: &mut Session, signs: &Signs) -> End {
    loop {
        let frame = frames.next().await;
        signs.heard.store(true, Ordering::Relaxed);
        let data = match frame {
            Some(Ok(Message::Text(text))) => Data::Text(text),
            Some(Ok(Message::Binary(bytes))) => Data::Binary(bytes),
            Some(Ok(Message::Ping(_))) => {
                // The pong is in the write buffer, which has no limit. A client that pings and does not read would
                // fill it.
                if !signs.closing.load(Ordering::Relaxed) {
                    signs.pinged.notify_one();
                    signs.ponged.notified().await;
                }
                continue;
            }
            Some(Ok(Message::Pong(_))) => continue,
            Some(Ok(Message::Close(frame))) => return End::Client(frame.map_or(code::NONE, |frame| frame.code)),
            Some(Err(error)) => return fault(error),
            None => return End::Lost,
        };
        if signs.closing.load(Ordering::Relaxed) {
            continue;
        }
        if let Err(error) = session.receive(data).await {
            tracing::debug!(%error, "a frame cannot be passed on");
            return End::Server(refusal(&error));
        }
    }
}

/// The close code for a frame that could not be passed on.
fn refusal(error: &Error) -> u16 {
    match error {
        Error::MessageTooLarge { .. } => code::TOO_LARGE,
        Error::ChannelFull { .. } | Error::Redis { .. } => code::TRY_AGAIN_LATER,
        Error::Closed => code::GOING_AWAY,
        _ => code::INTERNAL_ERROR,
    }
}

/// What a client did wrong, or that its connection broke.
fn fault(error: axum::Error) -> End {
    use tungstenite::Error as Fault;
    match error.into_inner().downcast::<Fault>().as_deref() {
        Ok(Fault::Capacity(_)) => End::Server(code::TOO_LARGE),
        Ok(Fault::Utf8(_)) => End::Server(code::INVALID_TEXT),
        Ok(Fault::Protocol(tungstenite::error::ProtocolError::ResetWithoutClosingHandshake)) => End::Lost,
        Ok(Fault::Protocol(_)) => End::Server(code::PROTOCOL_ERROR),
        _ => End::Lost,
    }
}

struct Writer {
    sink: SplitSink<WebSocket, Message>,
    queue: Arc<Queue>,
    /// Taken from the queue and not written yet.
    batch: VecDeque<Reply>,
    heartbeat: Heartbeat,
    settings: Settings,
}

impl Writer {
    /// Writes replies and pings until the connection has to end; then says goodbye if somebody may hear it.
    async fn run(&mut self, signs: &Signs) -> End {
        let Err(end) = self.write(signs).await;
        if end != End::Lost {
            signs.closing.store(true, Ordering::Relaxed);
            signs.ponged.notify_one();
            self.close(end).await;
        }
        end
    }

    async fn write(&mut self, signs: &Signs) -> Result<Infallible, End> {
        let mut due = pin!(sleep_until(self.heartbeat.next()));
        loop {
            self.write_batch().await?;
            tokio::select! {
                taken = self.queue.take(&mut self.batch) => taken.map_err(End::from)?,
                () = signs.pinged.notified() => {
                    self.write_batch().await?;
                    signs.ponged.notify_one();
                }
                () = &mut due => {
                    let heard = signs.heard.swap(false, Ordering::Relaxed);
                    match self.heartbeat.beat(Instant::now(), heard) {
                        Beat::Wait => {}
                        Beat::Ping => self.send(Message::Ping(Bytes::new())).await?,
                        Beat::Silent => return Err(End::Lost),
                        Beat::Expired => return Err(End::Server(code::GOING_AWAY)),
                    }
                    due.as_mut().reset(self.heartbeat.next());
                }
            }
        }
    }

    /// Writes what waits, in one flush, unless the client does not take it in time.
    async fn write_batch(&mut self) -> Result<(), End> {
        let Self { sink, queue, batch, settings, .. } = self;
        let written = async {
            while let Some(reply) = batch.pop_front() {
                if let Some(data) = reply.data {
                    sink.feed(frame(data)).await.map_err(|_| End::Lost)?;
                }
                if let Some(code) = reply.close {
                    return Err(End::Server(code));
                }
            }
            sink.flush().await.map_err(|_| End::Lost)
        };
        tokio::select! {
            written = timeout(settings.write_timeout, written) => written.unwrap_or(Err(TOO_SLOW)),
            ending = queue.overflowed() => Err(ending.into()),
        }
    }

    async fn send(&mut self, message: Message) -> Result<(), End> {
        match timeout(self.settings.write_timeout, self.sink.send(message)).await {
            Ok(sent) => sent.map_err(|_| End::Lost),
            Err(_elapsed) => Err(TOO_SLOW),
        }
    }

    /// Sends the close frame of this side, if `end` has one.
    async fn close(&mut self, end: End) {
        let (code, patience) = match end {
            End::Server(code) => (code, self.settings.write_timeout),
            End::Unread(code) => (code, LAST_WORD),
            End::Client(_) | End::Lost => return,
        };
        let frame = CloseFrame { code, reason: Utf8Bytes::default() };
        // The connection is given up whether or not this arrives.
        let _ = timeout(patience, self.sink.send(Message::Close(Some(frame)))).await;
    }

    /// Ends a connection whose reading side came to its end first: the closing handshake is completed, for a moment.
    async fn finish(&mut self, end: End, frames: &mut SplitStream<WebSocket>) {
        if end == End::Lost {
            return;
        }
        self.close(end).await;
        // Reading on also writes the answer to a close frame of the client.
        let rest = async { while let Some(Ok(_)) = frames.next().await {} };
        let _ = timeout(self.settings.close_timeout, rest).await;
    }
}

/// Shared with all other sockets that get the same text or bytes.
fn frame(data: Data) -> Message {
    match data {
        Data::Text(text) => Message::Text(text),
        Data::Binary(bytes) => Message::Binary(bytes),
    }
}
