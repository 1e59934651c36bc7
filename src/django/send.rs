//! The way out: messages that callers send at the same time travel in one script call.
//!
//! As in the native layer each shard has a few lanes with one batch under way, and a channel always takes the same one, so
//! that its order holds whatever happens to a batch.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use redis::{FromRedisValue, Value};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::wire::Wire;
use crate::drops::{self, DropReason};
use crate::name::ChannelName;
use crate::redis::batch::{Outcome, TASK};
use crate::redis::calls::Calls;
use crate::redis::fault::Fault;
use crate::redis::outbox::{Outbox, Queue, Weight};
use crate::redis::routine::Routine;
use crate::redis::shard::Shard;
use crate::redis::topology::Places;
use crate::supervise::contained;

/// Lanes of a shard, as in the native layer.
const LANES: usize = 2;

/// A message as its format has it, and where it goes.
#[derive(Clone, Debug)]
pub(super) struct Letter {
    pub(super) channel: ChannelName,
    pub(super) capacity: usize,
    pub(super) body: Bytes,
    /// Whether only one shard will do.
    pub(super) pinned: bool,
}

/// A message on its way to one shard, and somebody who waits to hear what became of it.
pub(super) struct Outgoing {
    pub(super) channel: ChannelName,
    pub(super) capacity: usize,
    pub(super) body: Bytes,
    /// Whether a refusal by this shard is one of the message: no other will be tried.
    pub(super) is_last: bool,
    done: oneshot::Sender<Outcome>,
}

impl Outgoing {
    /// Whether it waits for a server that takes nothing: no other will do, and somebody wants to know.
    fn stays(&self) -> bool {
        self.is_last && !self.done.is_closed()
    }
}

impl Weight for Outgoing {
    fn bytes(&self) -> usize {
        self.body.len()
    }
}

/// The sending half of a layer.
pub(super) struct Sender {
    places: Arc<Places>,
    /// By shard, then by lane.
    lanes: Vec<Vec<Queue<Outgoing>>>,
    /// The shard whose turn it is to take the next message that any may take.
    turn: AtomicUsize,
    calls: Calls,
}

/// A letter that has been queued, and the shards that can still be tried if the one it went to does not take it.
pub(super) struct Posted {
    letter: Letter,
    first: usize,
    tried: usize,
    was_full: bool,
    failed: Option<Outcome>,
    /// Which of a shard's lanes its channel takes.
    lane: usize,
    /// The shard that has it now, and what becomes of it there.
    at: Option<(usize, oneshot::Receiver<Outcome>)>,
}

impl Sender {
    /// Starts the lanes on `tasks`; they end when `closing` is cancelled, no [call](Self::call) is under way, and their
    /// queues are empty.
    pub(super) fn start(
        places: Arc<Places>,
        wire: &Arc<dyn Wire>,
        tasks: &TaskTracker,
        closing: &CancellationToken,
    ) -> Self {
        let patience = places.shards.iter().map(|shard| shard.patience()).max().unwrap_or_default();
        // One trip for the members, and one to send.
        let (calls, ending) = Calls::new(tasks, closing, 2 * patience);
        let start_lane = |shard: &Arc<Shard>| {
            let work = Arc::<Routine>::default();
            let (queue, outbox) = Outbox::new(work.clone(), ending.clone());
            tasks.spawn(work.run(run_lane(shard.clone(), wire.clone(), outbox), Handle::current()));
            queue
        };
        let lanes = places.shards.iter().map(|shard| (0..LANES).map(|_| start_lane(shard)).collect()).collect();
        // Python's senders begin with the first host, and so do its workers, which wait on one host at a time.
        Self { places, lanes, turn: AtomicUsize::new(0), calls }
    }

    /// Begins a call that sends to more than one channel; see [`Calls::begin`].
    pub(super) fn call(&self) -> TaskTrackerToken {
        self.calls.begin()
    }

    /// Queues `letter`, which [`go`](Self::go) then sends; letters to one channel are sent in the order of these calls.
    pub(super) fn post(&self, letter: Letter) -> Posted {
        let first = if letter.pinned {
            self.places.shard_of_channel(&letter.channel).index
        } else {
            self.turn.fetch_add(1, Ordering::Relaxed) % self.lanes.len()
        };
        let lane = lane_of(&letter.channel);
        let mut posted = Posted { letter, first, tried: 0, was_full: false, failed: None, lane, at: None };
        self.post_to_next(&mut posted);
        posted
    }

    /// Sends a letter, with all that have been queued on its lane.
    pub(super) fn go(&self, posted: &Posted) {
        if let Some((shard, _)) = posted.at {
            self.lanes[shard][posted.lane].go();
        }
    }

    /// Waits until `posted` has been sent or refused.
    pub(super) async fn outcome(&self, mut posted: Posted) -> Outcome {
        while let Some((shard, done)) = posted.at.take() {
            match done.await {
                Ok(Outcome::Full) => posted.was_full = true,
                Ok(Outcome::Failed { shard, fault }) if !fault.may_have_run => {
                    posted.failed = Some(Outcome::Failed { shard, fault });
                }
                Ok(outcome) => return outcome,
                Err(_) if self.lanes[shard][posted.lane].is_closed() => return Outcome::Closed,
                Err(_) => return Outcome::Failed { shard, fault: Fault::panicked() },
            }
            self.post_to_next(&mut posted);
            self.go(&posted);
        }
        match posted.failed {
            Some(failed) if !posted.was_full => failed,
            _ => Outcome::Full,
        }
    }

    /// The shard so many turns after `first`.
    fn shard_after(&self, first: usize, turns: usize) -> &Arc<Shard> {
        &self.places.shards[(first + turns) % self.places.shards.len()]
    }

