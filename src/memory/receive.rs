//! `MemorySource`: the source of a receiver of `MemoryLayer`.

use std::sync::Arc;
use std::task::{Context, Poll};

use async_trait::async_trait;

use super::MemoryLayer;
use super::channel::{Channel, Ticket};
use super::layer::Inner;
use crate::error::Result;
use crate::layer::{Delivery, Sink, Source};
use crate::name::ChannelName;

/// Reads some channels in turn. It buffers nothing: a message leaves its queue in the poll that hands it over.
#[derive(Debug)]
pub(crate) struct MemorySource {
    inner: Arc<Inner>,
    /// The channels, each with the ticket of this source while it waits.
    channels: Vec<(Arc<Channel>, Option<Ticket>)>,
    /// Index of the channel that is polled first. It moves on after each delivery, so that a busy channel cannot starve
    /// the others.
    turn: usize,
}

impl MemorySource {
    /// Reads `channels`, at least one, and starts with the one at index `turn`.
    pub(super) fn new(inner: Arc<Inner>, channels: Vec<Arc<Channel>>, turn: usize) -> Self {
        let channels: Vec<_> = channels.into_iter().map(|channel| (channel, None)).collect();
        Self { inner, turn: turn % channels.len().max(1), channels }
    }

    /// Hands up to `limit` messages sent before `epoch` to `sink` without waiting. Returns their number.
    pub(crate) fn take_older(&mut self, epoch: u64, sink: Sink<'_>, limit: usize) -> Result<usize> {
        let mut taken = 0;
        let (before, first) = self.channels.split_at(self.turn);
        for (channel, _) in first.iter().chain(before) {
            match channel.take_older(epoch, sink, limit - taken) {
                Ok(more) => taken += more,
                Err(_) if taken > 0 => break,
                Err(error) => return Err(error),
            }
            if taken == limit {
                break;
            }
        }
        if taken > 0 {
            self.turn = (self.turn + 1) % self.channels.len();
        }
        Ok(taken)
    }

    fn take(&mut self, cx: &mut Context<'_>, sink: Sink<'_>, limit: usize) -> Result<usize> {
        let mut taken = 0;
        let (before, first) = self.channels.split_at_mut(self.turn);
        for (channel, ticket) in first.iter_mut().chain(before) {
            match channel.poll(ticket, cx.waker(), sink, limit - taken) {
                Ok(more) => taken += more,
                // The messages handed over before are reported first. The next poll reports that the layer is closed.
                Err(_) if taken > 0 => break,
                Err(error) => return Err(error),
            }
            if taken == limit {
                break;
            }
        }
        Ok(taken)
    }
}

impl MemoryLayer {
    /// Takes a message that was sent before `epoch` from any of `channels`, if there is one.
    pub(crate) fn try_receive_older(&self, channels: &[&str], epoch: u64) -> Result<Option<Delivery>> {
        self.inner.check_open()?;
        let names = ChannelName::parse_sources(channels)?;
        let first = self.inner.turn() % names.len();
        let mut taken = None;
        for name in names[first..].iter().chain(&names[..first]) {
            let Some(channel) = self.inner.channels.get(name.as_str()) else { continue };
            if channel.take_older(epoch, &mut |delivery| taken = Some(delivery), 1)? > 0 {
                // A call that takes no message leaves the turn as it is.
                self.inner.next_turn();
                break;
            }
            self.inner.release(channel);
        }
        Ok(taken)
    }
}

#[async_trait]
impl Source for MemorySource {
    fn poll_recv_many(&mut self, cx: &mut Context<'_>, sink: Sink<'_>, limit: usize) -> Poll<Result<usize>> {
        let limit = limit.max(1);
        match self.take(cx, sink, limit) {
            Ok(0) => Poll::Pending,
            Ok(taken) => {
                self.turn = (self.turn + 1) % self.channels.len();
                self.pause();
                Poll::Ready(Ok(taken))
            }
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    fn pause(&mut self) {
        for (channel, ticket) in &mut self.channels {
            if let Some(ticket) = ticket.take() {
                channel.cancel_wait(ticket);
            }
        }
    }

    async fn close(&mut self) -> Result<()> {
        self.pause();
        Ok(())
    }
}

impl Drop for MemorySource {
    fn drop(&mut self) {
        self.pause();
        for (channel, _) in self.channels.drain(..) {
            self.inner.release(channel);
        }
    }
}
