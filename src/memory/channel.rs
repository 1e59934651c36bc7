//! `Channel`: one channel in memory, with the queue of its messages and the futures that wait for them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Waker;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::queue::{Entry, Queue, Recipients};
use crate::config::Overflow;
use crate::drops::{self, DropReason, Drops};
use crate::error::{Error, Result};
use crate::layer::{Sink, Statistics};
use crate::message::Message;
use crate::name::{ChannelKind, ChannelName};

/// Idle time after which the statistics of a channel restart.
const COUNTS_EXPIRY: Duration = Duration::from_hours(1);

/// Idle time after which the statistics of the layer restart.
const TOTAL_EXPIRY: Duration = Duration::from_hours(24);

/// All messages with the same non-local part, in the order in which they were sent.
#[derive(Debug)]
pub(super) struct Channel {
    /// The non-local part.
    name: ChannelName,
    capacity: usize,
    shared: Arc<Shared>,
    /// Locked for one push, one take or one registration. Wakers are run and dropped, and dropped messages are counted,
    /// after the lock is released, because wakers and the recorder of metrics are foreign code.
    state: Mutex<State>,
}

/// Limits of each channel in a layer that drops messages instead of refusing them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) overflow: Overflow,
    /// Limit of the unread messages of a channel, in bytes.
    pub(crate) bytes: usize,
}

/// State shared by all channels of a layer.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) expiry: Duration,
    /// `None` if the layer refuses messages when there is no room.
    bounds: Option<Bounds>,
    /// The epoch counter of a layer that wraps this one. It stays 0 if no layer does.
    epoch: Arc<AtomicU64>,
    /// Set before the channels are closed one by one, and read under their locks, so that no channel stays open.
    pub(super) closed: AtomicBool,
    /// Counters of channels that became idle. Locked while a channel is locked; locks nothing itself.
    idle: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct State {
    queue: Queue,
    waiters: Waiters,
    counts: Counts,
}

/// Futures that wait for messages, the longest waiting first.
///
/// A woken waiter leaves the list and counts in `woken` until it polls again or is dropped. `woken` is never less than
/// the smaller of the number of messages and the number of waiters. [`State::wake_next`] restores this after every step
/// that could break it, so no wake-up is lost when a future is dropped.
#[derive(Debug, Default)]
struct Waiters {
    list: VecDeque<(Ticket, Waker)>,
    next: Ticket,
    woken: usize,
}

/// The position of a waiter in the list. A waiter that finds no message after a wake-up keeps its position.
pub(super) type Ticket = u64;

#[derive(Debug, Default)]
struct Counts {
    messages: u64,
    full: u64,
    /// Time of the last message.
    last: Option<Instant>,
}

impl Shared {
    pub(super) fn new(expiry: Duration, bounds: Option<Bounds>, epoch: Arc<AtomicU64>) -> Self {
        Self { expiry, bounds, epoch, closed: AtomicBool::new(false), idle: Mutex::default() }
    }

