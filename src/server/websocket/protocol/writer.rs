//! The writing side of a socket: replies, pings, deadlines, and the goodbye.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use crate::drops;
use crate::server::asgi::lost;
use crate::server::asgi::lost::Lost;
use crate::server::asgi::messages::{Reply, code};
use crate::server::options::SocketOptions;
use crate::server::websocket::heartbeat::{Beat, Heartbeat, LONGEST};
use crate::server::websocket::protocol::signals::Signs;
use crate::server::websocket::protocol::{Closing, End};
use crate::server::websocket::queue::Queue;
use crate::server::websocket::socket::Socket;

const TOO_SLOW: Closing = Closing { code: code::TRY_AGAIN_LATER, reason: "too slow" };
const EXPIRED: Closing = Closing { code: code::GOING_AWAY, reason: "the session is over" };

/// How long a client that does not read may take for the close frame.
const LAST_WORD: Duration = Duration::from_secs(1);

pub(crate) struct Writer<'a, Stream> {
    socket: &'a Mutex<Socket<Stream>>,
    queue: &'a Queue,
    signs: &'a Signs,
    heartbeat: Heartbeat,
    options: &'a SocketOptions,
    /// A reply said to close once what was before it is written.
    closing: Option<u16>,
    /// A pong waits to be written, and the reading side for that.
    pong: bool,
    /// A ping waits to be written.
    ping: bool,
}

impl<'a, Stream: AsyncRead + AsyncWrite + Unpin> Writer<'a, Stream> {
    pub(crate) fn new(
        socket: &'a Mutex<Socket<Stream>>,
        queue: &'a Queue,
        signs: &'a Signs,
        options: &'a SocketOptions,
        expires: Instant,
    ) -> Self {
        let heartbeat = Heartbeat::new(Instant::now(), expires, options);
        Self { socket, queue, signs, heartbeat, options, closing: None, pong: false, ping: false }
    }

    pub(crate) fn feed(&mut self, reply: Reply) {
        if let Some(trace) = reply.trace {
            trace.tell("written to the socket", "");
        }
        if let Some(frame) = reply.data {
            self.socket.lock().feed(frame);
        }
        self.closing = self.closing.or(reply.close);
    }

    /// Writes replies and pings until the connection has to end; then says goodbye if somebody may hear it.
    pub(crate) async fn run(&mut self) -> End {
        let Err(end) = self.write().await;
        self.signs.closing.store(true, Ordering::Relaxed);
        self.signs.ponged.notify_one();
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
            let (queue, signs) = (self.queue, self.signs);
            tokio::select! {
                taken = queue.take(|reply| self.feed(reply)) => taken.map_err(End::from)?,
                () = signs.pinged.notified() => self.pong = true,
                () = &mut due => self.beat(due.as_mut())?.map_or(Ok(()), |end| Err(End::Server(end)))?,
            }
        }
    }

    /// Writes what waits, unless the client takes nothing of it for too long. However little it takes at a time, it is
    /// pinged, and has to answer, and its connection ends when it expires.
    async fn flush(&mut self, mut due: Pin<&mut Sleep>) -> Result<(), End> {
        let patience = self.options.write_timeout.min(LONGEST);
        let mut stalled = Instant::now() + patience;
        loop {
            let (socket, queue, signs) = (self.socket, self.queue, self.signs);
            tokio::select! {
                biased;
                written = poll_fn(|cx| socket.lock().poll_write(cx)) => {
                    let all = written.map_err(|_| End::Lost)?;
                    self.has_written(due.as_mut());
                    if all {
                        return Ok(());
                    }
                    stalled = Instant::now() + patience;
                }
                ending = queue.overflowed() => return Err(ending.into()),
                () = sleep_until(stalled) => {
                    lost::count_slow_consumer();
                    return Err(End::Unread(TOO_SLOW));
                }
                // Half of what waits cannot be left out for a close in order.
                () = &mut due => self.beat(due.as_mut())?.map_or(Ok(()), |end| Err(End::Unread(end)))?,
                () = signs.pinged.notified() => self.pong = true,
            }
        }
    }

    /// Does what is due; gives what the socket is to be closed with, if it is.
    fn beat(&mut self, due: Pin<&mut Sleep>) -> Result<Option<Closing>, End> {
        match self.heartbeat.beat(Instant::now(), self.signs.is_alive()) {
            Beat::Wait => {}
            Beat::Ping => {
                let mut socket = self.socket.lock();
                socket.ping();
                self.heartbeat.waits_behind(socket.on_its_way());
                self.ping = true;
            }
            Beat::Silent => return Err(End::Lost),
            Beat::Expired => return Ok(Some(EXPIRED)),
        }
        due.reset(self.heartbeat.next());
        Ok(None)
    }

    /// Notes it when pings and pongs have gone out.
    fn has_written(&mut self, due: Pin<&mut Sleep>) {
        if !(self.ping || self.pong) || !self.socket.lock().has_spoken() {
            return;
        }
        if std::mem::take(&mut self.pong) {
            self.signs.ponged.notify_one();
        }
        if std::mem::take(&mut self.ping) {
            self.heartbeat.pinged(Instant::now());
            due.reset(self.heartbeat.next());
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
    pub(crate) async fn finish(&mut self, end: &End) {
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
