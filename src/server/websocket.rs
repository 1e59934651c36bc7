//! The protocol of one open socket: frames in, replies out, pings, and its end.
//!
//! One task holds the socket. Reading and writing go on beside each other in it, so that a client that does not read
//! is still heard, and a frame that waits for room on its channel holds up nothing but the frames after it.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};
use tungstenite::error::{Error as Fault, ProtocolError};
use tungstenite::{Message, Utf8Bytes};

use super::asgi::{Reply, code};
use super::frame::Data;
use super::heartbeat::{Beat, Heartbeat};
use super::limits::TooFast;
use super::lost::{self, Lost};
use super::options::SocketOptions;
use super::queue::{Ending, Queue};
use super::socket::{ReadFault, Socket};
use crate::drops;

/// Who gets what a client sends.
pub(crate) trait Inbox: Send {
    /// The socket is open.
    ///
    /// # Errors
    ///
    /// What it is closed with.
    fn opened(&mut self) -> impl Future<Output = Result<(), Closing>> + Send {
        async { Ok(()) }
    }

    /// Passes a message on. The next one is read when it is done.
    ///
    /// # Errors
    ///
    /// What the socket is closed with.
    fn receive(&mut self, data: Data) -> impl Future<Output = Result<(), Closing>> + Send;
}

/// What this side closes a socket with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Closing {
    pub(crate) code: u16,
    pub(crate) reason: &'static str,
}

/// How a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The client sent a close frame.
    Client(u16, Utf8Bytes),
    /// This side closes.
    Server(Closing),
    /// This side closes, and does not understand what the client sends.
    Fault(Closing),
    /// This side closes, and the client is not likely to read it.
    Unread(Closing),
    /// The connection broke.
    Lost,
}

impl End {
    /// What the application hears.
    pub(crate) fn code(&self) -> u16 {
        match self {
            Self::Client(code, _) => *code,
            Self::Server(closing) | Self::Fault(closing) | Self::Unread(closing) => closing.code,
            Self::Lost => code::ABNORMAL,
        }
    }
}

impl End {
    pub(crate) fn reason(&self) -> String {
        match self {
            Self::Client(_, reason) => reason.to_string(),
            Self::Server(closing) | Self::Fault(closing) | Self::Unread(closing) => closing.reason.to_owned(),
            Self::Lost => String::new(),
        }
    }
}

impl From<Ending> for End {
    fn from(Ending { code, reason, at_once }: Ending) -> Self {
        let closing = Closing { code, reason };
        if at_once { Self::Unread(closing) } else { Self::Server(closing) }
    }
}

fn server(code: u16, reason: &'static str) -> End {
    End::Server(Closing { code, reason })
}

const TOO_SLOW: End = End::Unread(Closing { code: code::TRY_AGAIN_LATER, reason: "too slow" });

/// How long a client that does not read may take for the close frame.
const LAST_WORD: Duration = Duration::from_secs(1);

/// What the reading and the writing side tell each other.
#[derive(Debug, Default)]
struct Signs {
    /// Something came from the client since this was last looked at.
    heard: AtomicBool,
    /// What came last is being passed on, and nothing more is read until that is done. A client is not silent meanwhile.
    busy: AtomicBool,
    /// A close frame was sent; what still comes is not for the application.
    closing: AtomicBool,
    /// A ping came, and its pong waits to be written.
    pinged: Notify,
    /// What waited to be written has been.
    ponged: Notify,
    /// The connection is over, and nothing more has to be read.
    over: Notify,
}

impl Signs {
    async fn busy_with<T>(&self, passing: impl Future<Output = T>) -> T {
        self.busy.store(true, Ordering::Relaxed);
        let passed = passing.await;
        self.busy.store(false, Ordering::Relaxed);
        passed
    }

    /// Whether the client counts as alive since this was last asked.
    fn is_alive(&self) -> bool {
        self.heard.swap(false, Ordering::Relaxed) || self.busy.load(Ordering::Relaxed)
    }
}

