//! Lingering close of a connection whose client may still be sending.
//!
//! The operating system resets a connection that is closed while bytes of the client wait unread. The client may then
//! lose the last response (RFC 9112, section 9.6). So the server shuts down its writing side and reads on for a while.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout;

/// How long a client may take to read the last response and close the connection.
const LINGER_TIMEOUT: Duration = Duration::from_secs(5);

/// Waits until the client closes the connection, for at most [`LINGER_TIMEOUT`].
pub(crate) async fn linger(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    // The stream is dropped afterwards, whatever the result.
    let _ = timeout(LINGER_TIMEOUT, poll_fn(|cx| poll_discard(&mut stream, cx))).await;
}

/// Shuts down the writing side, and discards the bytes that the client sends until it closes its side.
pub(crate) fn poll_discard<S>(stream: &mut S, cx: &mut Context<'_>) -> Poll<io::Result<()>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    ready!(Pin::new(&mut *stream).poll_shutdown(cx))?;
    loop {
        let mut bytes = [0; 1024];
        let mut buffer = ReadBuf::new(&mut bytes);
        ready!(Pin::new(&mut *stream).poll_read(cx, &mut buffer))?;
        if buffer.filled().is_empty() {
            return Poll::Ready(Ok(()));
        }
    }
}
