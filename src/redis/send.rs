//! The way out: messages that callers send at the same time travel in one script call.
//!
//! Each shard has a few lanes, and a channel always takes the same one. A lane sends what has gathered while its last
//! batch was under way, so that nothing waits for company, and the order within a channel holds whatever happens to a
//! batch, because a lane has one batch under way at a time.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use redis::{Cmd, Value};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use xxhash_rust::xxh3::xxh3_64;

use super::envelope::{Context, Envelope};
use super::fault::Fault;
use super::frame::{self, Address};
use super::ring::share_of_capacity;
use super::script;
use super::shard::Shard;
use super::topology::Topology;
use crate::capacity::Capacity;
use crate::drops::{self, DropReason};
use crate::name::{ChannelName, GroupName};

/// Lanes of a shard. More overlap more round trips, and make each batch smaller.
const LANES: usize = 4;
/// The most entries of a batch: Lua can unpack so many values at once with room to spare, and Redis serves nobody else
/// while it runs a batch.
const MAX_ENTRIES: usize = 1000;
/// A batch takes no further entry once it has so many bytes.
const MAX_BYTES: usize = 1 << 20;
/// The stamp of an entry whose lane has not sent it yet.
const UNSTAMPED: u64 = 0;
/// How far stamps by the estimate of the server's clock may be off before the server writes them anew. Less than the
/// time that a batch waits on a busy server would only cost; more would show in short expiries.
const STAMP_TOLERANCE: Duration = Duration::from_millis(50);
/// How long the counters of a channel, and those of all channels, outlive the last send.
const CHANNEL_STATS_LIVE: Duration = Duration::from_hours(1);
const GLOBAL_STATS_LIVE: Duration = Duration::from_hours(24);

/// What became of a message.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    Sent,
    /// The channel was at capacity.
    Full,
    Failed {
        shard: usize,
        fault: Fault,
    },
    /// The layer has been closed.
    Closed,
}

/// The sending half of a layer.
pub(super) struct Sender {
    topology: Arc<Topology>,
    envelope: Arc<Envelope>,
    capacity: Capacity,
    /// By shard, then by lane.
    lanes: Vec<Vec<mpsc::UnboundedSender<Outgoing>>>,
    /// The shard whose turn it is to take the next message to a normal channel.
    turn: AtomicUsize,
}

/// A message on its way into one lane.
struct Outgoing {
    channel: ChannelName,
    capacity: usize,
    entry: Vec<u8>,
    done: oneshot::Sender<Outcome>,
}

/// An encoded message and who it is for.
#[derive(Clone, Debug)]
pub(super) struct Letter {
    pub(super) channel: ChannelName,
    pub(super) to: Recipient,
    /// The encoded message, not sealed yet.
    pub(super) plain: Bytes,
}

/// Whether a letter is for the channel that it goes to, or for the members of a group there.
#[derive(Clone, Debug)]
pub(super) enum Recipient {
    Channel,
    Group { group: GroupName, version: u64 },
}

/// A letter that has been queued, and the shards that can still be tried if the one it went to does not take it.
pub(super) struct Posted {
    letter: Letter,
    tried: Tried,
    done: Option<oneshot::Receiver<Outcome>>,
}

/// The shards that a letter has been offered to.
struct Tried {
    first: usize,
    count: usize,
    was_full: bool,
    failed: Option<Outcome>,
}

impl Sender {
    /// Starts the lanes on `tasks`; they end when `closing` is cancelled and their queues are empty.
    pub(super) fn start(
        topology: Arc<Topology>,
        envelope: Arc<Envelope>,
        capacity: Capacity,
        expiry: Duration,
        tasks: &TaskTracker,
        closing: &CancellationToken,
    ) -> Self {
        let start_lane = |shard: &Arc<Shard>| {
            let (sender, queue) = mpsc::unbounded_channel();
            let lane = Lane { shard: shard.clone(), topology: topology.clone(), expiry, waiting: VecDeque::new() };
            tasks.spawn(lane.run(queue, closing.clone()));
            sender
        };
        let lanes =
            topology.shards.iter().map(|shard| (0..LANES).map(|_| start_lane(shard)).collect()).collect::<Vec<_>>();
        // Processes that start together shall not all begin with the same shard.
        let turn = AtomicUsize::new(rand::random_range(0..topology.shards.len()));
        Self { topology, envelope, capacity, lanes, turn }
    }