/// Serves an open socket until its end: what comes goes to `inbox`, and what is in `queue` goes out. `first` is the
/// reply that opened it. It is closed at `expires` at the latest.
pub(crate) async fn run<Stream: AsyncRead + AsyncWrite + Unpin + Send>(
    stream: Stream,
    inbox: &mut impl Inbox,
    queue: &Queue,
    options: &SocketOptions,
    expires: Instant,
    first: Reply,
) -> End {
    // Two futures of one task use it in turn, so that nobody ever waits for the lock.
    let socket = Mutex::new(Socket::new(stream, options));
    let signs = Signs::default();
    let heartbeat = Heartbeat::new(Instant::now(), expires, options);
    let mut writer = Writer { socket: &socket, queue, heartbeat, options, closing: None };
    writer.feed(first);

    let end = {
        let mut reading = pin!(read(&socket, inbox, &signs));
        let mut writing = pin!(writer.run(&signs));
        tokio::select! {
            end = &mut reading => end,
            end = &mut writing => {
                if !matches!(end, End::Server(_)) {
                    signs.over.notify_one();
                }
                // A frame on its way to the application gets there, and the client has time to answer the close.
                let _ = timeout(options.close_timeout, reading).await;
                end
            }
        }
    };
    if !signs.closing.load(Ordering::Relaxed) {
        writer.finish(&end).await;
    }
    drops::count(Lost::ClientGone, socket.lock().unwritten());
    tracing::debug!(?end, "a socket closed");
    end
}

/// Passes frames on until the client closes, the connection breaks, or they cannot be passed on.
async fn read<Stream: AsyncRead + AsyncWrite + Unpin>(
    socket: &Mutex<Socket<Stream>>,
    inbox: &mut impl Inbox,
    signs: &Signs,
) -> End {
    if let Err(closing) = signs.busy_with(inbox.opened()).await {
        return End::Server(closing);
    }
    loop {
        let message = tokio::select! {
            biased;
            () = signs.over.notified() => return End::Lost,
            message = poll_fn(|cx| socket.lock().poll_read(cx)) => message,
        };
        signs.heard.store(true, Ordering::Relaxed);
        let data = match message {
            Ok(Message::Text(text)) => Data::Text(text),
            Ok(Message::Binary(bytes)) => Data::Binary(bytes),
            Ok(Message::Ping(_)) => {
                // A client that pings and does not read must not fill the memory with pongs.
                if !signs.closing.load(Ordering::Relaxed) {
                    signs.pinged.notify_one();
                    signs.ponged.notified().await;
                }
                continue;
            }
            Ok(Message::Pong(_) | Message::Frame(_)) => continue,
            Ok(Message::Close(None)) => return End::Client(code::NONE, Utf8Bytes::default()),
            Ok(Message::Close(Some(frame))) => return End::Client(frame.code.into(), frame.reason),
            Err(fault) => return fault_end(&fault),
        };
        if signs.closing.load(Ordering::Relaxed) {
            continue;
        }
        let begun = Instant::now();
        if let Err(closing) = signs.busy_with(inbox.receive(data)).await {
            return End::Server(closing);
        }
        socket.lock().waited(begun.elapsed());
    }
}

/// What a client did wrong, or that its connection broke.
fn fault_end(fault: &ReadFault) -> End {
    let fault_of = |code, reason| End::Fault(Closing { code, reason });
    match fault {
        ReadFault::TooFast(TooFast::Messages) => fault_of(code::POLICY, "too many messages"),
        ReadFault::TooFast(TooFast::Bytes) => fault_of(code::POLICY, "too many bytes"),
        ReadFault::WebSocket(Fault::Capacity(_)) => fault_of(code::TOO_LARGE, "too large"),
        ReadFault::WebSocket(Fault::Utf8(_)) => fault_of(code::INVALID_TEXT, "not UTF-8"),
        ReadFault::WebSocket(Fault::Protocol(ProtocolError::ResetWithoutClosingHandshake)) => End::Lost,
        ReadFault::WebSocket(Fault::Protocol(_)) => fault_of(code::PROTOCOL_ERROR, "protocol error"),
        ReadFault::WebSocket(_) => End::Lost,
    }
}

