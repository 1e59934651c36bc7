//! The body of a chunked request: whether a further request may follow it on its connection.
//!
//! hyper treats a trailer line that ends in a bare LF as the start of a line that continues up to the CRLF of the next
//! request. A proxy that ends the line there would match the answers to later requests with earlier ones. So the server
//! closes the connection after a request that has trailers, or whose body is not read to its end, where trailers may
//! follow.

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

/// Whether a body was read to its end and has no trailers. Clones share the state.
#[derive(Clone, Debug, Default)]
pub(crate) struct CleanEnd(Arc<AtomicBool>);

impl CleanEnd {
    pub(crate) fn is_reached(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Converts a request for the router. Returns a `CleanEnd` for a chunked body; other bodies have no trailers.
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
    /// Whether trailers or an invalid chunk were read.
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
