//! One set of channels, read for whoever waits for them: the buffer from which consumers take.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{broadcast, oneshot};
use tokio_util::sync::CancellationToken;

use super::format::ReadFormat;
use crate::drops::{self, DropReason};
use crate::layer::{Event, Sink};
use crate::name::ChannelName;
use crate::redis::closing::Closing;
use crate::redis::driven::DrivenTask;
use crate::redis::node::fault::Fault;
use crate::redis::receive::buffer::entry as parcel;
use crate::redis::receive::buffer::entry::BufferedEntry;
use crate::redis::receive::buffer::held::Held;
use crate::redis::receive::fetch::fetch_loop::FetchLoop;
use crate::redis::receive::fetch::ownership::ChannelOwners;
use crate::redis::topology::places::Places;

/// What readers are called where panics are counted.
pub(crate) const TASK: &str = "reader of Redis";
/// Why a message is in quarantine at which a reader panicked.
pub(crate) const PANICKED: &str = "a panic while it was read";

/// What all readers of a layer need.
pub(crate) struct ReaderContext {
    pub(crate) places: Arc<Places>,
    pub(crate) format: Box<dyn ReadFormat>,
    pub(crate) events: broadcast::Sender<Event>,
    pub(crate) holders: ChannelOwners,
    pub(crate) closing: Closing,
    /// What readers could not put back when the layer closed, and why.
    pub(crate) lost: Mutex<Option<(usize, Fault)>>,
}

impl ReaderContext {
    /// The first pause before something is tried again.
    pub(crate) fn retry_pause(&self) -> Duration {
        self.places.shards.iter().map(|shard| shard.requirements.timing.backoff).max().unwrap_or_default()
    }
}

/// What consumers and the task of one reader share.
pub(crate) struct Reader {
    pub(crate) surroundings: Arc<ReaderContext>,
    pub(crate) channels: Box<[ChannelName]>,
    /// Whether it belongs to one consumer and ends with it.
    pub(crate) owned: bool,
    /// Held only to look and to take, never while waiting for anything.
    state: Mutex<State>,
    /// The work of the task, which looks at the state whenever it is told that it has changed.
    pub(crate) work: Arc<DrivenTask>,
    /// Cancelled when the task has ended and, unless that was with its runtime, put everything back.
    pub(crate) ended: CancellationToken,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) parcels: VecDeque<BufferedEntry>,
    /// What came later and waits for members that are not known yet.
    pub(crate) held: Held,
    /// Deliveries that consumers wait for, all together.
    pub(crate) wanted: usize,
    /// Consumers that wait, first come first served, each once.
    pub(crate) waiters: VecDeque<(u64, Waker)>,
    /// Consumers that exist.
    pub(crate) users: usize,
    pub(crate) phase: Phase,
    /// Those who asked for what is there now; each is told whether anything was.
    pub(crate) looks: Vec<oneshot::Sender<bool>>,
    /// Readers of some of the same channels that begin when they have got what is here.
    pub(crate) successors: Vec<NextOwner>,
    /// How often consumers have been told of an outage.
    pub(crate) reports: u64,
    /// The shard that is away, and why, as long as no messages can come.
    pub(crate) outage: Option<(usize, Fault)>,
    /// What could not be put back when the reader ended, and why.
    pub(crate) lost: Option<(usize, Fault)>,
}

/// How far a reader is on its way to its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    #[default]
    Serving,
    /// The consumer that owned it has gone: it ends when everything has gone back.
    Abandoned,
    /// Nothing may be taken any more: the task is putting back what is there.
    Closed,
    /// Nothing is there any more, and nothing comes.
    Finished,
}

#[derive(Debug, thiserror::Error)]
#[error("the runtime of the layer has ended")]
struct RuntimeEnded;

/// A reader that waits for what another one holds.
pub(crate) struct NextOwner {
    pub(crate) reader: Arc<Reader>,
    /// The number of its claim.
    pub(crate) ticket: u64,
    pub(crate) done: oneshot::Sender<()>,
}