    /// Queues `letter`; letters to one channel are sent in the order of these calls.
    pub(super) fn post(&self, letter: Letter) -> Posted {
        let pinned = letter.channel.kind().has_one_reader();
        let first = if pinned {
            self.topology.shard_of_channel(&letter.channel).index
        } else {
            self.turn.fetch_add(1, Ordering::Relaxed) % self.lanes.len()
        };
        let mut posted = Posted { letter, tried: Tried { first, count: 0, was_full: false, failed: None }, done: None };
        self.post_to_next(&mut posted);
        posted
    }

    /// Waits until `posted` has been sent or refused.
    pub(super) async fn outcome(&self, mut posted: Posted) -> Outcome {
        while let Some(done) = posted.done.take() {
            match done.await {
                Ok(Outcome::Full) => posted.tried.was_full = true,
                Ok(Outcome::Failed { shard, fault }) if !fault.may_have_run => {
                    posted.tried.failed = Some(Outcome::Failed { shard, fault });
                }
                Ok(outcome) => return outcome,
                Err(_) => return Outcome::Closed,
            }
            self.post_to_next(&mut posted);
        }
        posted.tried.verdict()
    }

    /// Queues a letter at the next shard that may take it, if there is one left.
    fn post_to_next(&self, posted: &mut Posted) {
        let shards = self.lanes.len();
        let pinned = posted.letter.channel.kind().has_one_reader();
        let candidates = if pinned { 1 } else { shards };
        let whole = self.capacity.of(&posted.letter.channel);
        while posted.tried.count < candidates {
            let index = (posted.tried.first + posted.tried.count) % shards;
            posted.tried.count += 1;
            let capacity = if pinned { whole } else { share_of_capacity(whole, index, shards) };
            if capacity == 0 {
                continue;
            }
            let shard = &self.topology.shards[index];
            if let Err(fault) = shard.link() {
                posted.tried.failed = Some(Outcome::Failed { shard: index, fault });
                continue;
            }
            let (done, outcome) = oneshot::channel();
            let entry = self.entry(&posted.letter, shard);
            let outgoing = Outgoing { channel: posted.letter.channel.clone(), capacity, entry, done };
            // A closed lane drops the outgoing message and with it `done`, which is how the caller learns of it.
            let _ = self.lanes[index][lane_of(&posted.letter.channel)].send(outgoing);
            posted.done = Some(outcome);
            return;
        }
    }

