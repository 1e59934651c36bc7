//! A line of the log for each request, and what a response has to say when it ends.

use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{Method, StatusCode, Version};
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::server::transport::streams::Progress;

/// The target of the lines, for filters.
const TARGET: &str = "channel_layer::access";

/// What is known of a request when it comes. Of its URL only the path is kept, as it was sent: queries hold secrets.
#[derive(Debug)]
pub(crate) struct Entry {
    client: Option<SocketAddr>,
    method: Method,
    path: String,
    version: Version,
    begun: Instant,
}

impl Entry {
    pub(crate) fn new(client: Option<SocketAddr>, request: &Request) -> Self {
        Self {
            client,
            method: request.method().clone(),
            path: request.uri().path().to_owned(),
            version: request.version(),
            begun: Instant::now(),
        }
    }

    fn write(&self, status: StatusCode, bytes: u64) {
        let client = self.client.map(tracing::field::display);
        let (status, milliseconds) = (status.as_u16(), self.begun.elapsed().as_secs_f64() * 1000.0);
        let Self { method, path, version, .. } = self;
        tracing::info!(target: TARGET, client, %method, path, ?version, status, bytes, milliseconds, "request");
    }
}

/// What an HTTP/2 connection gets of a response at once, and holds until its client takes it. As large as the frames that
/// every client takes (RFC 9113, section 4.2).
const PIECE: usize = 16 * 1024;

/// The body of a response, which ends with a line in the log.
pub(crate) struct Tracked {
    body: Body,
    /// What is left of a part that is handed over in pieces.
    rest: Bytes,
    /// Of a client that is given pieces.
    progress: Option<Progress>,
    status: StatusCode,
    bytes: u64,
    entry: Option<Entry>,
    /// The connection is in use until here.
    _busy: TaskTrackerToken,
}

impl Tracked {
    pub(crate) fn new(body: Body, status: StatusCode, entry: Option<Entry>, busy: TaskTrackerToken) -> Self {
        let progress = Progress::current().filter(Progress::is_in_pieces);
        Self { body, rest: Bytes::new(), progress, status, bytes: 0, entry, _busy: busy }
    }

    fn poll_part(&mut self, cx: &mut Context<'_>) -> Polled {
        if !self.rest.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.rest)))));
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }

    /// The next piece for a client that says how much it takes.
    fn poll_piece(&mut self, cx: &mut Context<'_>, progress: &Progress) -> Polled {
        progress.asked();
        let mut frame = match ready!(self.poll_part(cx)) {
            Some(Ok(frame)) => frame,
            end => return Poll::Ready(end),
        };
        if let Some(data) = frame.data_mut()
            && data.len() > PIECE
        {
            self.rest = data.split_off(PIECE);
        }
        progress.handed_over();
        Poll::Ready(Some(Ok(frame)))
    }
}

type Polled = Poll<Option<Result<Frame<Bytes>, axum::Error>>>;

impl HttpBody for Tracked {
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

impl Drop for Tracked {
    fn drop(&mut self) {
        if let Some(entry) = &self.entry {
            entry.write(self.status, self.bytes);
        }
    }
}
