//! `Entry`: one channel of an inbox.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use channel_layer::{Error, Message, Receiver};
use tokio::time::Instant;

use super::delivery::Held;
use crate::bridge::call::CallState;
use crate::bridge::event_loop::LoopCalls;

/// How often one poll goes on after an outage. A receiver reports the outage of each server once, and then waits.
const REPORTS: usize = 100;

/// A channel: its messages, and the calls that wait for them.
pub(crate) struct Entry {
    /// Messages that were read for the channel or given back, in the order of their numbers.
    pub(crate) queue: VecDeque<Held>,
    pub(crate) waiters: VecDeque<Waiter>,
    pub(crate) source: Source,
    /// Whether the receiver reads for a call.
    is_reading: bool,
    /// When the last call stopped waiting.
    pub(crate) idle_since: Instant,
}

/// Where further messages come from.
pub(crate) enum Source {
    /// The pump of the process-local channels, which adds them to the queue.
    Pump,
    /// A receiver of this channel; `None` until the layer is connected.
    Receiver(Option<Receiver>),
}

/// A call that waits, and its loop.
pub(crate) struct Waiter {
    pub(crate) call: Arc<CallState>,
    pub(crate) calls: Arc<LoopCalls>,
}

/// Gives messages their numbers and their expiry.
pub(crate) struct Numbers {
    next: u64,
    expiry: Duration,
}

impl Entry {
    pub(crate) fn new(channel: &str) -> Self {
        let source = if channel.contains('!') { Source::Pump } else { Source::Receiver(None) };
        Self { queue: VecDeque::new(), waiters: VecDeque::new(), source, is_reading: false, idle_since: Instant::now() }
    }

    /// Takes up to `limit` messages: those of the queue, or if there are none, those of the receiver.
    ///
    /// An outage is no error here: the receiver goes on when the servers are back.
    pub(crate) fn poll_take(
        &mut self,
        cx: &mut Context<'_>,
        limit: usize,
        numbers: &mut Numbers,
    ) -> Poll<Result<Vec<Held>, Error>> {
        let now = Instant::now();
        let mut taken = Vec::new();
        while taken.len() < limit
            && let Some(held) = self.queue.pop_front()
        {
            if held.expires > now {
                taken.push(held);
            }
        }
        if !taken.is_empty() {
            return Poll::Ready(Ok(taken));
        }
        let Source::Receiver(Some(receiver)) = &mut self.source else { return Poll::Pending };
        for _ in 0..REPORTS {
            let mut sink = |delivery: channel_layer::Delivery| taken.push(numbers.hold(delivery.message, now));
            let polled = receiver.poll_recv_many(cx, &mut sink, limit);
            self.is_reading = polled.is_pending();
            match polled {
                Poll::Ready(Err(error)) if error.is_transient() => {}
                Poll::Ready(result) => return Poll::Ready(result.map(|_| taken)),
                Poll::Pending => return Poll::Pending,
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Puts a message back to its place.
    pub(crate) fn put_back(&mut self, held: Held) {
        let place = self.queue.partition_point(|other| other.number < held.number);
        self.queue.insert(place, held);
    }

    /// The loop of the first call whose loop is open.
    pub(crate) fn next_loop(&mut self) -> Option<Arc<LoopCalls>> {
        self.waiters.retain(|waiter| !waiter.calls.mailbox.is_closed());
        self.waiters.front().map(|waiter| waiter.calls.clone())
    }

    /// Removes a call. Stops reading if no other call waits.
    pub(crate) fn remove_waiter(&mut self, number: u64) {
        self.waiters.retain(|waiter| waiter.call.number != number);
        if self.waiters.is_empty() {
            self.idle_since = Instant::now();
            if std::mem::take(&mut self.is_reading)
                && let Source::Receiver(Some(receiver)) = &mut self.source
            {
                receiver.pause();
            }
        }
    }

    /// Whether the entry holds nothing that has to be kept.
    pub(crate) fn is_unused(&self) -> bool {
        self.waiters.is_empty() && self.queue.is_empty()
    }
}

impl Numbers {
    pub(crate) fn new(expiry: Duration) -> Self {
        Self { next: 0, expiry }
    }

    pub(crate) fn hold(&mut self, message: Message, now: Instant) -> Held {
        let number = self.next;
        self.next += 1;
        Held { number, message, expires: now + self.expiry }
    }
}
