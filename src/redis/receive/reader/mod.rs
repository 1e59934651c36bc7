//! `Reader`: what the consumers of a set of channels share with the task that reads these channels.
//!
//! The [`context`] is what all readers of a layer share. [`waiters`] are the consumers that wait for a message.

pub(crate) mod context;
pub(crate) mod waiters;

use std::sync::Arc;
use std::task::Waker;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::buffer::buffered_entry::BufferedEntry;
use super::buffer::fifo::Buffer;
use crate::name::ChannelName;
use crate::redis::driven::DrivenTask;
use crate::redis::node::fault::Fault;
use crate::redis::receive::reader::context::ReaderContext;
use crate::redis::receive::reader::waiters::Waiters;

/// One set of channels, with the buffer that the task fills and from which consumers take.
pub(crate) struct Reader {
    pub(crate) context: Arc<ReaderContext>,
    pub(crate) channels: Box<[ChannelName]>,
    /// Whether the reader belongs to one consumer and ends with it.
    pub(crate) owned: bool,
    /// Never held across an await.
    state: Mutex<State>,
    /// The future of the task. It checks the state after each [`notify`](Self::notify).
    pub(crate) work: Arc<DrivenTask>,
    /// Cancelled when the task has ended. By then the task has put everything back, unless its runtime ended.
    pub(crate) ended: CancellationToken,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) phase: Phase,
    pub(crate) buffer: Buffer,
    pub(crate) waiters: Waiters,
    /// Requests for a non-blocking pass. The pass sends whether it found anything.
    pub(crate) polls: Vec<oneshot::Sender<bool>>,
    /// Readers that wait for the buffered entries of channels that they now own.
    pub(crate) next_owners: Vec<NextOwner>,
    pub(crate) outage: Outage,
    /// The shard to which entries could not be put back when the reader ended, and the cause.
    pub(crate) lost: Option<(usize, Fault)>,
}

/// How far a reader is on its way to its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    #[default]
    Serving,
    /// The only consumer was dropped. The reader ends when all entries are back in Redis.
    Abandoned,
    /// Consumers take no more entries. The task puts the buffered entries back.
    Closed,
    /// The buffer is empty and stays empty.
    Finished,
}

/// The outage that keeps all messages from consumers, as consumers see it.
#[derive(Default)]
pub(crate) struct Outage {
    /// How many outages and repeated reports have been announced to consumers.
    pub(crate) reports: u64,
    /// The unreachable shard and the cause; `None` while messages can arrive.
    pub(crate) current: Option<(usize, Fault)>,
}

#[derive(Debug, thiserror::Error)]
#[error("the runtime of the layer has ended")]
struct RuntimeEnded;

/// A reader that waits for the buffered entries of another reader.
pub(crate) struct NextOwner {
    pub(crate) reader: Arc<Reader>,
    /// The number of its acquisition.
    pub(crate) ticket: u64,
    pub(crate) done: oneshot::Sender<()>,
}

