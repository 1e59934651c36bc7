//! The way out: messages that callers send at the same time travel in one script call.
//!
//! Each shard has a few lanes, and a channel always takes the same one. A lane sends what has gathered while its last
//! batch was under way, so that nothing waits for company, and the order within a channel holds whatever happens to a
//! batch, because a lane has one batch under way at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use redis::Value;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use xxhash_rust::xxh3::xxh3_64;

use super::batch::{Batch, Condition, Outcome, Outgoing, TASK};
use super::calls::Calls;
use super::envelope::Envelope;
use super::fault::Fault;
use super::letter::{Letter, Recipient};
use super::outbox::{Beside, MAX_ENTRIES, Outbox, Queue};
use super::renewals::Renewals;
use super::ring::share_of_capacity;
use super::routes::Route;
use super::routine::Routine;
use super::shard::Shard;
use super::topology::Topology;
use crate::capacity::Capacity;
use crate::name::{ChannelName, GroupName};
use crate::supervise::contained;

/// Lanes of a shard. More overlap more round trips, and make each batch smaller: with 256 senders on two processors two
/// lanes send a tenth more than four and a fifth more than one or eight.
const LANES: usize = 2;
/// The most bytes that are sent on a condition: if it does not hold they have travelled in vain.
const MAX_CONDITIONAL_BYTES: usize = 1 << 18;

/// The sending half of a layer.
pub(super) struct Sender {
    topology: Arc<Topology>,
    envelope: Arc<Envelope>,
    capacity: Capacity,
    /// By shard, then by lane.
    lanes: Vec<Vec<Queue<Outgoing>>>,
    /// The shard whose turn it is to take the next message to a normal channel.
    turn: AtomicUsize,
    /// Those under way that send to more than one channel, of which no part is to be refused when the layer closes.
    calls: Calls,
    /// Of the channels of each shard that are sent to beside its lanes. Held only to make a call.
    renewals: Vec<Mutex<Renewals>>,
}

/// A letter that has been queued, and the shards that can still be tried if the one it went to does not take it.
pub(super) struct Posted {
    letter: Letter,
    tried: Tried,
    /// Which of a shard's lanes its channel takes.
    lane: usize,
    /// The shard that has it now, and what becomes of it there.
    at: Option<(usize, oneshot::Receiver<Outcome>)>,
}

/// The shards that a letter has been offered to.
struct Tried {
    first: usize,
    count: usize,
    was_full: bool,
    failed: Option<Outcome>,
}

impl Sender {
    /// Starts the lanes on `tasks`; they end when `closing` is cancelled, no [call](Self::call) is under way, and their
    /// queues are empty.
    pub(super) fn start(
        topology: Arc<Topology>,
        envelope: Arc<Envelope>,
        capacity: Capacity,
        tasks: &TaskTracker,
        closing: &CancellationToken,
    ) -> Self {
        let patience = topology.shards.iter().map(|shard| shard.patience()).max().unwrap_or_default();
        // One trip for the routes, and one to send.
        let (calls, ending) = Calls::new(tasks, closing, 2 * patience);
        let start_lane = |shard: &Arc<Shard>| {
            let work = Arc::<Routine>::default();
            let (queue, outbox) = Outbox::new(work.clone(), ending.clone());
            let lane = run_lane(shard.clone(), topology.clone(), envelope.clone(), outbox);
            tasks.spawn(work.run(lane, Handle::current()));
            queue
        };
        let lanes =
            topology.shards.iter().map(|shard| (0..LANES).map(|_| start_lane(shard)).collect()).collect::<Vec<_>>();
        // Processes that start together shall not all begin with the same shard.
        let turn = AtomicUsize::new(rand::random_range(0..topology.shards.len()));
        let renewals = lanes.iter().map(|_| Mutex::new(Renewals::new())).collect();
        Self { topology, envelope, capacity, lanes, turn, calls, renewals }
    }

    /// Begins a call that sends to more than one channel; see [`Calls::begin`].
    pub(super) fn call(&self) -> TaskTrackerToken {
        self.calls.begin()
    }

    /// Queues `letter`, which [`go`](Self::go) then sends; letters to one channel are sent in the order of these calls.
    pub(super) fn post(&self, letter: Letter) -> Posted {
        let pinned = letter.channel.kind().has_one_reader();
        let first = if pinned {
            self.topology.shard_of_channel(&letter.channel).index
        } else {
            self.turn.fetch_add(1, Ordering::Relaxed) % self.lanes.len()
        };
        let (lane, tried) = (lane_of(&letter.channel), Tried { first, count: 0, was_full: false, failed: None });
        let mut posted = Posted { letter, tried, lane, at: None };
        self.post_to_next(&mut posted);
        posted
    }

    /// Sends a letter, with all that have been queued on its lane.
    pub(super) fn go(&self, posted: &Posted) {
        if let Some((shard, _)) = posted.at {
            self.lanes[shard][posted.lane].go();
        }
    }

