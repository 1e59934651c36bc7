//! The protocol of one open socket: frames in, replies out, pings, and its end.
//!
//! One task holds the socket. Reading and writing go on beside each other in it, so that a client that does not read
//! is still heard, and a frame that waits for room on its channel holds up nothing but the frames after it.

mod signals;
#[cfg(test)]
mod tests;
mod writer;

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout};
use tungstenite::error::{Error as Fault, ProtocolError};
use tungstenite::{Message, Utf8Bytes};

use crate::drops;
use crate::server::asgi::lost::Lost;
use crate::server::asgi::messages::{Reply, code};
use crate::server::limits::TooFast;
use crate::server::options::SocketOptions;
use crate::server::websocket::frame::Data;
use crate::server::websocket::queue::{Ending, Queue};
use crate::server::websocket::socket::{ReadFault, Socket};
use signals::Signs;
use writer::Writer;

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
    let mut writer = Writer::new(&socket, queue, &signs, options, expires);
    writer.feed(first);

    let end = {
        let mut reading = pin!(read(&socket, inbox, &signs));
        let mut writing = pin!(writer.run());
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
