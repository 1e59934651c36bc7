//! `TrackedBody`: the body of a response on its way to the client.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use axum::http::StatusCode;
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::server::transport::response::access_log::Entry;
use crate::server::transport::streams::Progress;

/// Size of the pieces in which an HTTP/2 connection gets a response. The connection holds one piece until its client
/// accepts it. Every client accepts frames of this size (RFC 9113, section 4.2).
const PIECE: usize = 16 * 1024;

/// The body of a response. It counts the bytes, passes them on in pieces to a flow-controlled client, and writes the
/// line of the access log on drop.
pub(crate) struct TrackedBody {
    body: Body,
    /// The rest of a part that is passed on in pieces.
    rest: Bytes,
    /// `Some` if the client gets pieces.
    progress: Option<Progress>,
    status: StatusCode,
    bytes: u64,
    entry: Option<Entry>,
    /// Keeps the request in progress until the body is dropped.
    _token: TaskTrackerToken,
}

impl TrackedBody {
    pub(crate) fn new(body: Body, status: StatusCode, entry: Option<Entry>, token: TaskTrackerToken) -> Self {
        let progress = Progress::current().filter(Progress::is_flow_controlled);
        Self { body, rest: Bytes::new(), progress, status, bytes: 0, entry, _token: token }
    }

    fn poll_part(&mut self, cx: &mut Context<'_>) -> Polled {
        if !self.rest.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.rest)))));
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }

    /// Returns the next piece for a flow-controlled client.
    fn poll_piece(&mut self, cx: &mut Context<'_>, progress: &Progress) -> Polled {
        progress.piece_requested();
        let mut frame = match ready!(self.poll_part(cx)) {
            Some(Ok(frame)) => frame,
            end => return Poll::Ready(end),
        };
        if let Some(data) = frame.data_mut()
            && data.len() > PIECE
        {
            self.rest = data.split_off(PIECE);
        }
        progress.piece_yielded();
        Poll::Ready(Some(Ok(frame)))
    }
}

type Polled = Poll<Option<Result<Frame<Bytes>, axum::Error>>>;

impl HttpBody for TrackedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        let polled = match self.progress.clone() {
            Some(progress) => self.poll_piece(cx, &progress),
            None => self.poll_part(cx),
        };
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            self.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (mut hint, rest) = (self.body.size_hint(), self.rest.len() as u64);
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + rest);
        }
        hint.set_lower(hint.lower() + rest);
        hint
    }
}

impl Drop for TrackedBody {
    fn drop(&mut self) {
        if let Some(entry) = &self.entry {
            entry.write(self.status, self.bytes);
        }
    }
}
