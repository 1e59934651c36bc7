//! `Socket`: a WebSocket over a byte stream. tungstenite reads and handles control frames; data frames are written from
//! shared bytes.
//!
//! tungstenite copies every frame that it writes into a buffer of the socket. A large frame to many slow clients would
//! be in memory once for each. So data frames go out by vectored writes of the shared bytes. The control frames of
//! tungstenite (pongs, pings, close frames) wait in a small buffer and are written between two data frames.

use std::io::{self, IoSlice, Read, Write};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tungstenite::protocol::{CloseFrame, Role, WebSocketConfig, WebSocketContext};
use tungstenite::{Error, Message, Utf8Bytes};

use crate::server::limits::{MessageRate, RateExceeded};
use crate::server::options::SocketOptions;
use crate::server::transport::linger::poll_discard;
use crate::server::websocket::frame::Frame;
use crate::server::websocket::gateway_code::GatewayCode;
use crate::server::websocket::write_buffer::{SLICES, WriteBuffer};

/// Size of the read buffer. Every socket has one, and most are idle. The default of tungstenite is 128 KiB.
const READ_BUFFER: usize = 4 * 1024;

/// A WebSocket over `Stream`.
#[derive(Debug)]
pub(crate) struct Socket<Stream> {
    stream: Stream,
    context: WebSocketContext,
    gateway_code: GatewayCode,
    rate: MessageRate,
    output: WriteBuffer,
    /// Whether a ping of the server has yet to be answered.
    ping_sent: bool,
}

/// Why reading failed.
#[derive(Debug)]
pub(crate) enum ReadFault {
    WebSocket(Error),
    /// The client exceeded a rate limit.
    RateExceeded(RateExceeded),
}

impl From<RateExceeded> for ReadFault {
    fn from(fault: RateExceeded) -> Self {
        Self::RateExceeded(fault)
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
            rate: MessageRate::new(options),
            output: WriteBuffer::default(),
            ping_sent: false,
        }
    }

    /// Reads the next message of the client. The reply that it asks for, such as a pong, is then ready to be written.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Message, ReadFault>> {
        let mut adapter = StreamAdapter {
            stream: &mut self.stream,
            cx,
            gateway_code: &mut self.gateway_code,
            control: &mut self.output.control,
            received: 0,
        };
        let mut read = self.context.read(&mut adapter);
        let written = adapter.control.len();
        // This fails once the close handshake is complete. There is nothing to flush then.
        let _ = self.context.flush(&mut adapter);
        if let Ok(Message::Close(Some(frame))) = &mut read {
            adapter.gateway_code.restore(frame, &mut adapter.control[written..]);
        }
        // Bytes count as they arrive: the fragments of an unfinished message are not read as a message yet.
        self.rate.check_bytes(adapter.received)?;
        match read {
            Ok(message) => {
                // The answer to a ping of the server does not count.
                let is_requested = message.is_pong() && std::mem::take(&mut self.ping_sent);
                if !is_requested {
                    self.rate.check_message()?;
                }
                Poll::Ready(Ok(copy_small(message)))
            }
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                self.rate.reset_credit();
                Poll::Pending
            }
            Err(error) => Poll::Ready(Err(ReadFault::WebSocket(error))),
        }
    }

    /// Records a time in which the server did not read. It does not count against the client.
    pub(crate) fn add_pause(&mut self, time: Duration) {
        self.rate.add_pause(time);
    }

    /// Shuts down the writing side, and discards the bytes that the client sends until it closes its side.
    pub(crate) fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        poll_discard(&mut self.stream, cx)
    }

    /// Appends a data frame to the write buffer.
    pub(crate) fn feed(&mut self, frame: Frame) {
        self.output.push(frame);
    }

    pub(crate) fn ping(&mut self) {
        self.ping_sent = true;
        self.control(|context, adapter| context.write(adapter, Message::Ping(Bytes::new())));
    }

    /// Appends a close frame, unless one was sent already. The caller has written or discarded all data frames before,
    /// and appends none afterwards.
    pub(crate) fn close(&mut self, code: u16, reason: &'static str) {
        let frame = CloseFrame { code: code.into(), reason: Utf8Bytes::from_static(reason) };
        self.control(|context, adapter| context.close(adapter, Some(frame)));
    }

    fn control(
        &mut self,
        act: impl FnOnce(&mut WebSocketContext, &mut StreamAdapter<'_, '_, Stream>) -> Result<(), Error>,
    ) {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut adapter = StreamAdapter {
            stream: &mut self.stream,
            cx: &mut cx,
            gateway_code: &mut self.gateway_code,
            control: &mut self.output.control,
            received: 0,
        };
        // This fails once the close handshake has begun. There is nothing to send then.
        let _ = act(&mut self.context, &mut adapter).and_then(|()| self.context.flush(&mut adapter));
    }

    /// Discards the frames that are not partly written. Returns their number.
    pub(crate) fn discard_frames(&mut self) -> usize {
        self.output.discard_frames()
    }

    /// Returns the unwritten bytes of a partly written frame, which come before anything else.
    pub(crate) fn partial_frame_len(&self) -> usize {
        self.output.partial_frame_len()
    }

    /// Returns `true` if all control frames are written.
    pub(crate) fn control_is_written(&self) -> bool {
        self.output.control.is_empty()
    }

    /// Writes some of the buffered frames. Returns `true` if all of them are written and flushed.
    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        while !self.output.is_empty() {
            let written = {
                let mut slices = [IoSlice::new(&[]); SLICES];
                let count = self.output.slices(&mut slices);
                ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, &slices[..count]))?
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.output.advance(written);
            if !self.output.is_empty() {
                return Poll::Ready(Ok(false));
            }
        }
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        Poll::Ready(Ok(true))
    }
}