    pub(super) fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Relaxed) { Err(Error::Closed) } else { Ok(()) }
    }

    /// Adds the counters of idle channels.
    pub(super) fn add_idle_counts(&self, total: &mut Statistics) {
        let idle = self.idle.lock();
        total.messages_count += idle.messages;
        total.channel_full_count += idle.full;
    }

    pub(super) fn reset_idle_counts(&self) {
        *self.idle.lock() = Counts::default();
    }

    /// Resets the counters of idle channels a day after their last message. Returns when that is due; `None` if there
    /// are no counters left.
    pub(super) fn expire_idle_counts(&self, now: Instant) -> Option<Instant> {
        let mut idle = self.idle.lock();
        let due = idle.last? + TOTAL_EXPIRY;
        if now < due {
            return Some(due);
        }
        *idle = Counts::default();
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

    /// Appends `message`. Returns `false` if the message is refused because the channel is full. With
    /// `ignore_capacity`, as for a requeued message, no limit applies.
    pub(super) fn push(&self, message: Message, recipients: Recipients, ignore_capacity: bool) -> Result<bool> {
        let mut drops = Drops::default();
        let pushed = self.push_uncounted(message, recipients, ignore_capacity, &mut drops);
        drops.count();
        pushed
    }

    /// Pushes `message` as [`push`](Self::push) does. Adds the messages that it drops to `drops`.
    fn push_uncounted(
        &self,
        message: Message,
        recipients: Recipients,
        ignore_capacity: bool,
        drops: &mut Drops,
    ) -> Result<bool> {
        let mut state = self.state.lock();
        self.shared.check_open()?;
        let now = Instant::now();
        self.retire_counts(&mut state.counts, now);
        state.counts.last = Some(now);
        let size = self.shared.bounds.map_or(0, |_| message.footprint() + size_of::<Entry>());
        if !ignore_capacity && !self.make_room(&mut state, size, now, drops) {
            return Ok(self.shared.bounds.is_some());
        }
        state.counts.messages += 1;
        let (expires, epoch) = (now + self.shared.expiry, self.shared.epoch.load(Ordering::SeqCst));
        state.queue.push(Entry { expires, epoch, size, message, recipients });
        let next = state.wake_next();
        drop(state);
        wake(next);
        Ok(true)
    }

    /// Makes room for a message of `size` if the layer drops messages. Returns whether there is room.
    fn make_room(&self, state: &mut State, size: usize, now: Instant, drops: &mut Drops) -> bool {
        let bytes = self.shared.bounds.map_or(usize::MAX, |bounds| bounds.bytes);
        let has_room = |queue: &Queue| queue.len() < self.capacity && queue.fits(size, bytes);
        if has_room(&state.queue) {
            return true;
        }
        state.queue.drop_expired(now, drops);
        while !has_room(&state.queue) {
            state.counts.full += 1;
            drops.add(DropReason::Overflow, usize::from(self.shared.bounds.is_some()));
            match self.shared.bounds {
                Some(Bounds { overflow: Overflow::DropOldest, .. }) => drop(state.queue.pop()),
                _ => return false,
            }
        }
        true
    }

    /// Hands up to `limit` messages to `sink` and returns their number. If there is none, adds `waker` to the list of
    /// waiters.
    pub(super) fn poll(
        &self,
        ticket: &mut Option<Ticket>,
        waker: &Waker,
        sink: Sink<'_>,
        limit: usize,
    ) -> Result<usize> {
        let mut drops = Drops::default();
        let mut state = self.state.lock();
        self.shared.check_open()?;
        let taken = state.queue.take(&self.name, u64::MAX, sink, limit, &mut drops);
        let (old, next) = if taken == 0 {
            (state.waiters.register(ticket, waker), None)
        } else {
            (ticket.take().and_then(|ticket| state.waiters.remove(ticket)), state.wake_next())
        };
        drop(state);
        drop(old);
        wake(next);
        drops.count();
        Ok(taken)
    }

    /// Hands up to `limit` messages sent before `epoch` to `sink` without waiting. Returns their number.
    pub(super) fn take_older(&self, epoch: u64, sink: Sink<'_>, limit: usize) -> Result<usize> {
        let mut drops = Drops::default();
        let mut state = self.state.lock();
        self.shared.check_open()?;
        let taken = state.queue.take(&self.name, epoch, sink, limit, &mut drops);
        let next = state.wake_next();
        drop(state);
        wake(next);
        drops.count();
        Ok(taken)
    }

    /// Removes a waiter. A wake-up that it has received goes to the next waiter.
    pub(super) fn cancel_wait(&self, ticket: Ticket) {
        let mut state = self.state.lock();
        let old = state.waiters.remove(ticket);
        let next = state.wake_next();
        drop(state);
        drop(old);
        wake(next);
    }

    /// Drops all messages and wakes all waiters. The waiters and all later callers find the layer closed.
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

    /// Drops messages and statistics without counting them. Waiters stay.
    pub(super) fn flush(&self) {
        let mut state = self.state.lock();
        let messages = std::mem::take(&mut state.queue);
        state.counts = Counts::default();
        drop(state);
        drop(messages);
    }

    /// Frees expired messages, which it adds to `drops`, and counters. Returns when to do so next; `None` if the
    /// channel is empty.
    pub(super) fn sweep(&self, now: Instant, drops: &mut Drops) -> Option<Instant> {
        let mut state = self.state.lock();
        state.queue.drop_expired(now, drops);
        state.queue.shrink();
        self.retire_counts(&mut state.counts, now);
        let head = state.queue.front().map(|entry| entry.expires);
        head.or_else(|| state.counts.last.map(|last| last + self.counts_expiry()))
    }

    /// Whether the channel has neither messages nor counters.
    pub(super) fn is_unused(&self) -> bool {
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

    /// Moves the counters of an idle channel to the counters of the layer.
    fn retire_counts(&self, counts: &mut Counts, now: Instant) {
        if counts.last.is_none_or(|last| now < last + self.counts_expiry()) {
            return;
        }
        let counts = std::mem::take(counts);
        let mut idle = self.shared.idle.lock();
        idle.messages += counts.messages;
        idle.full += counts.full;
        idle.last = idle.last.max(counts.last);
    }

    /// Counters of single-reader channels expire earlier. Each such name is used for one answer only, so the counters
    /// would pile up.
    fn counts_expiry(&self) -> Duration {
        if self.name.kind() == ChannelKind::SingleReader { self.shared.expiry } else { COUNTS_EXPIRY }
    }
}

impl State {
    /// Removes the first waiter from the list if there is a message for it. Returns its waker.
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
    /// Adds `waker` to the list, at the position of its ticket if it has one. Returns the waker that it replaces.
    fn register(&mut self, ticket: &mut Option<Ticket>, waker: &Waker) -> Option<Waker> {
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

    fn remove(&mut self, ticket: Ticket) -> Option<Waker> {
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
