//! The body of a chunked request, and whether a further request may follow it on its connection.
//!
//! hyper takes a trailer line that ends in a bare LF for the beginning of a line that goes on, up to the CRLF of the next
//! request. A proxy that ends the line there would take the answers to later requests for those to earlier ones. So the
//! connection is closed behind a request that has trailers, or whose body is not read to its end, where trailers may be.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::TRANSFER_ENCODING;
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;

/// Tells whether a body was read to its end, and has no trailers.
#[derive(Clone, Debug, Default)]
pub(crate) struct CleanEnd(Arc<AtomicBool>);

impl CleanEnd {
    pub(crate) fn is_reached(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Makes a request for a router of it. A body that is not chunked has no trailers, and tells nothing.
pub(crate) fn watch(request: hyper::Request<Incoming>) -> (Request, Option<CleanEnd>) {
    if !request.headers().contains_key(TRANSFER_ENCODING) {
        return (request.map(Body::new), None);
    }
    let end = CleanEnd::default();
    let body = |body| Body::new(Chunked { body, end: end.clone(), tainted: false });
    (request.map(body), Some(end))
}

struct Chunked {
    body: Incoming,
    end: CleanEnd,
    /// Trailers came, or something that is no body.
    tainted: bool,
}

impl HttpBody for Chunked {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => self.tainted |= frame.is_trailers(),
            Some(Err(_)) => self.tainted = true,
            None => self.end.0.store(!self.tainted, Ordering::Relaxed),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