    /// Queues a letter at the next shard that may take it, if there is one left.
    fn post_to_next(&self, posted: &mut Posted) {
        let candidates = if posted.letter.pinned { 1 } else { self.lanes.len() };
        while posted.tried < candidates {
            let shard = self.shard_after(posted.first, posted.tried);
            let index = shard.index;
            posted.tried += 1;
            // Where no other server will do, the lane tries again as configured.
            let waits = posted.letter.pinned && shard.is_patient();
            if !waits && let Some(fault) = shard.fault() {
                posted.failed = Some(Outcome::Failed { shard: index, fault });
                continue;
            }
            let (done, outcome) = oneshot::channel();
            let is_last = (posted.tried..candidates).all(|more| !self.shard_after(posted.first, more).is_up());
            let Letter { channel, capacity, body, .. } = posted.letter.clone();
            // A closed lane drops the outgoing message and with it `done`, which is how the caller learns of it.
            self.lanes[index][posted.lane].add(Outgoing { channel, capacity, body, is_last, done });
            posted.at = Some((index, outcome));
            return;
        }
    }
}

fn lane_of(channel: &ChannelName) -> usize {
    channel.non_local().bytes().fold(0usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(byte))) % LANES
}

/// Sends the messages of some channels to one shard, one batch at a time.
async fn run_lane(shard: Arc<Shard>, wire: Arc<dyn Wire>, mut outbox: Outbox<Outgoing>) {
    while let Some(messages) = outbox.next_batch().await {
        metrics::histogram!("channel_layer_batch_size").record(u32::try_from(messages.len()).unwrap_or(u32::MAX));
        let others_go = |fault: &Fault| fail(outbox.release(Outgoing::stays), shard.index, fault);
        contained(TASK, send_batch(messages, &shard, &*wire, others_go)).await;
    }
}

/// Sends messages as often as configured while they cannot have arrived, and tells each what became of it. Only what
/// [stays](Outgoing::stays) waits for the next attempt; `others_go` is told why before and after each pause.
async fn send_batch(mut messages: Vec<Outgoing>, shard: &Shard, wire: &dyn Wire, others_go: impl Fn(&Fault)) {
    let mut retry = shard.retry();
    while !messages.is_empty() {
        let channels = by_channel(messages);
        let sending = async { accepted(shard.run_once(&wire.send(&channels)).await?, channels.len()) };
        let fault = match contained(TASK, sending).await.unwrap_or_else(|| Err(Fault::panicked())) {
            Ok((accepted, expired)) => {
                drops::count(DropReason::Expired, expired);
                return finish(channels, &accepted, shard.index);
            }
            Err(fault) => fault,
        };
        messages = channels.into_iter().flatten().collect();
        if fault.may_have_run {
            return fail(messages, shard.index, &fault);
        }
        messages = those_that_stay(messages, shard.index, &fault);
        others_go(&fault);
        if messages.is_empty() || !retry.wait_after(&fault).await {
            return fail(messages, shard.index, &fault);
        }
        messages = those_that_stay(messages, shard.index, &fault);
        others_go(&fault);
    }
}

/// Fails all others.
fn those_that_stay(messages: Vec<Outgoing>, shard: usize, fault: &Fault) -> Vec<Outgoing> {
    let (kept, others) = messages.into_iter().partition(Outgoing::stays);
    fail(others, shard, fault);
    kept
}

fn fail(messages: Vec<Outgoing>, shard: usize, fault: &Fault) {
    for message in messages {
        let _ = message.done.send(Outcome::Failed { shard, fault: fault.clone() });
    }
}

/// The messages of each channel, in the order in which they came. One that has messages of different capacities, where those
/// go by full names, or of which some are refused for good and others not, is there again for each run of the same.
fn by_channel(messages: Vec<Outgoing>) -> Vec<Vec<Outgoing>> {
    let mut channels: Vec<Vec<Outgoing>> = Vec::new();
    let mut places: HashMap<Box<str>, usize> = HashMap::new();
    for message in messages {
        let place = places.get(message.channel.non_local()).copied();
        match place.and_then(|place| channels.get_mut(place)) {
            Some(run) if run[0].capacity == message.capacity && run[0].is_last == message.is_last => run.push(message),
            _ => {
                places.insert(message.channel.non_local().into(), channels.len());
                channels.push(vec![message]);
            }
        }
    }
    channels
}

/// How many messages of each channel were taken, and how many expired ones made room.
fn accepted(answer: Value, channels: usize) -> Result<(Vec<i64>, usize), Fault> {
    let unexpected = || Fault::unexpected("a script that sends returned something else than a number for each channel");
    let mut numbers: Vec<i64> = FromRedisValue::from_redis_value(answer).map_err(|_| unexpected())?;
    let expired = numbers.pop().ok_or_else(unexpected)?;
    if numbers.len() != channels {
        return Err(unexpected());
    }
    Ok((numbers, usize::try_from(expired).unwrap_or(0)))
}

fn finish(channels: Vec<Vec<Outgoing>>, accepted: &[i64], shard: usize) {
    let mut sent = 0;
    for (messages, accepted) in channels.into_iter().zip(accepted) {
        let fits = usize::try_from(*accepted);
        for (place, message) in messages.into_iter().enumerate() {
            let outcome = match fits {
                Ok(fits) if place < fits => {
                    sent += 1;
                    Outcome::Sent
                }
                Ok(_) => Outcome::Full,
                Err(_) => {
                    let answer = format!("the key of channel {} holds no messages", message.channel.non_local());
                    Outcome::Failed { shard, fault: Fault::unexpected(&answer) }
                }
            };
            // The caller may have gone; the message counts as sent all the same.
            let _ = message.done.send(outcome);
        }
    }
    metrics::counter!("channel_layer_sent_total").increment(sent);
}