/// Copies a small payload, which would otherwise keep the whole read buffer in memory.
fn copy_small(message: Message) -> Message {
    let small = |bytes: &Bytes| bytes.len() < READ_BUFFER / 2;
    match message {
        Message::Binary(bytes) if small(&bytes) => Message::Binary(Bytes::copy_from_slice(&bytes)),
        Message::Text(text) if text.len() < READ_BUFFER / 2 => Message::Text(Utf8Bytes::from(text.as_str())),
        message => message,
    }
}

/// The stream as tungstenite sees it: reads never block, and written bytes are collected.
struct StreamAdapter<'a, 'cx, Stream> {
    stream: &'a mut Stream,
    cx: &'a mut Context<'cx>,
    gateway_code: &'a mut GatewayCode,
    control: &'a mut Vec<u8>,
    /// Number of bytes read.
    received: usize,
}

impl<Stream: AsyncRead + Unpin> Read for StreamAdapter<'_, '_, Stream> {
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

impl<Stream> Write for StreamAdapter<'_, '_, Stream> {
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

    /// Returns a socket over a pipe of `pipe` bytes, and its client.
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
                // The frame is partly written.
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
    async fn a_partly_written_frame_is_completed_when_the_others_are_discarded() {
        let (mut socket, client) = connected(16).await;
        socket.feed(frame(100));
        socket.feed(frame(100));
        assert!(!poll_fn(|cx| socket.poll_write(cx)).await.unwrap());
        assert_eq!((socket.discard_frames(), socket.discard_frames()), (1, 0), "each is counted once");
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
    async fn the_answer_to_a_ping_does_not_count() {
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
        assert!(matches!(unasked, Err(ReadFault::RateExceeded(RateExceeded::Messages))), "{unasked:?}");
    }

    #[tokio::test]
    async fn every_registered_close_code_of_a_client_is_read_and_echoed() {
        for (pipe, code, passes) in
            [(1, 1014, 1014), (3, 1014, 1014), (10_000, 1014, 1014), (7, 1013, 1013), (7, 1004, 1002)]
        {
            let (mut socket, mut client) = connected(pipe).await;
            let frame = |code: u16| CloseFrame { code: code.into(), reason: "why".into() };
            let closing = async {
                // Headers of every length, and payloads that look like the code.
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
        // Both arrived in one read, and would be slices of one buffer.
        let distance = read[0].as_ptr().addr().abs_diff(read[1].as_ptr().addr());
        assert_ne!(distance, 16, "6 bytes of header and 10 of payload");
    }

    #[tokio::test]
    async fn the_shared_payload_is_written_without_a_copy() {
        let (mut socket, _client) = connected(10_000).await;
        let large = frame(1_000_000);
        socket.feed(large.clone());
        let mut slices = [IoSlice::new(&[]); SLICES];
        assert_eq!(socket.output.slices(&mut slices), 2);
        assert_eq!(slices[1].as_ptr(), large.payload().as_ptr());
    }
}
