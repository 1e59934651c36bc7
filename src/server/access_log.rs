//! A line of the log for each request, and what a response has to say when it ends.

use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{Method, StatusCode, Version};
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio_util::task::task_tracker::TaskTrackerToken;

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

/// The body of a response, which ends with a line in the log.
pub(crate) struct Tracked {
    body: Body,
    status: StatusCode,
    bytes: u64,
    entry: Option<Entry>,
    /// The connection is in use until here.
    _busy: TaskTrackerToken,
}

impl Tracked {
    pub(crate) fn new(body: Body, status: StatusCode, entry: Option<Entry>, busy: TaskTrackerToken) -> Self {
        Self { body, status, bytes: 0, entry, _busy: busy }
    }
}

impl HttpBody for Tracked {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            self.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        if let Some(entry) = &self.entry {
            entry.write(self.status, self.bytes);
        }
    }
}
