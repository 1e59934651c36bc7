//! The protocol of one open socket: frames in, replies out, pings, and the close handshake.
//!
//! One task owns the socket. It reads and writes concurrently, so that a client that does not read is still read, and
//! a frame that waits for room on its channel delays only the frames after it.

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

use crate::server::limits::RateExceeded;
use crate::server::options::SocketOptions;
use crate::server::websocket::close_code;
use crate::server::websocket::frame::Data;
use crate::server::websocket::queue::{CloseRequest, Queue};
use crate::server::websocket::reply::Reply;
use crate::server::websocket::socket::{ReadFault, Socket};
use signals::Signals;
use writer::Writer;

/// Handler of the messages of one client.
pub(crate) trait MessageHandler: Send {
    /// Called when the socket is open.
    ///
    /// # Errors
    ///
    /// The close code and reason for the socket.
    fn opened(&mut self) -> impl Future<Output = Result<(), Closing>> + Send {
        async { Ok(()) }
    }

    /// Handles a message. The server reads the next one when this returns.
    ///
    /// # Errors
    ///
    /// The close code and reason for the socket.
    fn receive(&mut self, data: Data) -> impl Future<Output = Result<(), Closing>> + Send;
}

/// A close code and reason of the server.
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
    /// The server closes.
    Server(Closing),
    /// The server closes because the client violated the protocol or a limit.
    Violation(Closing),
    /// The server closes, and the client is unlikely to read the close frame.
    Unread(Closing),
    /// The connection failed.
    Lost,
}

impl End {
    /// Returns the close code for the application.
    pub(crate) fn code(&self) -> u16 {
        match self {
            Self::Client(code, _) => *code,
            Self::Server(closing) | Self::Violation(closing) | Self::Unread(closing) => closing.code,
            Self::Lost => close_code::ABNORMAL,
        }
    }

    pub(crate) fn reason(&self) -> String {
        match self {
            Self::Client(_, reason) => reason.to_string(),
            Self::Server(closing) | Self::Violation(closing) | Self::Unread(closing) => closing.reason.to_owned(),
            Self::Lost => String::new(),
        }
    }
}

impl From<CloseRequest> for End {
    fn from(CloseRequest { code, reason, at_once }: CloseRequest) -> Self {
        let closing = Closing { code, reason };
        if at_once { Self::Unread(closing) } else { Self::Server(closing) }
    }
}

/// Serves an open socket until its end: passes messages to `handler` and writes the replies in `queue`. `first` is the
/// reply that opened the socket. The socket is closed at `expires` at the latest.
pub(crate) async fn run<Stream: AsyncRead + AsyncWrite + Unpin + Send>(
    stream: Stream,
    handler: &mut impl MessageHandler,
    queue: &Queue,
    options: &SocketOptions,
    expires: Instant,
    first: Reply,
) -> End {
    // Two futures of one task use the socket in turn, so neither ever waits for the lock.
    let socket = Mutex::new(Socket::new(stream, options));
    let signals = Signals::default();
    let mut writer = Writer::new(&socket, queue, &signals, options, expires);
    writer.feed(first);

    let end = {
        let mut reading = pin!(read(&socket, handler, &signals));
        let mut writing = pin!(writer.run());
        tokio::select! {
            end = &mut reading => end,
            end = &mut writing => {
                if !matches!(end, End::Server(_)) {
                    signals.ended.notify_one();
                }
                // The message that is being handled still reaches the application, and the client has time to answer
                // the close frame.
                let _ = timeout(options.close_timeout, reading).await;
                end
            }
        }
    };
    if !signals.closing.load(Ordering::Relaxed) {
        writer.finish(&end).await;
    }
    tracing::debug!(?end, "socket closed");
    end
}

/// Passes messages on until the client closes, the connection fails, or the handler fails.
async fn read<Stream: AsyncRead + AsyncWrite + Unpin>(
    socket: &Mutex<Socket<Stream>>,
    handler: &mut impl MessageHandler,
    signals: &Signals,
) -> End {
    if let Err(closing) = signals.while_busy(handler.opened()).await {
        return End::Server(closing);
    }
    loop {
        let message = tokio::select! {
            biased;
            () = signals.ended.notified() => return End::Lost,
            message = poll_fn(|cx| socket.lock().poll_read(cx)) => message,
        };
        signals.received.store(true, Ordering::Relaxed);
        let data = match message {
            Ok(Message::Text(text)) => Data::Text(text),
            Ok(Message::Binary(bytes)) => Data::Binary(bytes),
            Ok(Message::Ping(_)) => {
                // A client that sends pings and does not read must not fill the memory with pongs.
                if !signals.closing.load(Ordering::Relaxed) {
                    signals.ping_received.notify_one();
                    signals.pong_written.notified().await;
                }
                continue;
            }
            Ok(Message::Pong(_) | Message::Frame(_)) => continue,
            Ok(Message::Close(None)) => return End::Client(close_code::NONE, Utf8Bytes::default()),
            Ok(Message::Close(Some(frame))) => return End::Client(frame.code.into(), frame.reason),
            Err(fault) => return end_of(&fault),
        };
        if signals.closing.load(Ordering::Relaxed) {
            continue;
        }
        let started = Instant::now();
        if let Err(closing) = signals.while_busy(handler.receive(data)).await {
            return End::Server(closing);
        }
        socket.lock().add_pause(started.elapsed());
    }
}

/// Returns the end of a connection for a failed read.
fn end_of(fault: &ReadFault) -> End {
    let violation = |code, reason| End::Violation(Closing { code, reason });
    match fault {
        ReadFault::RateExceeded(RateExceeded::Messages) => violation(close_code::POLICY, "too many messages"),
        ReadFault::RateExceeded(RateExceeded::Bytes) => violation(close_code::POLICY, "too many bytes"),
        ReadFault::WebSocket(Fault::Capacity(_)) => violation(close_code::TOO_LARGE, "too large"),
        ReadFault::WebSocket(Fault::Utf8(_)) => violation(close_code::INVALID_TEXT, "not UTF-8"),
        ReadFault::WebSocket(Fault::Protocol(ProtocolError::ResetWithoutClosingHandshake)) => End::Lost,
        ReadFault::WebSocket(Fault::Protocol(_)) => violation(close_code::PROTOCOL_ERROR, "protocol error"),
        ReadFault::WebSocket(_) => End::Lost,
    }
}