struct Writer<'a, Stream> {
    socket: &'a Mutex<Socket<Stream>>,
    queue: &'a Queue,
    heartbeat: Heartbeat,
    options: &'a SocketOptions,
    /// A reply said to close once what was before it is written.
    closing: Option<u16>,
}

impl<Stream: AsyncRead + AsyncWrite + Unpin> Writer<'_, Stream> {
    fn feed(&mut self, reply: Reply) {
        if let Some(trace) = reply.trace {
            trace.tell("written to the socket", "");
        }
        if let Some(frame) = reply.data {
            self.socket.lock().feed(frame);
        }
        self.closing = self.closing.or(reply.close);
    }

    /// Writes replies and pings until the connection has to end; then says goodbye if somebody may hear it.
    async fn run(&mut self, signs: &Signs) -> End {
        let Err(end) = self.write(signs).await;
        signs.closing.store(true, Ordering::Relaxed);
        signs.ponged.notify_one();
        self.close(&end).await;
        end
    }

    async fn write(&mut self, signs: &Signs) -> Result<Infallible, End> {
        let mut due = pin!(sleep_until(self.heartbeat.next()));
        loop {
            self.flush().await?;
            if let Some(code) = self.closing {
                return Err(server(code, ""));
            }
            let queue = self.queue;
            tokio::select! {
                taken = queue.take(|reply| self.feed(reply)) => taken.map_err(End::from)?,
                () = signs.pinged.notified() => {
                    self.flush().await?;
                    signs.ponged.notify_one();
                }
                () = &mut due => {
                    match self.heartbeat.beat(Instant::now(), signs.is_alive()) {
                        Beat::Wait => {}
                        Beat::Ping => self.socket.lock().ping(),
                        Beat::Silent => return Err(End::Lost),
                        Beat::Expired => return Err(server(code::GOING_AWAY, "the session is over")),
                    }
                    due.as_mut().reset(self.heartbeat.next());
                }
            }
        }
    }

    /// Writes what waits, unless the client takes nothing of it for too long.
    async fn flush(&mut self) -> Result<(), End> {
        let Self { socket, queue, options, .. } = self;
        let written = async {
            loop {
                match timeout(options.write_timeout, poll_fn(|cx| socket.lock().poll_write(cx))).await {
                    Ok(Ok(true)) => return Ok(()),
                    Ok(Ok(false)) => {}
                    Ok(Err(_)) => return Err(End::Lost),
                    Err(_elapsed) => {
                        lost::count_slow_consumer();
                        return Err(TOO_SLOW);
                    }
                }
            }
        };
        tokio::select! {
            biased;
            written = written => written,
            ending = queue.overflowed() => Err(ending.into()),
        }
    }

    /// Sends the close frame of this side, if `end` has one, and what tungstenite answered to one of the client.
    async fn close(&mut self, end: &End) {
        let mut patience = self.options.write_timeout;
        {
            let mut socket = self.socket.lock();
            match end {
                End::Lost => return,
                End::Client(..) => {}
                End::Server(closing) | End::Fault(closing) => socket.close(closing.code, closing.reason),
                End::Unread(closing) => {
                    drops::count(Lost::SlowConsumer, socket.give_up());
                    socket.close(closing.code, closing.reason);
                    patience = LAST_WORD;
                }
            }
        }
        // The connection is given up whether or not this arrives.
        let all = async { while let Ok(false) = poll_fn(|cx| self.socket.lock().poll_write(cx)).await {} };
        let _ = timeout(patience, all).await;
    }

    /// Ends a connection whose reading side came to its end first: the closing handshake is completed, for a moment.
    async fn finish(&mut self, end: &End) {
        if *end == End::Lost {
            return;
        }
        drops::count(Lost::ClientGone, self.socket.lock().give_up());
        self.close(end).await;
        let understood = !matches!(end, End::Fault(_));
        let rest = async {
            if understood {
                while poll_fn(|cx| self.socket.lock().poll_read(cx)).await.is_ok() {}
            } else {
                // Bytes that nobody has read when a connection is dropped would take the close frame with them.
                let _ = poll_fn(|cx| self.socket.lock().poll_discard(cx)).await;
            }
        };
        let _ = timeout(self.options.close_timeout, rest).await;
    }
}
