//! `Consumer`: one receiver, or one call of `receive`, that takes deliveries from a reader.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use async_trait::async_trait;
use tokio::sync::oneshot;

use super::reader::{Phase, Reader, State};
use crate::drops;
use crate::error::Result;
use crate::layer::{Delivery, Sink, Source};

/// One consumer of a reader: a [`Receiver`](crate::Receiver), or one call of `receive`.
pub(crate) struct Consumer {
    reader: Arc<Reader>,
    id: u64,
    /// How many deliveries the consumer waits for; 0 while it does not wait.
    waiting: usize,
    /// How many reports of outages the consumer has seen.
    seen_reports: u64,
}

/// The most deliveries that one consumer waits for. A read returns fewer.
const MOST_WANTED: usize = 1000;

static NEXT_ID: AtomicU64 = AtomicU64::new(0);

impl Consumer {
    pub(crate) fn new(reader: Arc<Reader>) -> Self {
        let seen_reports = {
            let mut state = reader.state();
            state.waiters.consumers += 1;
            // The present outage counts as seen. A call that failed at once would not wait for the server, and a loop
            // of such calls would keep other tasks from running.
            state.outage.reports
        };
        Self { reader, id: NEXT_ID.fetch_add(1, Ordering::Relaxed), waiting: 0, seen_reports }
    }

    /// Waits for one delivery.
    pub(crate) async fn recv(mut self) -> Result<Delivery> {
        let mut taken = None;
        std::future::poll_fn(|cx| self.poll_recv_many(cx, &mut |delivery| taken = Some(delivery), 1)).await?;
        Ok(taken.expect("a consumer that is ready with Ok has handed over a delivery"))
    }

    /// Returns a delivery without waiting for one to be sent; `None` if there is none now.
    pub(crate) async fn try_recv(self) -> Result<Option<Delivery>> {
        loop {
            let polled = {
                let mut state = self.reader.state();
                if state.is_closed() {
                    return Err(self.reader.context.closing.error());
                }
                let mut taken = None;
                if self.take(&mut state, &mut |delivery| taken = Some(delivery), 1) > 0 {
                    drop(state);
                    self.count(1);
                    return Ok(taken);
                }
                let (poll, polled) = oneshot::channel();
                state.polls.push(poll);
                polled
            };
            self.reader.notify();
            self.reader.count_drops();
            // The sender is dropped when the reader ends or restarts.
            let Ok(found) = polled.await else { continue };
            // If the pass found entries that are unreadable or that another caller took, there may be more behind them.
            if !found {
                let outage = self.reader.state().outage.current.clone();
                let places = &self.reader.context.places;
                return outage.map_or(Ok(None), |(shard, fault)| Err(places.error(shard, fault)));
            }
        }
    }

    fn take(&self, state: &mut State, sink: Sink<'_>, limit: usize) -> usize {
        state.buffer.deliver(&*self.reader.context.format, sink, limit)
    }

    fn wait_for(&mut self, state: &mut State, wanted: usize) {
        state.waiters.deliveries_wanted = state.waiters.deliveries_wanted - self.waiting + wanted;
        self.waiting = wanted;
    }

    /// Counts `received` deliveries, and what was dropped before them.
    fn count(&self, received: usize) {
        drops::count_received(received);
        self.reader.count_drops();
    }

    /// Stops waiting. If the consumer had been woken and entries are left, it wakes the next consumer.
    fn stop_waiting(&mut self) {
        let reader = self.reader.clone();
        let left = self.leave_queue(&mut reader.state());
        left.wake_next();
    }

    fn leave_queue(&mut self, state: &mut State) -> LeftQueue {
        self.wait_for(state, 0);
        let own = state.waiters.remove(self.id);
        let next = if state.buffer.ready.is_empty() { None } else { state.waiters.next() };
        LeftQueue { _own: own, next }
    }
}

/// The wakers of a consumer that left the queue and of the next one. They are woken or dropped after the lock of the
/// state is released, because a waker runs code of the application.
#[must_use]
struct LeftQueue {
    _own: Option<Waker>,
    next: Option<Waker>,
}

impl LeftQueue {
    fn wake_next(self) {
        if let Some(waker) = self.next {
            waker.wake();
        }
    }
}

#[async_trait]
impl Source for Consumer {
    fn poll_recv_many(&mut self, cx: &mut Context<'_>, sink: Sink<'_>, limit: usize) -> Poll<Result<usize>> {
        let reader = self.reader.clone();
        let mut state = reader.state();
        if state.is_closed() || reader.context.closing.has_ended() {
            return Poll::Ready(Err(reader.context.closing.error()));
        }
        let taken = self.take(&mut state, sink, limit);
        if taken > 0 {
            // Under the same lock as the taking: otherwise the task could read for a consumer that has its deliveries.
            let left = self.leave_queue(&mut state);
            drop(state);
            left.wake_next();
            self.count(taken);
            return Poll::Ready(Ok(taken));
        }
        let reports = state.outage.reports;
        let is_new = reports > std::mem::replace(&mut self.seen_reports, reports);
        if is_new && let Some((shard, fault)) = state.outage.current.clone() {
            let left = self.leave_queue(&mut state);
            drop(state);
            left.wake_next();
            return Poll::Ready(Err(reader.context.places.error(shard, fault)));
        }
        let replaced = state.waiters.register(self.id, cx);
        self.wait_for(&mut state, limit.min(MOST_WANTED));
        drop(state);
        drop(replaced);
        reader.work.poll_inline();
        reader.count_drops();
        Poll::Pending
    }

    fn pause(&mut self) {
        self.stop_waiting();
        self.reader.notify();
    }

    async fn close(&mut self) -> Result<()> {
        {
            let mut state = self.reader.state();
            state.advance(Phase::Closed);
        }
        self.reader.notify();
        self.reader.ended.cancelled().await;
        match self.reader.state().lost.take() {
            Some((shard, fault)) => Err(self.reader.context.places.error(shard, fault)),
            None => Ok(()),
        }
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.stop_waiting();
        {
            let mut state = self.reader.state();
            state.waiters.consumers -= 1;
            if self.reader.owned {
                state.advance(Phase::Abandoned);
            }
        }
        self.reader.notify();
    }
}
