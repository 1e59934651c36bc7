//! The writing side of a socket: replies, pings, deadlines, and the close frame.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use crate::drops;
use crate::server::counters::{self, ClientDropReason};
use crate::server::options::{LONGEST_TIMEOUT, SocketOptions};
use crate::server::websocket::close_code;
use crate::server::websocket::heartbeat::{Due, Heartbeat};
use crate::server::websocket::protocol::signals::Signals;
use crate::server::websocket::protocol::{Closing, End};
use crate::server::websocket::queue::Queue;
use crate::server::websocket::reply::Reply;
use crate::server::websocket::socket::Socket;

const TOO_SLOW: Closing = Closing { code: close_code::TRY_AGAIN_LATER, reason: "too slow" };
const EXPIRED: Closing = Closing { code: close_code::GOING_AWAY, reason: "the session is over" };

/// How long a client that does not read may take to accept the close frame.
const CLOSE_FRAME_TIMEOUT: Duration = Duration::from_secs(1);

/// The writing side of a socket.
pub(crate) struct Writer<'a, Stream> {
    socket: &'a Mutex<Socket<Stream>>,
    queue: &'a Queue,
    signals: &'a Signals,
    heartbeat: Heartbeat,
    options: &'a SocketOptions,
    /// Close code of the last reply, to be sent after the replies before it.
    closing: Option<u16>,
    /// Whether a pong waits to be written. The reading side waits for it.
    pong: bool,
    /// Whether a ping waits to be written.
    ping: bool,
}

impl<'a, Stream: AsyncRead + AsyncWrite + Unpin> Writer<'a, Stream> {
    pub(crate) fn new(
        socket: &'a Mutex<Socket<Stream>>,
        queue: &'a Queue,
        signals: &'a Signals,
        options: &'a SocketOptions,
        expires: Instant,
    ) -> Self {
        let heartbeat = Heartbeat::new(Instant::now(), expires, options);
        Self { socket, queue, signals, heartbeat, options, closing: None, pong: false, ping: false }
    }

    pub(crate) fn feed(&mut self, reply: Reply) {
        if let Some(trace) = reply.trace {
            trace.record("written to the socket", "");
        }
        if let Some(frame) = reply.data {
            self.socket.lock().feed(frame);
        }
        self.closing = self.closing.or(reply.close);
    }

    /// Writes replies and pings until the connection has to end, and then sends a close frame if the client may read
    /// it.
    pub(crate) async fn run(&mut self) -> End {
        let Err(end) = self.write().await;
        self.signals.closing.store(true, Ordering::Relaxed);
        self.signals.pong_written.notify_one();
        self.close(&end).await;
        end
    }

    async fn write(&mut self) -> Result<Infallible, End> {
        let mut due = pin!(sleep_until(self.heartbeat.next()));
        loop {
            self.flush(due.as_mut()).await?;
            if let Some(code) = self.closing {
                return Err(End::Server(Closing { code, reason: "" }));
            }
            let (queue, signals) = (self.queue, self.signals);
            tokio::select! {
                taken = queue.take(|reply| self.feed(reply)) => taken.map_err(End::from)?,
                () = signals.ping_received.notified() => self.pong = true,
                () = &mut due => self.poll_heartbeat(due.as_mut())?.map_or(Ok(()), |end| Err(End::Server(end)))?,
            }
        }
    }

    /// Writes the pending frames. Fails if the client accepts no bytes for the write timeout. A client that accepts few
    /// bytes at a time still has to answer pings, and its connection ends when it expires.
    async fn flush(&mut self, mut due: Pin<&mut Sleep>) -> Result<(), End> {
        let write_timeout = self.options.write_timeout.min(LONGEST_TIMEOUT);
        let mut deadline = Instant::now() + write_timeout;
        loop {
            let (socket, queue, signals) = (self.socket, self.queue, self.signals);
            tokio::select! {
                biased;
                written = poll_fn(|cx| socket.lock().poll_write(cx)) => {
                    let all = written.map_err(|_| End::Lost)?;
                    self.on_written(due.as_mut());
                    if all {
                        return Ok(());
                    }
                    deadline = Instant::now() + write_timeout;
                }
                ending = queue.overflowed() => return Err(ending.into()),
                () = sleep_until(deadline) => {
                    counters::count_slow_consumers(1);
                    return Err(End::Unread(TOO_SLOW));
                }
                // A frame that is partly written rules out an orderly close.
                () = &mut due => self.poll_heartbeat(due.as_mut())?.map_or(Ok(()), |end| Err(End::Unread(end)))?,
                () = signals.ping_received.notified() => self.pong = true,
            }
        }
    }

    /// Performs the action that is due. Returns the close code and reason if the lifetime of the socket has ended.
    fn poll_heartbeat(&mut self, due: Pin<&mut Sleep>) -> Result<Option<Closing>, End> {
        match self.heartbeat.poll(Instant::now(), self.signals.is_alive()) {
            Due::Wait => {}
            Due::Ping => {
                let mut socket = self.socket.lock();
                socket.ping();
                self.heartbeat.extend_deadline(socket.partial_frame_len());
                self.ping = true;
            }
            Due::PongTimeout => return Err(End::Lost),
            Due::Expired => return Ok(Some(EXPIRED)),
        }
        due.reset(self.heartbeat.next());
        Ok(None)
    }

    /// Records that pings and pongs were written, if they were.
    fn on_written(&mut self, due: Pin<&mut Sleep>) {
        if !(self.ping || self.pong) || !self.socket.lock().control_is_written() {
            return;
        }
        if std::mem::take(&mut self.pong) {
            self.signals.pong_written.notify_one();
        }
        if std::mem::take(&mut self.ping) {
            self.heartbeat.pinged(Instant::now());
            due.reset(self.heartbeat.next());
        }
    }

    /// Sends the close frame that `end` asks for, or the reply of tungstenite to the close frame of the client.
    async fn close(&mut self, end: &End) {
        let mut time = self.options.write_timeout;
        match end {
            End::Lost => return,
            End::Client(..) => {}
            End::Server(closing) | End::Violation(closing) => self.socket.lock().close(closing.code, closing.reason),
            End::Unread(closing) => {
                self.discard_frames(ClientDropReason::SlowConsumer);
                self.socket.lock().close(closing.code, closing.reason);
                time = CLOSE_FRAME_TIMEOUT;
            }
        }
        // The connection ends whether or not the close frame arrives.
        let all = async { while let Ok(false) = poll_fn(|cx| self.socket.lock().poll_write(cx)).await {} };
        let _ = timeout(time, all).await;
    }

    /// Discards the frames that the socket has not begun to write, and counts them outside of its lock.
    fn discard_frames(&self, reason: ClientDropReason) {
        let discarded = self.socket.lock().discard_frames();
        drops::count(reason, discarded);
    }

    /// Ends a connection whose reading side has ended first: completes the close handshake, within the close timeout.
    pub(crate) async fn finish(&mut self, end: &End) {
        if *end == End::Lost {
            return;
        }
        self.discard_frames(ClientDropReason::ClientGone);
        self.close(end).await;
        let is_valid = !matches!(end, End::Violation(_));
        let rest = async {
            if is_valid {
                while poll_fn(|cx| self.socket.lock().poll_read(cx)).await.is_ok() {}
            } else {
                // Closing a connection with unread bytes resets it, and the client would lose the close frame.
                let _ = poll_fn(|cx| self.socket.lock().poll_discard(cx)).await;
            }
        };
        let _ = timeout(self.options.close_timeout, rest).await;
    }
}