impl Reader {
    pub(crate) fn new(context: Arc<ReaderContext>, channels: Box<[ChannelName]>, owned: bool) -> Self {
        let (state, work, ended) = (Mutex::default(), Arc::default(), CancellationToken::new());
        Self { context, channels, owned, state, work, ended }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Makes the task check the state.
    pub(crate) fn notify(&self) {
        self.work.wake();
    }

    /// Waits until this reader has handed off its buffered entries of the channels that `next` reads too. The reader
    /// keeps entries that its own consumers wait for.
    pub(crate) async fn hand_off_to(&self, next: Arc<Self>, ticket: u64) {
        let (done, handed_off) = oneshot::channel();
        {
            let mut state = self.state();
            if state.phase == Phase::Finished {
                return;
            }
            state.next_owners.push(NextOwner { reader: next, ticket, done });
        }
        self.notify();
        // The sender is dropped when the reader ends. By then the entries are back in Redis or lost.
        let _ = handed_off.await;
    }

    /// Resets what the task knew before it panicked: the new run has met no outage yet.
    pub(crate) fn restart(&self) {
        self.state().outage.current = None;
    }

    /// Finishes the reader after the end of its task. Entries are left only if the runtime ended; they count as
    /// dropped.
    pub(crate) fn finish(&self) {
        let mut state = self.state();
        state.advance(Phase::Finished);
        if let Some(shard) = state.buffer.abandon() {
            state.lost = Some((shard, Fault::unsent(RuntimeEnded)));
            (*self.context.lost.lock()).clone_from(&state.lost);
        }
        // Dropping these lets the next owners begin, because no entry is left to wait for.
        let (polls, next_owners) = (std::mem::take(&mut state.polls), std::mem::take(&mut state.next_owners));
        let waiters = state.waiters.all();
        drop(state);
        drop((polls, next_owners));
        self.ended.cancel();
        waiters.into_iter().for_each(Waker::wake);
        self.count_drops();
    }

    /// Counts the messages that the buffer has dropped.
    pub(crate) fn count_drops(&self) {
        let dropped = std::mem::take(&mut self.state().buffer.dropped);
        dropped.count();
    }

    /// Changes the buffer, wakes a consumer for each entry that became ready, and counts what was dropped.
    pub(crate) fn change_buffer(&self, change: impl FnOnce(&mut Buffer)) {
        let woken = self.state().change_buffer(change);
        woken.into_iter().for_each(Waker::wake);
        self.count_drops();
    }

    /// Moves the buffered entries of single-reader channels that `next` reads too to the front of its buffer.
    pub(crate) fn hand_off(&self, next: &Self) {
        let concerns_next = |entry: &BufferedEntry| entry.has_one_reader() && next.channels.contains(&entry.source);
        let moved = {
            let mut state = self.state();
            let (moved, kept) = state.buffer.take_all().into_iter().partition::<Vec<_>, _>(concerns_next);
            state.buffer.prepend(kept);
            moved
        };
        // The two states are locked one after the other, so that two readers can hand off to each other.
        let mut target = next.state();
        let refused = target.phase == Phase::Finished;
        if refused {
            drop(target);
            target = self.state();
        }
        let woken = target.change_buffer(|buffer| buffer.prepend(moved));
        let dropped = std::mem::take(&mut target.buffer.dropped);
        drop(target);
        woken.into_iter().for_each(Waker::wake);
        dropped.count();
    }
}

impl State {
    /// Enters `phase`, unless the reader is further already.
    pub(crate) fn advance(&mut self, phase: Phase) {
        self.phase = self.phase.max(phase);
    }

    /// Changes the buffer. Returns the waker of a consumer for each entry that became ready; the caller wakes them
    /// after it has released the lock. A consumer that finds the buffer empty waits until it is woken, so every change
    /// that can add ready entries is made here.
    #[must_use]
    pub(crate) fn change_buffer(&mut self, change: impl FnOnce(&mut Buffer)) -> Vec<Waker> {
        let before = self.buffer.ready.len();
        change(&mut self.buffer);
        (before..self.buffer.ready.len()).map_while(|_| self.waiters.next()).collect()
    }

    /// Whether consumers take no more entries.
    pub(crate) fn is_closed(&self) -> bool {
        self.phase >= Phase::Closed
    }

    /// How many entries have to be read to satisfy the waiting consumers.
    pub(crate) fn missing(&self) -> usize {
        if self.is_closed() { 0 } else { self.waiters.deliveries_wanted.saturating_sub(self.buffer.ready.len()) }
    }

    /// Whether a caller waits for a non-blocking pass. Requests of callers that were dropped are removed first: a pass
    /// for them could take channels over from another reader.
    pub(crate) fn has_polls(&mut self) -> bool {
        self.polls.retain(|poll| !poll.is_closed());
        !self.polls.is_empty()
    }
}
