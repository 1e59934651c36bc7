//! One set of channels, read for whoever waits for them: the buffer from which consumers take.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, broadcast, oneshot};
use tokio_util::sync::CancellationToken;

use super::holders::Holders;
use super::lane::Lane;
use super::parcel::{self, Parcel};
use super::quarantine::Quarantine;
use crate::layer::{Delivery, Event};
use crate::name::ChannelName;
use crate::redis::envelope::Envelope;
use crate::redis::fault::Fault;
use crate::redis::group::Groups;
use crate::redis::topology::Topology;

/// What all readers of a layer need.
pub(super) struct Surroundings {
    pub(super) topology: Arc<Topology>,
    pub(super) envelope: Arc<Envelope>,
    pub(super) groups: Arc<Groups>,
    pub(super) quarantine: Quarantine,
    pub(super) events: broadcast::Sender<Event>,
    pub(super) holders: Holders,
    /// Cancelled when the layer closes.
    pub(super) closing: CancellationToken,
    /// What readers could not put back when they ended, and why.
    pub(super) lost: Mutex<Option<(usize, Fault)>>,
}

/// What consumers and the task of one reader share.
pub(super) struct Reader {
    pub(super) surroundings: Arc<Surroundings>,
    pub(super) channels: Box<[ChannelName]>,
    /// Whether it belongs to one consumer and ends with it.
    pub(super) owned: bool,
    /// Held only to look and to take, never while waiting for anything.
    state: Mutex<State>,
    /// Tells the task that the state has changed.
    pub(super) changed: Notify,
    /// Cancelled when the task has put everything back.
    pub(super) ended: CancellationToken,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) parcels: VecDeque<Parcel>,
    /// Deliveries that consumers wait for, all together.
    pub(super) wanted: usize,
    /// Consumers that wait, first come first served, each once.
    pub(super) waiters: VecDeque<(u64, Waker)>,
    /// Consumers that exist.
    pub(super) users: usize,
    /// Nothing may be taken any more: the task is putting back what is there.
    pub(super) closed: bool,
    /// Those who asked for what is there now; each is told whether anything was.
    pub(super) looks: Vec<oneshot::Sender<bool>>,
    /// Readers of some of the same channels that begin when everything has been given back.
    pub(super) successors: Vec<oneshot::Sender<()>>,
    /// Grows with each outage.
    pub(super) outages: u64,
    /// The shard that is away, and why, as long as no messages can come.
    pub(super) outage: Option<(usize, Fault)>,
    /// Whether the outage leaves nothing that could be read meanwhile.
    pub(super) outage_is_total: bool,
    /// What could not be put back, and why.
    pub(super) lost: Option<(usize, Fault)>,
}

impl Reader {
    pub(super) fn new(surroundings: Arc<Surroundings>, channels: Box<[ChannelName]>, owned: bool) -> Self {
        Self {
            surroundings,
            channels,
            owned,
            state: Mutex::default(),
            changed: Notify::new(),
            ended: CancellationToken::new(),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Tells the task to look at the state.
    pub(super) fn notify(&self) {
        self.changed.notify_one();
    }

    /// Waits until everything that was popped here and that nobody here waits for has been given back.
    pub(super) async fn hand_back(&self) {
        let (successor, done) = oneshot::channel();
        // A reader that ends drops its successors, and then gives everything back.
        let closed = {
            let mut state = self.state();
            if !state.closed {
                state.successors.push(successor);
            }
            state.closed
        };
        self.notify();
        if closed || done.await.is_err() {
            self.ended.cancelled().await;
        }
    }

    /// Takes the next delivery out of the buffer.
    pub(super) fn take(&self, state: &mut State) -> Option<Delivery> {
        let quarantine = &self.surroundings.quarantine;
        parcel::take_next(&mut state.parcels, &self.surroundings.envelope, |parcel, entry, unreadable| {
            quarantine.keep(&parcel.shard, entry, unreadable.reason);
        })
    }

    /// The lanes that read these channels: one per shard for the normal ones, one per shard for the others.
    pub(super) fn lanes(&self) -> Vec<Lane> {
        let topology = &self.surroundings.topology;
        let mut grouped: Vec<((usize, bool), Vec<ChannelName>)> = Vec::new();
        for channel in &self.channels {
            let one_reader = channel.kind().has_one_reader();
            for shard in topology.shards_of_channel(channel) {
                match grouped.iter_mut().find(|(place, _)| *place == (shard.index, one_reader)) {
                    Some((_, channels)) => channels.push(channel.clone()),
                    None => grouped.push(((shard.index, one_reader), vec![channel.clone()])),
                }
            }
        }
        let lanes = grouped.into_iter().map(|((shard, one_reader), channels)| {
            let keys = channels.iter().map(|channel| topology.keys.channel(channel.non_local())).collect();
            let shard = topology.shards[shard].clone();
            Lane::new(shard, channels, keys, self.owned && one_reader, self.surroundings.events.clone())
        });
        lanes.collect()
    }
}

impl State {
    /// How many entries have to be read to satisfy those who wait.
    pub(super) fn missing(&self) -> usize {
        if self.closed { 0 } else { self.wanted.saturating_sub(self.parcels.len()) }
    }

    /// Whether somebody asks what is there now. Those who have gone are forgotten: a look for nobody could take over
    /// channels from another reader.
    pub(super) fn has_looks(&mut self) -> bool {
        self.looks.retain(|look| !look.is_closed());
        !self.looks.is_empty()
    }

    /// Takes out the consumer that has waited longest, to be woken when the state is not held any more: wakers are the
    /// code of others.
    #[must_use]
    pub(super) fn next_waiter(&mut self) -> Option<Waker> {
        self.waiters.pop_front().map(|(_, waker)| waker)
    }

    /// Takes out all that wait, likewise.
    #[must_use]
    pub(super) fn all_waiters(&mut self) -> Vec<Waker> {
        self.waiters.drain(..).map(|(_, waker)| waker).collect()
    }
}
