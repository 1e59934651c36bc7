//! Somebody who takes from a reader.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use async_trait::async_trait;
use tokio::sync::oneshot;

use super::reader::{Phase, Reader, State};
use crate::error::Result;
use crate::layer::{Delivery, Sink, Source};

/// One consumer of a reader: a [`Receiver`](crate::Receiver), or one call of `receive`.
pub(crate) struct Consumer {
    reader: Arc<Reader>,
    id: u64,
    /// How much it waits for; 0 while it does not wait.
    waiting: usize,
    /// The last report of an outage that it knows of.
    told: u64,
}

/// The most that one consumer can say that it waits for; a read brings no more anyway.
const MOST_WANTED: usize = 1000;

static NEXT_ID: AtomicU64 = AtomicU64::new(0);

impl Consumer {
    pub(crate) fn new(reader: Arc<Reader>) -> Self {
        let told = {
            let mut state = reader.state();
            state.users += 1;
            // A call that was answered at once would not wait for the server, and a loop of such calls would let nothing
            // else run.
            state.reports
        };
        Self { reader, id: NEXT_ID.fetch_add(1, Ordering::Relaxed), waiting: 0, told }
    }

    /// Waits for one delivery.
    pub(crate) async fn recv(mut self) -> Result<Delivery> {
        let mut taken = None;
        std::future::poll_fn(|cx| self.poll_recv_many(cx, &mut |delivery| taken = Some(delivery), 1)).await?;
        Ok(taken.expect("a consumer that is ready with Ok has handed over a delivery"))
    }

    /// Takes a delivery that is there now.
    pub(crate) async fn try_recv(self) -> Result<Option<Delivery>> {
        loop {
            let looked = {
                let mut state = self.reader.state();
                if state.is_closed() {
                    return Err(self.reader.surroundings.closing.error());
                }
                let mut taken = None;
                if self.reader.take(&mut state, &mut |delivery| taken = Some(delivery), 1) > 0 {
                    received(1);
                    return Ok(taken);
                }
                let (look, looked) = oneshot::channel();
                state.looks.push(look);
                looked
            };
            self.reader.notify();
            // Nobody answers if the reader has ended, or begins anew.
            let Ok(found) = looked.await else { continue };
            // What was found may be unreadable, or another caller was faster: then there may be more behind it.
            if !found {
                let outage = self.reader.state().outage.clone();
                let places = &self.reader.surroundings.places;
                return outage.map_or(Ok(None), |(shard, fault)| Err(places.error(shard, fault)));
            }
        }
    }

    fn wait_for(&mut self, state: &mut State, wanted: usize) {
        state.wanted = state.wanted - self.waiting + wanted;
        self.waiting = wanted;
    }

    /// Stops waiting; passes the turn on if it was this consumer's and something is left.
    fn stop_waiting(&mut self) {
        let reader = self.reader.clone();
        let left = self.leave_line(&mut reader.state());
        left.pass_on();
    }

    /// Takes this consumer out of those who wait.
    fn leave_line(&mut self, state: &mut State) -> Left {
        self.wait_for(state, 0);
        let place = state.waiters.iter().position(|(id, _)| *id == self.id);
        let own = place.and_then(|place| state.waiters.remove(place)).map(|(_, waker)| waker);
        let next = if state.parcels.is_empty() { None } else { state.next_waiter() };
        Left { _own: own, next }
    }
}

/// The wakers of one who left the line and of the next: the code of others, for when the state is not held any more.
#[must_use]
struct Left {
    _own: Option<Waker>,
    next: Option<Waker>,
}

impl Left {
    fn pass_on(self) {
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
        if state.is_closed() || reader.surroundings.closing.has_ended() {
            return Poll::Ready(Err(reader.surroundings.closing.error()));
        }
        let taken = reader.take(&mut state, sink, limit);
        if taken > 0 {
            // In one step with the taking: the task must not see somebody wait for what has been taken.
            let left = self.leave_line(&mut state);
            drop(state);
            left.pass_on();
            received(taken);
            return Poll::Ready(Ok(taken));
        }
        let is_news = state.reports > std::mem::replace(&mut self.told, state.reports);
        if is_news && let Some((shard, fault)) = state.outage.clone() {
            let left = self.leave_line(&mut state);
            drop(state);
            left.pass_on();
            return Poll::Ready(Err(reader.surroundings.places.error(shard, fault)));
        }
        let mut outdated = None;
        match state.waiters.iter_mut().find(|(id, _)| *id == self.id) {
            Some((_, waker)) if waker.will_wake(cx.waker()) => {}
            Some((_, waker)) => outdated = Some(std::mem::replace(waker, cx.waker().clone())),
            None => state.waiters.push_back((self.id, cx.waker().clone())),
        }
        self.wait_for(&mut state, limit.min(MOST_WANTED));
        drop(state);
        drop(outdated);
        reader.work.poll_inline();
        Poll::Pending
    }

    fn pause(&mut self) {
        self.stop_waiting();
        self.reader.notify();
    }

    async fn close(&mut self) -> Result<()> {
        {
            let mut state = self.reader.state();
            state.reach(Phase::Closed);
        }
        self.reader.notify();
        self.reader.ended.cancelled().await;
        match self.reader.state().lost.take() {
            Some((shard, fault)) => Err(self.reader.surroundings.places.error(shard, fault)),
            None => Ok(()),
        }
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.stop_waiting();
        {
            let mut state = self.reader.state();
            state.users -= 1;
            if self.reader.owned {
                state.reach(Phase::Abandoned);
            }
        }
        self.reader.notify();
    }
}

fn received(count: usize) {
    metrics::counter!("channel_layer_received_total").increment(count as u64);
}
