//! One channel in memory: a fair queue of messages and of those who wait for them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Waker;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::queue::{Entry, Queue, To};
use crate::config::Overflow;
use crate::drops::{self, DropReason};
use crate::error::{Error, Result};
use crate::layer::{Sink, Statistics};
use crate::message::Message;
use crate::name::{ChannelKind, ChannelName};

/// Statistics of a channel start again after this long without a message.
const COUNTS_EXPIRY: Duration = Duration::from_hours(1);

/// Statistics of the layer start again after this long without a message.
const PAST_EXPIRY: Duration = Duration::from_hours(24);

/// All messages that have one non-local part, in the order in which they were sent.
#[derive(Debug)]
pub(super) struct Channel {
    /// The non-local part.
    name: ChannelName,
    capacity: usize,
    shared: Arc<Shared>,
    /// Held for one push, one take or one registration; wakers run and are dropped after it is released, because they
    /// are the code of others.
    state: Mutex<State>,
}

/// How a layer that cannot refuse a message makes room for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) overflow: Overflow,
    /// Bytes of the unread messages of a channel.
    pub(crate) bytes: usize,
}

/// What all channels of a layer have in common.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) expiry: Duration,
    /// What becomes of messages for which there is no room; `None` if they are refused.
    bounds: Option<Bounds>,
    /// Counts epochs for a layer that is made of this one; 0 elsewhere.
    epoch: Arc<AtomicU64>,
    /// Written before the channels are closed one by one and read under their locks, so that none is missed.
    pub(super) closed: AtomicBool,
    /// What channels had counted before an hour of silence. Locked while a channel is, and locks nothing itself.
    past: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct State {
    queue: Queue,
    waiters: Waiters,
    counts: Counts,
}

/// Who waits for messages, the longest first.
///
/// Whoever is woken leaves the list and counts in `woken` until it comes back, served or not. As long as there is
/// something for them, `woken` is never less than the smaller of the queue and those who wait: [`State::wake_next`]
/// restores this after every step that could break it, and so no wake-up is lost with a future that is dropped.
#[derive(Debug, Default)]
struct Waiters {
    list: VecDeque<(Ticket, Waker)>,
    next: Ticket,
    woken: usize,
}

/// A waiter's place in the line, which it keeps when it was woken in vain.
pub(super) type Ticket = u64;

#[derive(Debug, Default)]
struct Counts {
    messages: u64,
    full: u64,
    last: Option<Instant>,
}

impl Shared {
    pub(super) fn new(expiry: Duration, bounds: Option<Bounds>, epoch: Arc<AtomicU64>) -> Self {
        Self { expiry, bounds, epoch, closed: AtomicBool::new(false), past: Mutex::default() }
    }

    pub(super) fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Relaxed) { Err(Error::Closed) } else { Ok(()) }
    }

    /// Adds what channels had counted that have been silent for long.
    pub(super) fn add_past(&self, total: &mut Statistics) {
        let past = self.past.lock();
        total.messages_count += past.messages;
        total.channel_full_count += past.full;
    }

    pub(super) fn forget_past(&self) {
        *self.past.lock() = Counts::default();
    }

    /// While all channels are silent: forgets what they had counted after a day, and gives when that will be.
    pub(super) fn sweep_past(&self, now: Instant) -> Option<Instant> {
        let mut past = self.past.lock();
        let due = past.last? + PAST_EXPIRY;
        if now < due {
            return Some(due);
        }
        *past = Counts::default();
        None
    }
}

impl Channel {
    pub(super) fn new(name: ChannelName, capacity: usize, shared: Arc<Shared>) -> Self {
        Self { name, capacity, shared, state: Mutex::default() }
    }

    pub(super) fn name(&self) -> &ChannelName {
        &self.name
    }

    /// Whether `message` was not refused for want of room, which one that goes back needs none of.
    pub(super) fn push(&self, message: Message, to: To, back: bool) -> Result<bool> {
        let mut state = self.state.lock();
        self.shared.check_open()?;
        let now = Instant::now();
        self.retire_counts(&mut state.counts, now);
        state.counts.last = Some(now);
        let size = self.shared.bounds.map_or(0, |_| message.footprint() + size_of::<Entry>());
        if !back && !self.make_room(&mut state, size, now) {
            return Ok(self.shared.bounds.is_some());
        }
        state.counts.messages += 1;
        let (expires, epoch) = (now + self.shared.expiry, self.shared.epoch.load(Ordering::SeqCst));
        state.queue.push(Entry { expires, epoch, size, message, to });
        let next = state.wake_next();
        drop(state);
        wake(next);
        Ok(true)
    }

    /// Makes room for a message of `size` if that may be done; returns whether there is room.
    fn make_room(&self, state: &mut State, size: usize, now: Instant) -> bool {
        let bytes = self.shared.bounds.map_or(usize::MAX, |bounds| bounds.bytes);
        let has_room = |queue: &Queue| queue.len() < self.capacity && queue.fits(size, bytes);
        if has_room(&state.queue) {
            return true;
        }
        state.queue.drop_expired(now);
        while !has_room(&state.queue) {
            state.counts.full += 1;
            drops::count(DropReason::Overflow, usize::from(self.shared.bounds.is_some()));
            match self.shared.bounds {
                Some(Bounds { overflow: Overflow::DropOldest, .. }) => drop(state.queue.pop()),
                _ => return false,
            }
        }
        true
    }

