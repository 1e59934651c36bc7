//! Reading the remote and the local layer at once: what stands behind a receiver of both.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Sleep, sleep};

use crate::error::Result;
use crate::fallback::failover::Guard;
use crate::layer::{Parts, Receiver, Sink, Source};
use crate::memory::MemorySource;

/// How long a remote layer that fails again at once is left alone.
const PAUSE: Duration = Duration::from_millis(250);

/// Reads two receivers, in the order in which one sender's messages may have come to them. It holds nothing itself.
///
/// Messages go to one layer at a time, so what waits in the other is older: after a return what is local, in an outage
/// what the remote receiver had taken before, and behind what stayed here in earlier outages. When that is empty the two
/// take turns, for others may still write to the remote layer.
pub(crate) struct FallbackSource {
    guard: Arc<Guard>,
    remote: Receiver,
    local: MemorySource,
    /// The outage in which the remote receiver had nothing left.
    emptied: u64,
    /// Whose turn it is then.
    remote_next: bool,
    pause: Option<Pin<Box<Sleep>>>,
}

impl FallbackSource {
    pub(crate) fn new(guard: Arc<Guard>, remote: Receiver, local: MemorySource) -> Self {
        Self { guard, remote, local, emptied: 0, remote_next: false, pause: None }
    }

    /// An outage is no error here; the remote receiver is asked again, and is ready when it is over.
    fn poll_remote(&mut self, cx: &mut Context<'_>, sink: Sink<'_>, limit: usize) -> Poll<Result<usize>> {
        for _ in 0..2 {
            if let Some(pause) = &mut self.pause {
                if pause.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                self.pause = None;
            }
            match self.remote.poll_recv_many(cx, sink, limit) {
                Poll::Ready(Err(error)) if self.guard.judge(&error) => {}
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
            // Neither reads on for nobody.
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
        let epoch = self.guard.epoch();
        let is_local = epoch % 2 == 1;
        if is_local {
            let older = self.local.take_older(epoch, sink, limit);
            if !matches!(older, Ok(0)) {
                self.pause();
                return Poll::Ready(older);
            }
        }
        let remote_first = is_local && (self.emptied != epoch || self.remote_next);
        if let Poll::Ready(result) = self.poll_side(remote_first, cx, sink, limit) {
            return Poll::Ready(result);
        }
        if remote_first {
            self.emptied = epoch;
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
            Err(error) if self.guard.judge(&error) => local,
            remote => Parts::from_iter([remote, local]).result(),
        }
    }
}