impl Reader {
    pub(crate) fn new(surroundings: Arc<ReaderContext>, channels: Box<[ChannelName]>, owned: bool) -> Self {
        Self {
            surroundings,
            channels,
            owned,
            state: Mutex::default(),
            work: Arc::default(),
            ended: CancellationToken::new(),
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Tells the task to look at the state.
    pub(crate) fn notify(&self) {
        self.work.wake();
    }

    /// Waits until `successor` has got what was popped here from channels of both and nobody here waits for.
    pub(crate) async fn hand_over_to(&self, successor: Arc<Self>, ticket: u64) {
        let (done, given) = oneshot::channel();
        {
            let mut state = self.state();
            if state.phase == Phase::Finished {
                return;
            }
            state.successors.push(NextOwner { reader: successor, ticket, done });
        }
        self.notify();
        // One that ends without an answer has put everything back, or nobody can.
        let _ = given.await;
    }

    /// Notes that the task begins anew, after a panic: it knows of no outage.
    pub(crate) fn begin_anew(&self) {
        self.state().outage = None;
    }

    /// Ends the reader, whose task has ended: by itself, with nothing left, or with its runtime, wherever it was.
    pub(crate) fn finish(self: &Arc<Self>) {
        let mut state = self.state();
        state.reach(Phase::Finished);
        let left = state.take_all();
        if let Some(first) = left.first() {
            drops::count(DropReason::ShardDown, left.iter().map(BufferedEntry::left).sum());
            state.lost = Some((first.shard.index, Fault::unsent(RuntimeEnded)));
            (*self.surroundings.lost.lock()).clone_from(&state.lost);
        }
        // Their successors begin, as nothing is left to wait for.
        let (looks, successors) = (std::mem::take(&mut state.looks), std::mem::take(&mut state.successors));
        let waiters = state.all_waiters();
        drop(state);
        drop((looks, successors));
        self.surroundings.holders.release(self);
        self.ended.cancel();
        waiters.into_iter().for_each(Waker::wake);
    }

    /// Moves the parcels of single-reader channels that `successor` reads too before those that it has.
    pub(crate) fn bequeath(&self, successor: &Self) {
        let is_theirs = |parcel: &BufferedEntry| parcel.has_one_reader() && successor.channels.contains(&parcel.source);
        let theirs = {
            let mut state = self.state();
            let (theirs, ours) = state.take_all().into_iter().partition::<Vec<_>, _>(is_theirs);
            state.prepend(ours);
            theirs
        };
        // The states are held one after the other, so that two readers can do so to each other.
        let mut heirs = successor.state();
        let refused = heirs.phase == Phase::Finished;
        if refused {
            drop(heirs);
            heirs = self.state();
        }
        let woken: Vec<_> = (0..theirs.len()).map_while(|_| heirs.next_waiter()).collect();
        heirs.prepend(theirs);
        drop(heirs);
        woken.into_iter().for_each(Waker::wake);
    }

    /// Takes up to `limit` deliveries out of the buffer; gives how many.
    pub(crate) fn take(&self, state: &mut State, sink: Sink<'_>, limit: usize) -> usize {
        parcel::take_next(&mut state.parcels, &*self.surroundings.format, sink, limit)
    }

    /// The lanes that read these channels: one per shard for the normal ones, one per shard for the others.
    pub(crate) fn lanes(&self) -> Vec<FetchLoop> {
        let ReaderContext { places, format, .. } = &*self.surroundings;
        let mut grouped: Vec<((usize, bool), Vec<ChannelName>)> = Vec::new();
        for channel in &self.channels {
            let one_reader = channel.kind().has_one_reader();
            for shard in places.shards_of_channel(channel) {
                match grouped.iter_mut().find(|(place, _)| *place == (shard.index, one_reader)) {
                    Some((_, channels)) => channels.push(channel.clone()),
                    None => grouped.push(((shard.index, one_reader), vec![channel.clone()])),
                }
            }
        }
        let lanes = grouped.into_iter().map(|((shard, one_reader), channels)| {
            let keys = channels.iter().map(|channel| format.key(channel.non_local())).collect();
            let shard = places.shards[shard].clone();
            FetchLoop::new(shard, channels, keys, self.owned && one_reader, self.surroundings.clone())
        });
        lanes.collect()
    }
}

impl State {
    /// Enters a phase, unless it is further already.
    pub(crate) fn reach(&mut self, phase: Phase) {
        self.phase = self.phase.max(phase);
    }

    /// Whether nothing may be taken any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.phase >= Phase::Closed
    }

    /// How many entries have to be read to satisfy those who wait.
    pub(crate) fn missing(&self) -> usize {
        if self.is_closed() { 0 } else { self.wanted.saturating_sub(self.parcels.len()) }
    }

    /// Puts a parcel behind all others of its channel. It is held if its recipients are not known, or if it has to wait behind
    /// one that is held.
    pub(crate) fn push(&mut self, parcel: BufferedEntry) {
        if parcel.unknown_for().is_some() || self.held.holds_back(&parcel) {
            self.held.push(parcel);
        } else {
            self.parcels.push_back(parcel);
        }
    }

    /// Puts parcels before those that are there.
    pub(crate) fn prepend(&mut self, parcels: Vec<BufferedEntry>) {
        let behind = self.take_all();
        parcels.into_iter().chain(behind).for_each(|parcel| self.push(parcel));
    }

    /// Takes out all parcels, those of each channel in their order: what is held came later.
    pub(crate) fn take_all(&mut self) -> Vec<BufferedEntry> {
        std::mem::take(&mut self.parcels).into_iter().chain(self.held.take()).collect()
    }

    /// Whether somebody asks what is there now. Those who have gone are forgotten: a look for nobody could take over
    /// channels from another reader.
    pub(crate) fn has_looks(&mut self) -> bool {
        self.looks.retain(|look| !look.is_closed());
        !self.looks.is_empty()
    }

    /// Takes out the consumer that has waited longest, to be woken when the state is not held any more: wakers are the
    /// code of others.
    #[must_use]
    pub(crate) fn next_waiter(&mut self) -> Option<Waker> {
        self.waiters.pop_front().map(|(_, waker)| waker)
    }

    /// Takes out all that wait, likewise.
    #[must_use]
    pub(crate) fn all_waiters(&mut self) -> Vec<Waker> {
        self.waiters.drain(..).map(|(_, waker)| waker).collect()
    }
}