    /// Gives up to `limit` messages to `sink`, and how many they were; where there is none, `waker` takes its place
    /// in the line.
    pub(super) fn poll(
        &self,
        ticket: &mut Option<Ticket>,
        waker: &Waker,
        sink: Sink<'_>,
        limit: usize,
    ) -> Result<usize> {
        let mut state = self.state.lock();
        self.shared.check_open()?;
        let taken = state.queue.take(&self.name, u64::MAX, sink, limit);
        if taken == 0 {
            let old = state.waiters.wait(ticket, waker);
            drop(state);
            drop(old);
            return Ok(0);
        }
        let old = ticket.take().and_then(|ticket| state.waiters.leave(ticket));
        let next = state.wake_next();
        drop(state);
        drop(old);
        wake(next);
        Ok(taken)
    }

    /// Hands up to `limit` messages that were sent before `epoch` to `sink`, without waiting; returns how many.
    pub(super) fn take_older(&self, epoch: u64, sink: Sink<'_>, limit: usize) -> Result<usize> {
        let mut state = self.state.lock();
        self.shared.check_open()?;
        let taken = state.queue.take(&self.name, epoch, sink, limit);
        let next = state.wake_next();
        drop(state);
        wake(next);
        Ok(taken)
    }

    /// Gives the place in the line back; a wake-up that came for it goes to the next.
    pub(super) fn leave(&self, ticket: Ticket) {
        let mut state = self.state.lock();
        let old = state.waiters.leave(ticket);
        let next = state.wake_next();
        drop(state);
        drop(old);
        wake(next);
    }

    /// Drops all messages and wakes all who wait; they and all who come later find the layer closed.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        let messages = std::mem::take(&mut state.queue);
        let waiters = std::mem::take(&mut state.waiters.list);
        state.waiters.woken += waiters.len();
        drop(state);
        drops::count(DropReason::Closed, messages.len());
        for (_, waker) in waiters {
            waker.wake();
        }
    }

    /// Drops messages and statistics without a trace. Who waits goes on waiting.
    pub(super) fn flush(&self) {
        let mut state = self.state.lock();
        let messages = std::mem::take(&mut state.queue);
        state.counts = Counts::default();
        drop(state);
        drop(messages);
    }

    /// Frees what has expired; gives when the next thing will have, and nothing if the channel is empty.
    pub(super) fn sweep(&self, now: Instant) -> Option<Instant> {
        let mut state = self.state.lock();
        state.queue.drop_expired(now);
        state.queue.shrink();
        self.retire_counts(&mut state.counts, now);
        let head = state.queue.front().map(|entry| entry.expires);
        head.or_else(|| state.counts.last.map(|last| last + self.counts_expiry()))
    }

    /// Whether there is neither a message nor a figure in it.
    pub(super) fn is_spent(&self) -> bool {
        let state = self.state.lock();
        state.queue.is_empty() && state.counts.last.is_none()
    }

    pub(super) fn statistics(&self, now: Instant) -> Statistics {
        let mut state = self.state.lock();
        self.retire_counts(&mut state.counts, now);
        let sent = state.queue.front().and_then(|entry| entry.expires.checked_sub(self.shared.expiry));
        Statistics {
            messages_count: state.counts.messages,
            channel_full_count: state.counts.full,
            messages_pending: state.queue.len() as u64,
            messages_max_age: sent.map_or(Duration::ZERO, |sent| now.saturating_duration_since(sent)),
        }
    }

    /// Moves counts that have rested to those of the whole layer.
    fn retire_counts(&self, counts: &mut Counts, now: Instant) {
        if counts.last.is_none_or(|last| now < last + self.counts_expiry()) {
            return;
        }
        let counts = std::mem::take(counts);
        let mut past = self.shared.past.lock();
        past.messages += counts.messages;
        past.full += counts.full;
        past.last = past.last.max(counts.last);
    }

    /// The names of single-reader channels are made up for one answer each, so that their figures would pile up.
    fn counts_expiry(&self) -> Duration {
        if self.name.kind() == ChannelKind::SingleReader { self.shared.expiry } else { COUNTS_EXPIRY }
    }
}

impl State {
    /// Takes the first who waits out of the line if there is something for it.
    fn wake_next(&mut self) -> Option<Waker> {
        if self.waiters.woken >= self.queue.len() {
            return None;
        }
        let (_, waker) = self.waiters.list.pop_front()?;
        self.waiters.woken += 1;
        Some(waker)
    }
}

impl Waiters {
    /// Puts `waker` into the line, at the place of its ticket if it has one; gives the waker that was there.
    fn wait(&mut self, ticket: &mut Option<Ticket>, waker: &Waker) -> Option<Waker> {
        let Some(kept) = *ticket else {
            *ticket = Some(self.next);
            self.list.push_back((self.next, waker.clone()));
            self.next += 1;
            return None;
        };
        match self.find(kept) {
            Ok(at) if self.list[at].1.will_wake(waker) => None,
            Ok(at) => Some(std::mem::replace(&mut self.list[at].1, waker.clone())),
            Err(at) => {
                self.woken -= 1;
                self.list.insert(at, (kept, waker.clone()));
                None
            }
        }
    }

    fn leave(&mut self, ticket: Ticket) -> Option<Waker> {
        if let Ok(at) = self.find(ticket) {
            return self.list.remove(at).map(|(_, waker)| waker);
        }
        self.woken -= 1;
        None
    }

    fn find(&self, ticket: Ticket) -> Result<usize, usize> {
        self.list.binary_search_by_key(&ticket, |(ticket, _)| *ticket)
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}
