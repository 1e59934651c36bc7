//! `Channel`: one channel of an inbox.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll};

use channel_layer::{Error, Receiver};
use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use super::channels::Stamps;
use super::delivery::Held;
use crate::bridge::call::CallState;
use crate::bridge::event_loop::LoopCalls;

/// How many outages one poll passes over. A receiver reports the outage of each server once, and then waits.
const REPORTS: usize = 100;

/// A channel by its full name.
pub(crate) struct Channel {
    pub(crate) name: Box<str>,
    /// Never locked while Python runs. A poll of the receiver may wake a loop, which locks only the mailbox of the
    /// loop.
    state: Mutex<ChannelState>,
}

/// The messages of a channel, and the calls that wait for them.
pub(crate) struct ChannelState {
    /// Messages that were read for the channel or returned to it, in the order of their numbers.
    pub(crate) queue: VecDeque<Held>,
    pub(crate) waiters: VecDeque<Waiter>,
    pub(crate) source: Source,
    /// Whether the source has been started.
    pub(crate) is_started: bool,
    /// Whether the receiver reads for a call.
    is_reading: bool,
    /// When the last call stopped waiting.
    pub(crate) idle_since: Instant,
    /// Whether the inbox has removed the channel. Nothing is added to it then.
    pub(crate) is_removed: bool,
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

impl Channel {
    pub(crate) fn new(name: &str) -> Self {
        let state = ChannelState {
            queue: VecDeque::new(),
            waiters: VecDeque::new(),
            source: if name.contains('!') { Source::Pump } else { Source::Receiver(None) },
            is_started: false,
            is_reading: false,
            idle_since: Instant::now(),
            is_removed: false,
        };
        Self { name: name.into(), state: Mutex::new(state) }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, ChannelState> {
        self.state.lock()
    }

    /// Whether a pump reads the channel.
    pub(crate) fn is_process_local(&self) -> bool {
        self.name.contains('!')
    }

    /// The part of the name up to and including the `!`, or the whole name.
    pub(crate) fn non_local(&self) -> &str {
        self.name.split_inclusive('!').next().unwrap_or(&self.name)
    }
}

impl ChannelState {
    /// Takes up to `limit` messages: those of the queue, or if there are none, those of the receiver.
    ///
    /// An outage is no error here: the receiver goes on when the servers are back.
    pub(crate) fn poll_take(
        &mut self,
        cx: &mut Context<'_>,
        limit: usize,
        stamps: &Stamps,
    ) -> Poll<Result<Vec<Held>, Error>> {
        let mut taken = Vec::new();
        if !self.queue.is_empty() {
            let now = Instant::now();
            while taken.len() < limit
                && let Some(held) = self.queue.pop_front()
            {
                if held.expires > now {
                    taken.push(held);
                }
            }
        }
        if !taken.is_empty() {
            return Poll::Ready(Ok(taken));
        }
        let Source::Receiver(Some(receiver)) = &mut self.source else {
            return Poll::Pending;
        };
        for _ in 0..REPORTS {
            let mut sink = |delivery: channel_layer::Delivery| taken.push(stamps.hold(delivery.message));
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

    /// Returns a message to its place.
    pub(crate) fn put_back(&mut self, held: Held) {
        let place = self.queue.partition_point(|other| other.number < held.number);
        self.queue.insert(place, held);
    }

    /// The loop of the first call whose loop is open.
    pub(crate) fn next_loop(&mut self) -> Option<Arc<LoopCalls>> {
        while self.waiters.front().is_some_and(|waiter| waiter.calls.mailbox.is_closed()) {
            self.waiters.pop_front();
        }
        self.waiters.front().map(|waiter| waiter.calls.clone())
    }

    /// Removes a call. Stops reading if no other call waits.
    pub(crate) fn remove_waiter(&mut self, number: u64) {
        if let Some(place) = self.waiters.iter().position(|waiter| waiter.call.number == number) {
            self.waiters.remove(place);
        }
        if self.waiters.is_empty() {
            self.idle_since = Instant::now();
            if std::mem::take(&mut self.is_reading)
                && let Source::Receiver(Some(receiver)) = &mut self.source
            {
                receiver.pause();
            }
        }
    }
}
