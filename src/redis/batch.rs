//! Messages to one shard that travel in one script call.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::{Cmd, Value};
use tokio::sync::oneshot;

use super::fault::Fault;
use super::frame;
use super::keys::Keys;
use super::outbox::Weight;
use super::renewals::{Renewals, SLACK};
use super::script;
use super::shard::Shard;
use crate::drops::{self, DropReason};
use crate::name::{ChannelName, GroupName};

/// How far stamps by the estimate of the server's clock may be off before the server writes them anew. Less than the
/// time that a batch waits on a busy server would only cost; more would show in short expiries.
const STAMP_TOLERANCE: Duration = Duration::from_millis(50);
/// How long the counters of a channel, and those of all channels, outlive the last send.
const CHANNEL_STATS_LIVE: Duration = Duration::from_hours(1);
const GLOBAL_STATS_LIVE: Duration = Duration::from_hours(24);

/// A batch of so many bytes, in entries of so many on average, is appended by a transaction: its script is sent with it
/// and hashed, but its entries are not.
const LARGE: usize = 1 << 15;
const LARGE_ENTRY: usize = 1 << 10;

/// What became of a message.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
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

/// A message on its way to one shard, and somebody who waits to hear what became of it.
pub(super) struct Outgoing {
    pub(super) channel: ChannelName,
    pub(super) capacity: usize,
    pub(super) entry: Vec<u8>,
    pub(super) done: oneshot::Sender<Outcome>,
}

/// What has to be true of a group for messages to its members to be sent.
#[derive(Clone, Debug)]
pub(super) struct Condition {
    pub(super) group: GroupName,
    /// How long a membership lasts.
    pub(super) group_expiry: Duration,
    /// Its routes and their versions, as the server tells them, with spaces between.
    pub(super) routes: Arc<str>,
}

