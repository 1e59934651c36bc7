//! `FallbackSource`: the source of a receiver that reads the remote and the local layer.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Sleep, sleep};

use crate::error::Result;
use crate::fallback::failover::FailoverState;
use crate::layer::{Parts, Receiver, Sink, Source};
use crate::memory::MemorySource;

/// Pause after the remote receiver has failed twice in a row.
const PAUSE: Duration = Duration::from_millis(250);

/// Reads two receivers in the order in which one sender's messages may have reached them. It buffers nothing itself.
///
/// Messages go to one layer at a time, so the messages in the other layer are older. After a return, the local messages
/// are older. During an outage, the messages that stayed here in earlier outages come first, then the messages that the
/// remote receiver had already taken. When the older layer is empty the two take turns, because other processes may
/// still write to the remote layer.
pub(crate) struct FallbackSource {
    state: Arc<FailoverState>,
    remote: Receiver,
    local: MemorySource,
    /// The epoch of the outage in which the remote receiver was found empty.
    drained_epoch: u64,
    /// Whether the remote receiver is polled first, after it was found empty in this outage.
    remote_next: bool,
    pause: Option<Pin<Box<Sleep>>>,
}

impl FallbackSource {
    pub(crate) fn new(state: Arc<FailoverState>, remote: Receiver, local: MemorySource) -> Self {
        Self { state, remote, local, drained_epoch: 0, remote_next: false, pause: None }
    }

    /// Polls the remote receiver. Hides outages: the receiver is polled again, and becomes ready after the outage.
    fn poll_remote(&mut self, cx: &mut Context<'_>, sink: Sink<'_>, limit: usize) -> Poll<Result<usize>> {
        for _ in 0..2 {
            if let Some(pause) = &mut self.pause {
                if pause.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                self.pause = None;
            }
            match self.remote.poll_recv_many(cx, sink, limit) {
                Poll::Ready(Err(error)) if self.state.check_error(&error) => {}
                polled => return polled,
            }
        }
        let mut pause = Box::pin(sleep(PAUSE));
        let _ = pause.as_mut().poll(cx);
        self.pause = Some(pause);
        Poll::Pending
    }

    fn poll_side(&mut self, remote: bool, cx: &mut Context<'_>, sink: Sink<'_>, limit: usize) -> Poll<Result<usize>> {
        let polled =
            if remote { self.poll_remote(cx, sink, limit) } else { self.local.poll_recv_many(cx, sink, limit) };
        if polled.is_ready() {
            // The other side has to stop reading.
            if remote {
                self.local.pause();
            } else {
                self.remote.pause();
            }
            self.remote_next = !remote;
        }
        polled
    }
}

#[async_trait]
impl Source for FallbackSource {
    fn poll_recv_many(&mut self, cx: &mut Context<'_>, sink: Sink<'_>, limit: usize) -> Poll<Result<usize>> {
        let epoch = self.state.epoch();
        let is_local = epoch % 2 == 1;
        if is_local {
            let older = self.local.take_older(epoch, sink, limit);
            if !matches!(older, Ok(0)) {
                self.pause();
                return Poll::Ready(older);
            }
        }
        let remote_first = is_local && (self.drained_epoch != epoch || self.remote_next);
        if let Poll::Ready(result) = self.poll_side(remote_first, cx, sink, limit) {
            return Poll::Ready(result);
        }
        if remote_first {
            self.drained_epoch = epoch;
        }
        self.poll_side(!remote_first, cx, sink, limit)
    }

    fn pause(&mut self) {
        self.remote.pause();
        self.local.pause();
    }

    async fn close(&mut self) -> Result<()> {
        let (remote, local) = tokio::join!(self.remote.put_back(), self.local.close());
        match remote {
            Err(error) if self.state.check_error(&error) => local,
            remote => Parts::from_iter([remote, local]).result(),
        }
    }
}
