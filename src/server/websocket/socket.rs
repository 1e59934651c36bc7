//! A WebSocket over a byte stream: reading and control frames are tungstenite's, data frames are written from where they
//! are.
//!
//! tungstenite copies every frame into a buffer of the socket. A large frame to many slow clients would be in memory once
//! for each. So data frames go out by vectored writes of the shared bytes, and what tungstenite has to say (pongs, pings,
//! close frames) waits in a small buffer and is written between two of them.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Read, Write};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tungstenite::protocol::{CloseFrame, Role, WebSocketConfig, WebSocketContext};
use tungstenite::{Error, Message, Utf8Bytes};

use crate::server::limits::{Pace, TooFast};
use crate::server::options::SocketOptions;
use crate::server::transport::linger::poll_discard;
use crate::server::websocket::frame::Frame;
use crate::server::websocket::gateway_code::GatewayCode;

/// Held by every socket, most of which are idle. tungstenite's default is 128 KiB.
const READ_BUFFER: usize = 4 * 1024;

/// Frames in one write: a head and a payload each. More would save little.
pub(crate) const FRAMES_AT_ONCE: usize = 32;
const SLICES: usize = 1 + 2 * FRAMES_AT_ONCE;

/// `Stream` is what a client is connected by.
#[derive(Debug)]
pub(crate) struct Socket<Stream> {
    stream: Stream,
    context: WebSocketContext,
    gateway_code: GatewayCode,
    pace: Pace,
    out: Out,
    /// A ping of this side is not answered yet.
    pinged: bool,
}

/// Why nothing more can be read.
#[derive(Debug)]
pub(crate) enum ReadFault {
    WebSocket(Error),
    /// The client sends faster than it may.
    TooFast(TooFast),
}

impl From<TooFast> for ReadFault {
    fn from(fault: TooFast) -> Self {
        Self::TooFast(fault)
    }
}

