//! `Receiver`: a long-lived reader of channels.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::Stream;

#[cfg(doc)]
use super::ChannelLayer;
use super::{Delivery, Sink, Source};
use crate::error::{Error, Result};

/// A long-lived reader of some channels, from [`ChannelLayer::receiver`]. Also a [`Stream`] of deliveries that ends
/// when the layer closes.
///
/// The receiver reads while a future of [`recv`](Self::recv) or [`recv_many`](Self::recv_many) waits, and pauses when
/// that future is dropped. A stream cannot notice that its caller stopped waiting, so a receiver that is polled as a
/// stream may hold the messages of one read until the next poll. Dropping the receiver puts the messages that it holds
/// back in the background; [`close`](Self::close) puts them back and waits.
///
/// An outage of the servers of these channels is reported once, as [`Error::Redis`]. The next call waits until the
/// servers are back.
pub struct Receiver {
    source: Box<dyn Source>,
    ended: bool,
}

impl Receiver {
    /// Creates a receiver that reads `source`, for implementations of [`ChannelLayer`].
    pub fn new(source: impl Source + 'static) -> Self {
        Self { source: Box::new(source), ended: false }
    }

    /// Waits for the next message.
    ///
    /// # Cancel safety
    ///
    /// When dropped, no message is lost: one that was already taken is put back, or returned by the next call.
    ///
    /// # Errors
    ///
    /// [`Error::Redis`] once per outage, [`Error::Closed`].
    ///
    /// # Panics
    ///
    /// If a [`Source`] breaks its contract: it returns `Ok` without a delivery.
    pub async fn recv(&mut self) -> Result<Delivery> {
        let mut taken = None;
        let mut pending = PendingPoll { receiver: self, done: false };
        let result = std::future::poll_fn(|cx| pending.poll(cx, &mut |delivery| taken = Some(delivery), 1)).await;
        drop(pending);
        result.map(|_| taken.expect("a source that is ready with Ok has handed over a delivery"))
    }

    /// Waits for a message, then moves up to `limit` waiting messages to the end of `deliveries`. Returns their number.
    /// A `limit` of 0 counts as 1.
    ///
    /// # Cancel safety
    ///
    /// When dropped, no message is lost and `deliveries` is unchanged.
    ///
    /// # Errors
    ///
    /// [`Error::Redis`] once per outage, [`Error::Closed`].
    pub async fn recv_many(&mut self, deliveries: &mut Vec<Delivery>, limit: usize) -> Result<usize> {
        let mut pending = PendingPoll { receiver: self, done: false };
        std::future::poll_fn(|cx| pending.poll(cx, &mut |delivery| deliveries.push(delivery), limit.max(1))).await
    }

    /// Polls for up to `limit` messages and hands them to `sink`, for layers that wrap other layers.
    ///
    /// # Errors
    ///
    /// As [`recv`](Self::recv).
    pub fn poll_recv_many(&mut self, cx: &mut Context<'_>, sink: Sink<'_>, limit: usize) -> Poll<Result<usize>> {
        self.source.poll_recv_many(cx, sink, limit)
    }

    /// Cancels the last pending poll, for layers that wrap other layers.
    pub fn pause(&mut self) {
        self.source.pause();
    }

    /// Stops reading and puts back messages that were taken and not handed over.
    ///
    /// # Cancel safety
    ///
    /// When dropped, putting back continues in the background while the runtime lives.
    ///
    /// # Errors
    ///
    /// [`Error::Redis`] if messages could not be put back; they are counted as dropped.
    pub async fn close(mut self) -> Result<()> {
        self.put_back().await
    }

    pub(crate) async fn put_back(&mut self) -> Result<()> {
        self.source.close().await
    }
}

impl Stream for Receiver {
    type Item = Result<Delivery>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let mut taken = None;
        let polled = self.source.poll_recv_many(cx, &mut |delivery| taken = Some(delivery), 1);
        polled.map(|result| match result {
            Ok(_) => taken.map(Ok),
            Err(Error::Closed | Error::RuntimeEnded) => {
                self.ended = true;
                None
            }
            Err(error) => Some(Err(error)),
        })
    }
}

impl fmt::Debug for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").finish_non_exhaustive()
    }
}

/// A poll of the source by a future, which pauses the source if it is dropped before it is ready.
struct PendingPoll<'a> {
    receiver: &'a mut Receiver,
    done: bool,
}

impl PendingPoll<'_> {
    fn poll(&mut self, cx: &mut Context<'_>, sink: Sink<'_>, limit: usize) -> Poll<Result<usize>> {
        let polled = self.receiver.source.poll_recv_many(cx, sink, limit);
        self.done = polled.is_ready();
        polled
    }
}

impl Drop for PendingPoll<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.receiver.source.pause();
        }
    }
}
