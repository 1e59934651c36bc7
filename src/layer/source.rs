//! `Source` and `Sink`: the contract between a `Receiver` and the layer that it reads.

use std::task::{Context, Poll};

use async_trait::async_trait;

use super::Delivery;
use crate::error::Result;

/// Takes the deliveries that a [`Source`] hands over. A source may hold a lock while it calls the sink, so the sink
/// must not call the layer.
pub type Sink<'a> = &'a mut (dyn FnMut(Delivery) + Send);

/// The layer's side of a [`Receiver`](super::Receiver), for implementations of [`ChannelLayer`](super::ChannelLayer).
#[async_trait]
pub trait Source: Send + Sync {
    /// Hands up to `limit` (at least 1) deliveries to `sink` and returns their number, which is at least 1. If there is
    /// none, registers the waker of `cx` and returns [`Poll::Pending`]. A delivery leaves the source only in the poll
    /// that hands it to `sink`.
    ///
    /// # Errors
    ///
    /// As [`Receiver::recv`](super::Receiver::recv).
    fn poll_recv_many(&mut self, cx: &mut Context<'_>, sink: Sink<'_>, limit: usize) -> Poll<Result<usize>>;

    /// Cancels the last pending poll: the caller no longer waits for a message.
    fn pause(&mut self);

    /// Stops reading and puts back messages that were taken and not handed over. Dropping the source does the same in
    /// the background.
    ///
    /// # Errors
    ///
    /// As [`Receiver::close`](super::Receiver::close).
    async fn close(&mut self) -> Result<()>;
}