impl<Stream: AsyncRead + AsyncWrite + Unpin> Socket<Stream> {
    pub(crate) fn new(stream: Stream, options: &SocketOptions) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .write_buffer_size(0)
            .max_message_size(Some(options.max_message_size))
            .max_frame_size(Some(options.max_frame_size.min(options.max_message_size)));
        let context = WebSocketContext::new(Role::Server, Some(config));
        Self {
            stream,
            context,
            gateway_code: GatewayCode::default(),
            pace: Pace::new(options),
            out: Out::default(),
            pinged: false,
        }
    }

    /// The next message of the client. What it asks for in return, such as a pong, is ready to be written then.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Message, ReadFault>> {
        let mut bridge = Bridge {
            stream: &mut self.stream,
            cx,
            gateway_code: &mut self.gateway_code,
            control: &mut self.out.control,
            received: 0,
        };
        let mut read = self.context.read(&mut bridge);
        let written = bridge.control.len();
        // Once the closing handshake is complete this fails, and there is nothing to flush.
        let _ = self.context.flush(&mut bridge);
        if let Ok(Message::Close(Some(frame))) = &mut read {
            bridge.gateway_code.restore(frame, &mut bridge.control[written..]);
        }
        // Counted as they come: fragments of a message without an end are no message yet.
        self.pace.bytes(bridge.received)?;
        match read {
            Ok(message) => {
                // The answer to a ping of this side costs the client nothing.
                let asked_for = message.is_pong() && std::mem::take(&mut self.pinged);
                if !asked_for {
                    self.pace.message()?;
                }
                Poll::Ready(Ok(unpinned(message)))
            }
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                self.pace.caught_up();
                Poll::Pending
            }
            Err(error) => Poll::Ready(Err(ReadFault::WebSocket(error))),
        }
    }

    /// Nothing was read for a time, which is not to count against the client.
    pub(crate) fn waited(&mut self, time: Duration) {
        self.pace.waited(time);
    }

    /// Says that nothing more will be written, and reads until nothing more comes.
    pub(crate) fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        poll_discard(&mut self.stream, cx)
    }

    /// Appends a data frame to what is to be written.
    pub(crate) fn feed(&mut self, frame: Frame) {
        self.out.frames.push_back(frame);
    }

    pub(crate) fn ping(&mut self) {
        self.pinged = true;
        self.control(|context, bridge| context.write(bridge, Message::Ping(Bytes::new())));
    }

    /// Appends a close frame, unless one was sent already. No frame may be fed after it, and those that are have to be
    /// written or given up before.
    pub(crate) fn close(&mut self, code: u16, reason: &'static str) {
        let frame = CloseFrame { code: code.into(), reason: Utf8Bytes::from_static(reason) };
        self.control(|context, bridge| context.close(bridge, Some(frame)));
    }

    fn control(&mut self, act: impl FnOnce(&mut WebSocketContext, &mut Bridge<'_, '_, Stream>) -> Result<(), Error>) {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut bridge = Bridge {
            stream: &mut self.stream,
            cx: &mut cx,
            gateway_code: &mut self.gateway_code,
            control: &mut self.out.control,
            received: 0,
        };
        // It fails after the closing handshake has begun, when there is nothing more to say.
        let _ = act(&mut self.context, &mut bridge).and_then(|()| self.context.flush(&mut bridge));
    }

    /// Forgets the frames that are not on their way; gives how many.
    pub(crate) fn give_up(&mut self) -> usize {
        let waiting = self.out.frames.len();
        // Half a frame cannot be taken back.
        self.out.frames.truncate(usize::from(self.out.written > 0));
        waiting - self.out.frames.len()
    }

    /// Bytes of the frame that is on its way, which nothing can come before.
    pub(crate) fn on_its_way(&self) -> usize {
        let first = self.out.frames.front().filter(|_| self.out.written > 0);
        first.map_or(0, |frame| frame.size() - self.out.written)
    }

    /// Whether pings, pongs and close frames are written.
    pub(crate) fn has_spoken(&self) -> bool {
        self.out.control.is_empty()
    }

    /// How many frames are not written, or not to their end.
    pub(crate) fn unwritten(&self) -> usize {
        self.out.frames.len()
    }

    /// Writes some of what waits; ready with whether that is all.
    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        while !self.out.is_empty() {
            let written = {
                let mut slices = [IoSlice::new(&[]); SLICES];
                let count = self.out.slices(&mut slices);
                ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, &slices[..count]))?
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.out.advance(written);
            if !self.out.is_empty() {
                return Poll::Ready(Ok(false));
            }
        }
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        Poll::Ready(Ok(true))
    }
}

/// A small payload keeps a whole read buffer in memory for as long as somebody holds it.
fn unpinned(message: Message) -> Message {
    let small = |bytes: &Bytes| bytes.len() < READ_BUFFER / 2;
    match message {
        Message::Binary(bytes) if small(&bytes) => Message::Binary(Bytes::copy_from_slice(&bytes)),
        Message::Text(text) if text.len() < READ_BUFFER / 2 => Message::Text(Utf8Bytes::from(text.as_str())),
        message => message,
    }
}

/// What waits to be written.
#[derive(Debug, Default)]
struct Out {
    frames: VecDeque<Frame>,
    /// Bytes of the first frame that are written.
    written: usize,
    /// Control frames of tungstenite, to be written before the next frame begins.
    control: Vec<u8>,
}

impl Out {
    fn is_empty(&self) -> bool {
        self.frames.is_empty() && self.control.is_empty()
    }