/// How a batch is sent.
pub(super) enum Way<'a> {
    /// By its lane, which knows which channels have had their times to live set.
    Lane(&'a mut Renewals),
    /// Only if something is true of a group.
    If(&'a Condition),
}

/// Messages that travel together, by channel, in the order in which they came.
#[derive(Default)]
pub(super) struct Batch {
    channels: Vec<Vec<Outgoing>>,
    /// The place of each channel, by the non-local part of its name.
    places: HashMap<Box<str>, usize>,
    entries: usize,
}

impl Weight for Outgoing {
    fn bytes(&self) -> usize {
        self.entry.len()
    }
}

impl FromIterator<Outgoing> for Batch {
    fn from_iter<I: IntoIterator<Item = Outgoing>>(messages: I) -> Self {
        let mut batch = Self::default();
        messages.into_iter().for_each(|outgoing| batch.add(outgoing));
        batch
    }
}

impl Batch {
    pub(super) fn add(&mut self, outgoing: Outgoing) {
        self.entries += 1;
        let name = outgoing.channel.non_local();
        if let Some(place) = self.places.get(name) {
            self.channels[*place].push(outgoing);
        } else {
            self.places.insert(name.into(), self.channels.len());
            self.channels.push(vec![outgoing]);
        }
    }

    /// Sends the messages to `shard`, where they live for `expiry`, and tells each what became of it.
    ///
    /// If there is a condition and it does not hold, nothing is sent and nobody is told; then the result is what the
    /// server says of the group.
    pub(super) async fn send(mut self, shard: &Shard, keys: &Keys, expiry: Duration, way: Way<'_>) -> Option<Value> {
        metrics::histogram!("channel_layer_batch_size").record(u32::try_from(self.entries).unwrap_or(u32::MAX));
        // Without a reading of the clock the server finds the stamps far off.
        let stamp = shard.clock.now_ms().unwrap_or(0) + milliseconds(expiry);
        for message in self.channels.iter_mut().flatten() {
            frame::set_expires(&mut message.entry, stamp);
        }
        let answer = match way {
            Way::If(condition) => shard.run(&self.call(keys, expiry, stamp, Some(condition), |_| true)).await,
            Way::Lane(renewals) => {
                let answer = self.push(shard, keys, expiry, stamp, renewals).await;
                if answer.is_err() {
                    renewals.forget();
                }
                answer
            }
        };
        match answer.and_then(|answer| parse_answer(answer, self.channels.len())) {
            Ok(Answer::Appended { accepted, expired }) => {
                drops::count(DropReason::Expired, expired);
                self.finish(shard.index, &accepted);
            }
            Ok(Answer::OtherRoutes(routes)) => return Some(routes),
            Err(fault) => self.fail(shard.index, &fault),
        }
        None
    }

    /// Appends the messages, which expire at `stamp`.
    async fn push(
        &self,
        shard: &Shard,
        keys: &Keys,
        expiry: Duration,
        stamp: u64,
        renewals: &mut Renewals,
    ) -> Result<Value, Fault> {
        let bytes: usize = self.messages().map(|message| message.entry.len()).sum();
        if bytes < LARGE || bytes / self.entries < LARGE_ENTRY {
            renewals.begin(Instant::now());
            let call = self.call(keys, expiry, stamp, None, |channel| renewals.is_due(channel));
            return shard.run(&call).await;
        }
        let mut answers = shard.run_transaction(self.transaction(keys, expiry, stamp)).await?;
        let settled = answers.pop().ok_or_else(|| Fault::unexpected("an empty transaction"))?;
        settled.extract_error().map_err(Fault::from)
    }

    fn messages(&self) -> impl Iterator<Item = &Outgoing> {
        self.channels.iter().flatten()
    }

    /// The call of `push.lua`, which sets the times to live of channels for which that is due.
    fn call(
        &self,
        keys: &Keys,
        expiry: Duration,
        stamp: u64,
        condition: Option<&Condition>,
        mut is_due: impl FnMut(&str) -> bool,
    ) -> Cmd {
        let mut names = self.names(keys);
        names.extend(condition.map(|condition| keys.group(&condition.group)));
        let mut command = script::PUSH.call(&names);
        add_times(&mut command, expiry, stamp);
        if let Some(condition) = condition {
            command.arg(milliseconds(condition.group_expiry)).arg(&*condition.routes);
        }
        for messages in &self.channels {
            let is_due = is_due(messages[0].channel.non_local());
            command.arg(capacity(messages)).arg(usize::from(is_due)).arg(messages.len());
            for message in messages {
                command.arg(&message.entry[..]);
            }
        }
        command
    }

    /// The commands that append the messages, and the call of `push_large.lua` that settles them.
    fn transaction(&self, keys: &Keys, expiry: Duration, stamp: u64) -> Vec<Cmd> {
        // A transaction goes on behind a script that is unknown, so that the script comes with it.
        let mut settling = script::PUSH_LARGE.call_with_source(&self.names(keys));
        add_times(&mut settling, expiry, stamp);
        let mut commands = Vec::with_capacity(self.channels.len() + 1);
        for messages in &self.channels {
            settling.arg(capacity(messages)).arg(messages.len());
            let bytes: usize = messages.iter().map(Weight::bytes).sum();
            let mut command = Cmd::with_capacity(messages.len() + 2, bytes + 128);
            command.arg("RPUSH").arg(keys.channel(messages[0].channel.non_local()));
            for message in messages {
                command.arg(&message.entry[..]);
            }
            commands.push(command);
        }
        commands.push(settling);
        commands
    }

    /// The keys of each channel's list and counters, and those of the counters of all.
    fn names(&self, keys: &Keys) -> Vec<String> {
        let mut names = Vec::with_capacity(2 * self.channels.len() + 2);
        for messages in &self.channels {
            let name = messages[0].channel.non_local();
            names.extend([keys.channel(name), keys.channel_stats(name)]);
        }
        names.push(keys.global_stats());
        names
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

/// How much their channel may hold with these messages: of those that travel together, one may go past its capacity.
fn capacity(messages: &[Outgoing]) -> usize {
    messages.iter().map(|message| message.capacity).max().unwrap_or(0)
}

fn add_times(command: &mut Cmd, expiry: Duration, stamp: u64) {
    command.arg(milliseconds(expiry)).arg(stamp);
    for time in [STAMP_TOLERANCE, expiry + SLACK, CHANNEL_STATS_LIVE, GLOBAL_STATS_LIVE] {
        command.arg(milliseconds(time));
    }
}

/// What `push.lua` and `push_large.lua` return.
enum Answer {
    /// Accepted entries for each channel, and how many expired ones made room.
    Appended { accepted: Vec<i64>, expired: usize },
    /// The condition does not hold: these are the routes of the group.
    OtherRoutes(Value),
}

fn parse_answer(answer: Value, channels: usize) -> Result<Answer, Fault> {
    let unexpected = || Fault::unexpected("push.lua returned something else than a number for each channel");
    let Value::Array(mut values) = answer else { return Err(unexpected()) };
    if let [Value::Array(_)] = &values[..] {
        return values.pop().map(Answer::OtherRoutes).ok_or_else(unexpected);
    }
    let numbers = values.iter().map(|value| match value {
        Value::Int(number) => Ok(*number),
        _ => Err(unexpected()),
    });
    let mut accepted = numbers.collect::<Result<Vec<_>, _>>()?;
    let expired = accepted.pop().ok_or_else(unexpected)?;
    if accepted.len() != channels {
        return Err(unexpected());
    }
    Ok(Answer::Appended { accepted, expired: usize::try_from(expired).unwrap_or(0) })
}

pub(crate) fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