    /// The entry of `letter` for `shard`, by whose clock it is sealed; its lane will stamp it.
    fn entry(&self, letter: &Letter, shard: &Shard) -> Vec<u8> {
        let (address, context) = match (&letter.to, letter.channel.local()) {
            (Recipient::Group { group, version }, _) => {
                let context = Context::Group { group: group.as_str(), channel: letter.channel.non_local() };
                (Address::Group { group: group.as_str(), version: *version }, context)
            }
            (Recipient::Channel, Some(local)) => (Address::Local(local), Context::Channel(letter.channel.as_str())),
            (Recipient::Channel, None) => (Address::Channel, Context::Channel(letter.channel.as_str())),
        };
        let mut entry = frame::begin(UNSTAMPED, &address, self.envelope.seals(), letter.plain.len() + 160);
        self.envelope.write(&letter.plain, context, &shard.clock, &mut entry);
        entry
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
struct Lane {
    shard: Arc<Shard>,
    topology: Arc<Topology>,
    expiry: Duration,
    /// Taken from the queue and not sent yet.
    waiting: VecDeque<Outgoing>,
}

impl Lane {
    async fn run(mut self, mut queue: mpsc::UnboundedReceiver<Outgoing>, closing: CancellationToken) {
        let mut taken = Vec::new();
        loop {
            if self.waiting.is_empty() {
                let more = tokio::select! {
                    biased;
                    more = queue.recv_many(&mut taken, MAX_ENTRIES) => more,
                    () = closing.cancelled(), if !queue.is_closed() => {
                        queue.close();
                        continue;
                    }
                };
                if more == 0 {
                    return;
                }
                self.waiting.extend(taken.drain(..));
            } else {
                while self.waiting.len() < MAX_ENTRIES
                    && let Ok(outgoing) = queue.try_recv()
                {
                    self.waiting.push_back(outgoing);
                }
            }
            let batch = self.next_batch();
            self.send(batch).await;
        }
    }

    fn next_batch(&mut self) -> Batch {
        let mut batch = Batch::default();
        while batch.bytes < MAX_BYTES
            && batch.entries < MAX_ENTRIES
            && let Some(outgoing) = self.waiting.pop_front()
        {
            batch.add(outgoing);
        }
        batch
    }

    async fn send(&self, mut batch: Batch) {
        metrics::histogram!("channel_layer_batch_size").record(u32::try_from(batch.entries).unwrap_or(u32::MAX));
        // Without a reading of the clock the server finds the stamps far off.
        let stamp = self.shard.clock.now_ms().unwrap_or(0) + milliseconds(self.expiry);
        let command = batch.command(&self.topology, self.expiry, stamp);
        let answer = match self.shard.run(&command).await {
            Ok(answer) => parse_answer(&answer, batch.channels.len()),
            Err(fault) => Err(fault),
        };
        match answer {
            Ok((accepted, expired)) => {
                drops::count(DropReason::Expired, expired);
                batch.finish(self.shard.index, &accepted);
            }
            Err(fault) => batch.fail(self.shard.index, &fault),
        }
    }
}

/// Messages that travel together, by channel, in the order in which they came.
#[derive(Default)]
struct Batch {
    channels: Vec<Vec<Outgoing>>,
    /// The place of each channel, by the non-local part of its name.
    places: HashMap<Box<str>, usize>,
    entries: usize,
    bytes: usize,
}

impl Batch {
    fn add(&mut self, outgoing: Outgoing) {
        self.entries += 1;
        self.bytes += outgoing.entry.len();
        let name = outgoing.channel.non_local();
        if let Some(place) = self.places.get(name) {
            self.channels[*place].push(outgoing);
        } else {
            self.places.insert(name.into(), self.channels.len());
            self.channels.push(vec![outgoing]);
        }
    }

    /// The call that appends the messages, which expire at `stamp`.
    fn command(&mut self, topology: &Topology, expiry: Duration, stamp: u64) -> Cmd {
        let keys = &topology.keys;
        let mut names = Vec::with_capacity(2 * self.channels.len() + 1);
        for messages in &self.channels {
            let name = messages[0].channel.non_local();
            names.extend([keys.channel(name), keys.channel_stats(name)]);
        }
        names.push(keys.global_stats());
        let mut command = script::PUSH.call(&names);
        command.arg(milliseconds(expiry)).arg(stamp);
        for time in [STAMP_TOLERANCE, CHANNEL_STATS_LIVE, GLOBAL_STATS_LIVE] {
            command.arg(milliseconds(time));
        }
        for messages in &mut self.channels {
            command.arg(messages[0].capacity).arg(messages.len());
            for message in messages {
                frame::set_expires(&mut message.entry, stamp);
                command.arg(&message.entry[..]);
            }
        }
        command
    }

    /// `accepted` says of each channel how many of its messages were appended; -1 stands for a key that is no list.
    fn finish(self, shard: usize, accepted: &[i64]) {
        let mut sent = 0;
        for (messages, accepted) in self.channels.into_iter().zip(accepted) {
            let fits = usize::try_from(*accepted);
            for (place, message) in messages.into_iter().enumerate() {
                let outcome = match fits {
                    Ok(fits) if place < fits => {
                        sent += 1;
                        Outcome::Sent
                    }
                    Ok(_) => Outcome::Full,
                    Err(_) => {
                        let answer = format!("the key of channel {} holds no list", message.channel.non_local());
                        Outcome::Failed { shard, fault: Fault::unexpected(&answer) }
                    }
                };
                // The caller may have gone; the message counts as sent all the same.
                let _ = message.done.send(outcome);
            }
        }
        metrics::counter!("channel_layer_sent_total").increment(sent);
    }

    fn fail(self, shard: usize, fault: &Fault) {
        for message in self.channels.into_iter().flatten() {
            let _ = message.done.send(Outcome::Failed { shard, fault: fault.clone() });
        }
    }
}

/// What `push.lua` returns: accepted entries for each channel, and how many expired ones made room.
fn parse_answer(answer: &Value, channels: usize) -> Result<(Vec<i64>, usize), Fault> {
    let unexpected = || Fault::unexpected("push.lua returned something else than a number for each channel");
    let Value::Array(values) = answer else { return Err(unexpected()) };
    let numbers = values.iter().map(|value| match value {
        Value::Int(number) => Ok(*number),
        _ => Err(unexpected()),
    });
    let mut numbers = numbers.collect::<Result<Vec<_>, _>>()?;
    let expired = numbers.pop().ok_or_else(unexpected)?;
    if numbers.len() != channels {
        return Err(unexpected());
    }
    Ok((numbers, usize::try_from(expired).unwrap_or(0)))
}

pub(super) fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