    /// Lays out what comes next, in order; gives how many slices.
    fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>; SLICES]) -> usize {
        let mut count = 0;
        let mut push = |bytes: &'a [u8]| {
            if !bytes.is_empty() {
                slices[count] = IoSlice::new(bytes);
                count += 1;
            }
        };
        if self.written == 0 {
            push(&self.control);
        }
        // The rest of a frame that is on its way comes first, and control frames right after it.
        let fits = if self.written > 0 && !self.control.is_empty() { 1 } else { FRAMES_AT_ONCE };
        let mut written = self.written;
        for frame in self.frames.iter().take(fits) {
            let (head, payload) = (frame.head(), frame.payload());
            push(&head[written.min(head.len())..]);
            push(&payload[written.saturating_sub(head.len())..]);
            written = 0;
        }
        count
    }

    /// Takes out what was written of the slices.
    fn advance(&mut self, mut written: usize) {
        if self.written == 0 && !self.control.is_empty() {
            let control = written.min(self.control.len());
            self.control.drain(..control);
            written -= control;
            if self.control.is_empty() {
                // Few sockets ever need it again soon.
                self.control = Vec::new();
            }
        }
        while written > 0
            && let Some(first) = self.frames.front()
        {
            let rest = first.size() - self.written;
            if written < rest {
                self.written += written;
                return;
            }
            written -= rest;
            self.written = 0;
            self.frames.pop_front();
        }
    }
}

/// The stream as tungstenite sees it: it never blocks, and what is written to it is collected.
struct Bridge<'a, 'cx, Stream> {
    stream: &'a mut Stream,
    cx: &'a mut Context<'cx>,
    gateway_code: &'a mut GatewayCode,
    control: &'a mut Vec<u8>,
    /// Bytes read.
    received: usize,
}