    /// The letters of one message to the members of a group, one for each of its routes.
    pub(super) fn letters<'r>(
        group: &GroupName,
        plain: &Arc<[u8]>,
        routes: &'r [Route],
    ) -> impl Iterator<Item = Letter> + use<'r> {
        let (group, plain) = (group.clone(), plain.clone());
        routes.iter().map(move |Route { channel, version }| {
            let to = Recipient::Group { group: group.clone(), version: *version };
            Letter { channel: channel.clone(), to, plain: plain.clone(), past_capacity: false }
        })
    }

    /// Whether letters of `size` bytes to these routes can go to `shard` in one call.
    pub(super) fn fits_one_call(&self, routes: &[Route], size: usize, shard: &Shard) -> bool {
        let is_there = |route: &Route| match self.topology.shards_of_channel(&route.channel) {
            [home] => home.index == shard.index,
            _ => false,
        };
        routes.len() <= MAX_ENTRIES && routes.len() * size <= MAX_CONDITIONAL_BYTES && routes.iter().all(is_there)
    }

    /// Lets the caller send to these routes on `shard` beside their lanes, which send nothing meanwhile; nothing if
    /// anything of theirs is under way, or waits, that could be overtaken.
    fn beside_lanes(&self, routes: &[Route], shard: &Shard) -> Option<Vec<Beside<Outgoing>>> {
        let lanes = self.lanes[shard.index].iter().enumerate();
        let taken = lanes.filter(|(lane, _)| routes.iter().any(|route| lane_of(&route.channel) == *lane));
        taken.map(|(_, queue)| queue.beside()).collect()
    }

    /// Sends to the routes of the condition, to which letters [fit one call](Self::fits_one_call) on `shard`, if it holds and
    /// nothing is overtaken; otherwise nothing is sent, and the result may be what the server says of the group.
    pub(super) async fn send_if(
        &self,
        condition: &Condition,
        plain: &Arc<[u8]>,
        shard: &Shard,
    ) -> Result<Vec<Posted>, Option<Value>> {
        let routes = &condition.routes.list;
        let _lanes_wait = self.beside_lanes(routes, shard).ok_or(None)?;
        let mut batch = Batch::default();
        let mut posted = Vec::new();
        for letter in Self::letters(&condition.group, plain, routes) {
            let (outgoing, outcome) = Outgoing::new(letter.clone(), self.capacity.of(&letter.channel), true);
            batch.add(outgoing);
            let tried = Tried { first: shard.index, count: 1, was_full: false, failed: None };
            posted.push(Posted { lane: lane_of(&letter.channel), letter, tried, at: Some((shard.index, outcome)) });
        }
        batch.send_if(condition, shard, &self.topology.keys, &self.envelope, &self.renewals[shard.index]).await?;
        Ok(posted)
    }

    /// Waits until `posted` has been sent or refused.
    pub(super) async fn outcome(&self, mut posted: Posted) -> Outcome {
        while let Some((shard, done)) = posted.at.take() {
            match done.await {
                Ok(Outcome::Full) => posted.tried.was_full = true,
                Ok(Outcome::Failed { shard, fault }) if !fault.may_have_run => {
                    posted.tried.failed = Some(Outcome::Failed { shard, fault });
                }
                Ok(outcome) => return outcome,
                Err(_) if self.lanes[shard][posted.lane].is_closed() => return Outcome::Closed,
                Err(_) => return Outcome::Failed { shard, fault: Fault::panicked() },
            }
            self.post_to_next(&mut posted);
            self.go(&posted);
        }
        posted.tried.verdict()
    }

    /// Queues a letter at the next shard that may take it, if there is one left.
    fn post_to_next(&self, posted: &mut Posted) {
        let shards = self.lanes.len();
        let pinned = posted.letter.channel.kind().has_one_reader();
        let candidates = if pinned { 1 } else { shards };
        let past_capacity = posted.letter.past_capacity;
        let whole = if past_capacity { usize::MAX } else { self.capacity.of(&posted.letter.channel) };
        let room_at = |index| if pinned || past_capacity { whole } else { share_of_capacity(whole, index, shards) };
        let first = posted.tried.first;
        while posted.tried.count < candidates {
            let index = (first + posted.tried.count) % shards;
            posted.tried.count += 1;
            let capacity = room_at(index);
            if capacity == 0 {
                continue;
            }
            let shard = &self.topology.shards[index];
            // Where no other server will do, the lane tries again as configured.
            let waits = pinned && shard.is_patient();
            if !waits && let Some(fault) = shard.fault() {
                posted.tried.failed = Some(Outcome::Failed { shard: index, fault });
                continue;
            }
            let mut others = (posted.tried.count..candidates).map(|count| (first + count) % shards);
            let is_last = !others.any(|other| room_at(other) > 0 && self.topology.shards[other].is_up());
            let (outgoing, outcome) = Outgoing::new(posted.letter.clone(), capacity, is_last);
            // A closed lane drops the outgoing message and with it `done`, which is how the caller learns of it.
            self.lanes[index][posted.lane].add(outgoing);
            posted.at = Some((index, outcome));
            return;
        }
    }
}

impl Tried {
    fn verdict(self) -> Outcome {
        match self.failed {
            Some(failed) if !self.was_full => failed,
            _ => Outcome::Full,
        }
    }
}

fn lane_of(channel: &ChannelName) -> usize {
    usize::try_from(xxh3_64(channel.non_local().as_bytes()) % LANES as u64).expect("a lane's number is small")
}

/// Sends the messages of some channels to one shard, one batch at a time.
async fn run_lane(shard: Arc<Shard>, topology: Arc<Topology>, envelope: Arc<Envelope>, mut outbox: Outbox<Outgoing>) {
    let renewals = Mutex::new(Renewals::new());
    while let Some(messages) = outbox.next_batch().await {
        let batch: Batch = messages.into_iter().collect();
        let others_go = |fault: &Fault| {
            outbox.release(Outgoing::stays).into_iter().for_each(|message| message.fail(shard.index, fault));
        };
        contained(TASK, batch.send(&shard, &topology.keys, &envelope, &renewals, others_go)).await;
    }
}