impl<Stream: AsyncRead + Unpin> Read for Bridge<'_, '_, Stream> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut buffer = ReadBuf::new(buffer);
        match Pin::new(&mut *self.stream).poll_read(self.cx, &mut buffer) {
            Poll::Ready(read) => {
                read?;
                self.gateway_code.replace(buffer.filled_mut());
                self.received += buffer.filled().len();
                Ok(buffer.filled().len())
            }
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

impl<Stream> Write for Bridge<'_, '_, Stream> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.control.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures_util::{SinkExt, StreamExt};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio_tungstenite::WebSocketStream;

    use super::*;
    use crate::server::websocket::frame::Data;

    /// A socket over a pipe that takes a few bytes at a time, and its client.
    async fn connected(pipe: usize) -> (Socket<DuplexStream>, WebSocketStream<DuplexStream>) {
        with(SocketOptions::new(), pipe).await
    }

    async fn with(options: SocketOptions, pipe: usize) -> (Socket<DuplexStream>, WebSocketStream<DuplexStream>) {
        let (server, client) = duplex(pipe);
        let client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
        (Socket::new(server, &options), client)
    }

    fn frame(size: usize) -> Frame {
        Data::Binary(vec![7; size].into()).into()
    }

    async fn write(socket: &mut Socket<DuplexStream>) {
        while !poll_fn(|cx| socket.poll_write(cx)).await.unwrap() {}
    }

    #[tokio::test]
    async fn control_frames_come_between_frames_and_never_inside() {
        for pipe in [1, 2, 3, 7, 64, 1_000] {
            let (mut socket, mut client) = connected(pipe).await;
            let writing = async {
                socket.feed(frame(2_000));
                // Part of the frame is written.
                assert!(!poll_fn(|cx| socket.poll_write(cx)).await.unwrap());
                socket.ping();
                for size in [0, 5, 70_000] {
                    socket.feed(frame(size));
                }
                write(&mut socket).await;
                socket.close(1001, "enough");
                write(&mut socket).await;
            };
            let reading = async {
                let mut seen = Vec::new();
                while let Some(Ok(message)) = client.next().await {
                    let last = message.is_close();
                    seen.push(message);
                    if last {
                        return seen;
                    }
                }
                seen
            };
            let ((), seen) = tokio::join!(writing, reading);
            let lengths: Vec<_> = seen.iter().map(|message| (message.is_binary(), message.len())).collect();
            assert_eq!(
                lengths,
                [(true, 2_000), (false, 0), (true, 0), (true, 5), (true, 70_000), (false, 6)],
                "{pipe}"
            );
            assert!(matches!(&seen[5], Message::Close(Some(frame)) if u16::from(frame.code) == 1001));
        }
    }

    #[tokio::test]
    async fn a_frame_that_began_is_finished_when_the_others_are_given_up() {
        let (mut socket, client) = connected(16).await;
        socket.feed(frame(100));
        socket.feed(frame(100));
        assert!(!poll_fn(|cx| socket.poll_write(cx)).await.unwrap());
        assert_eq!((socket.give_up(), socket.unwritten()), (1, 1), "each is counted once");
        let mut client = client.into_inner();
        let mut seen = Vec::new();
        let writing = async {
            write(&mut socket).await;
            socket.stream.shutdown().await.unwrap();
        };
        let ((), read) = tokio::join!(writing, client.read_to_end(&mut seen));
        assert_eq!(read.unwrap(), 102);
    }

    #[tokio::test]
    async fn the_answer_to_a_ping_costs_a_client_nothing() {
        let (mut socket, mut client) = with(SocketOptions::new().max_messages_per_second(1), 10_000).await;
        let mut read = async |socket: &mut Socket<_>, message: Message| {
            client.send(message).await.unwrap();
            poll_fn(|cx| socket.poll_read(cx)).await.map(drop)
        };
        let pong = || Message::Pong(Bytes::new());
        for _ in 0..3 {
            socket.ping();
            read(&mut socket, pong()).await.unwrap();
        }
        read(&mut socket, "one".into()).await.unwrap();
        let unasked = read(&mut socket, pong()).await;
        assert!(matches!(unasked, Err(ReadFault::TooFast(TooFast::Messages))), "{unasked:?}");
    }

    #[tokio::test]
    async fn every_registered_close_code_of_a_client_passes_and_comes_back() {
        for (pipe, code, passes) in
            [(1, 1014, 1014), (3, 1014, 1014), (10_000, 1014, 1014), (7, 1013, 1013), (7, 1004, 1002)]
        {
            let (mut socket, mut client) = connected(pipe).await;
            let frame = |code: u16| CloseFrame { code: code.into(), reason: "why".into() };
            let closing = async {
                // Heads of every length, and payloads that look like the code.
                for size in [0, 2, 300, 70_000] {
                    client.send(Message::binary(b"\x03\xf6".repeat(size))).await.unwrap();
                    client.send(Message::Ping(Bytes::from_static(b"\x88\x02\x03\xf6"))).await.unwrap();
                }
                client.close(Some(frame(code))).await.unwrap();
                while let Some(Ok(message)) = client.next().await {
                    if let Message::Close(reply) = message {
                        return reply;
                    }
                }
                None
            };
            let serving = async {
                let mut messages = 0;
                loop {
                    let read = poll_fn(|cx| socket.poll_read(cx)).await.unwrap();
                    messages += 1;
                    if let Message::Close(Some(frame)) = read {
                        write(&mut socket).await;
                        return (frame, messages);
                    }
                }
            };
            let ((read, messages), reply) = tokio::join!(serving, closing);
            assert_eq!((u16::from(read.code), messages), (passes, 9), "{pipe}");
            assert_eq!(reply.map(|reply| u16::from(reply.code)), Some(passes), "{pipe}");
        }
    }

    #[tokio::test]
    async fn a_small_message_does_not_hold_the_read_buffer() {
        let (mut socket, mut client) = connected(10_000).await;
        client.send(Message::binary(vec![1; 10])).await.unwrap();
        client.send(Message::binary(vec![2; 10])).await.unwrap();
        let mut read = Vec::new();
        for _ in 0..2 {
            read.push(poll_fn(|cx| socket.poll_read(cx)).await.unwrap().into_data());
        }
        // Both came with one read, and would be slices of one buffer.
        let distance = read[0].as_ptr().addr().abs_diff(read[1].as_ptr().addr());
        assert_ne!(distance, 16, "a head of 6 bytes and 10 of payload");
    }

    #[tokio::test]
    async fn what_is_written_is_the_shared_payload_itself() {
        let (mut socket, _client) = connected(10_000).await;
        let large = frame(1_000_000);
        socket.feed(large.clone());
        let mut slices = [IoSlice::new(&[]); SLICES];
        assert_eq!(socket.out.slices(&mut slices), 2);
        assert_eq!(slices[1].as_ptr(), large.payload().as_ptr());
    }
}
