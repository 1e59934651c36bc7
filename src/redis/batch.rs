//! Messages to one shard that travel in one script call.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::{Cmd, Value};
use tokio::sync::oneshot;

use super::envelope::Envelope;
use super::fault::Fault;
use super::keys::Keys;
use super::letter::Letter;
use super::outbox::Weight;
use super::renewals::{Renewals, SLACK};
use super::script;
use super::shard::Shard;
use crate::drops::{self, DropReason};
use crate::name::GroupName;

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
    letter: Letter,
    capacity: usize,
    done: oneshot::Sender<Outcome>,
}

impl Outgoing {
    /// For a shard on which its channel may hold `capacity` messages; what becomes of it there comes by the receiver.
    pub(super) fn new(letter: Letter, capacity: usize) -> (Self, oneshot::Receiver<Outcome>) {
        let (done, outcome) = oneshot::channel();
        (Self { letter, capacity, done }, outcome)
    }
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
enum Way<'a> {
    /// By its lane, which knows which channels have had their times to live set.
    Lane(&'a mut Renewals),
    /// Only if something is true of a group.
    If(&'a Condition),
}

/// One attempt to send a batch.
struct Departure<'a> {
    envelope: &'a Envelope,
    keys: &'a Keys,
    /// By the estimate of the server's clock, as is when the messages expire.
    now_ms: u64,
    expires: u64,
}

impl Departure<'_> {
    fn add_times(&self, command: &mut Cmd) {
        let expiry = self.envelope.expiry();
        command.arg(milliseconds(expiry)).arg(self.expires);
        for time in [STAMP_TOLERANCE, expiry + SLACK, CHANNEL_STATS_LIVE, GLOBAL_STATS_LIVE] {
            command.arg(milliseconds(time));
        }
    }

    fn add_entries(&self, command: &mut Cmd, messages: &[Outgoing]) {
        let mut entry = Vec::new();
        for Outgoing { letter, .. } in messages {
            entry.clear();
            letter.write(self.envelope, self.now_ms, self.expires, &mut entry);
            command.arg(&entry[..]);
        }
    }
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
        self.letter.plain.len()
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
        let name = outgoing.letter.channel.non_local();
        if let Some(place) = self.places.get(name) {
            self.channels[*place].push(outgoing);
        } else {
            self.places.insert(name.into(), self.channels.len());
            self.channels.push(vec![outgoing]);
        }
    }

    /// Sends the messages to `shard`, as often as configured while they cannot have arrived, and tells each what became
    /// of it.
    pub(super) async fn send(self, shard: &Shard, keys: &Keys, envelope: &Envelope, renewals: &mut Renewals) {
        self.measure();
        let mut retry = shard.retry();
        let answer = loop {
            let answer = self.push(shard, keys, envelope, Way::Lane(renewals)).await;
            if answer.is_err() {
                renewals.forget();
            }
            match answer {
                Err(fault) if retry.wait_after(&fault).await => {}
                answer => break answer,
            }
        };
        self.settle(shard.index, answer);
    }

    /// Sends the messages to `shard` if the condition holds, and tells each what became of it. Otherwise nothing is sent
    /// and nobody is told; the result may be what the server says of the group.
    pub(super) async fn send_if(
        self,
        condition: &Condition,
        shard: &Shard,
        keys: &Keys,
        envelope: &Envelope,
    ) -> Result<(), Option<Value>> {
        self.measure();
        match self.push(shard, keys, envelope, Way::If(condition)).await {
            Ok(Answer::OtherRoutes(routes)) => Err(Some(routes)),
            Err(fault) if !fault.may_have_run => Err(None),
            answer => {
                self.settle(shard.index, answer);
                Ok(())
            }
        }
    }

    /// Sends the messages once.
    async fn push(&self, shard: &Shard, keys: &Keys, envelope: &Envelope, way: Way<'_>) -> Result<Answer, Fault> {
        let now_ms = shard.now_ms()?;
        let departure = Departure { envelope, keys, now_ms, expires: now_ms + milliseconds(envelope.expiry()) };
        let call = match way {
            Way::If(condition) => self.call(&departure, Some(condition), |_| true),
            Way::Lane(_) if self.is_large() => {
                return parse_answer(self.append(shard, &departure).await?, self.channels.len());
            }
            Way::Lane(renewals) => {
                renewals.begin(Instant::now());
                self.call(&departure, None, |channel| renewals.is_due(channel))
            }
        };
        let answer = shard.run_once(&call).await?;
        parse_answer(answer, self.channels.len())
    }

    fn measure(&self) {
        metrics::histogram!("channel_layer_batch_size").record(u32::try_from(self.entries).unwrap_or(u32::MAX));
    }

    /// Tells each message what became of it.
    fn settle(self, shard: usize, answer: Result<Answer, Fault>) {
        match answer {
            Ok(Answer::Appended { accepted, expired }) => {
                drops::count(DropReason::Expired, expired);
                self.finish(shard, &accepted);
            }
            Ok(Answer::OtherRoutes(_)) => self.fail(shard, &Fault::unexpected("routes that nobody asked for")),
            Err(fault) => self.fail(shard, &fault),
        }
    }

    /// Whether it is better appended by a transaction.
    fn is_large(&self) -> bool {
        let bytes: usize = self.messages().map(Weight::bytes).sum();
        bytes >= LARGE && bytes / self.entries >= LARGE_ENTRY
    }

    /// Appends large messages.
    async fn append(&self, shard: &Shard, departure: &Departure<'_>) -> Result<Value, Fault> {
        let mut answers = shard.run_transaction(self.transaction(departure)).await?;
        let settled = answers.pop().ok_or_else(|| Fault::unexpected("an empty transaction"))?;
        settled.extract_error().map_err(Fault::from)
    }

    fn messages(&self) -> impl Iterator<Item = &Outgoing> {
        self.channels.iter().flatten()
    }

    /// The call of `push.lua`, which sets the times to live of channels for which that is due.
    fn call(
        &self,
        departure: &Departure<'_>,
        condition: Option<&Condition>,
        mut is_due: impl FnMut(&str) -> bool,
    ) -> Cmd {
        let mut names = self.names(departure.keys);
        names.extend(condition.map(|condition| departure.keys.group(&condition.group)));
        let mut command = script::PUSH.call(&names);
        departure.add_times(&mut command);
        if let Some(condition) = condition {
            command.arg(milliseconds(condition.group_expiry)).arg(&*condition.routes);
        }
        for messages in &self.channels {
            let is_due = is_due(name(messages));
            command.arg(capacity(messages)).arg(usize::from(is_due)).arg(messages.len());
            departure.add_entries(&mut command, messages);
        }
        command
    }

    /// The commands that append the messages, and the call of `push_large.lua` that settles them.
    fn transaction(&self, departure: &Departure<'_>) -> Vec<Cmd> {
        // A transaction goes on behind a script that is unknown, so that the script comes with it.
        let mut settling = script::PUSH_LARGE.call_with_source(&self.names(departure.keys));
        departure.add_times(&mut settling);
        let mut commands = Vec::with_capacity(self.channels.len() + 1);
        for messages in &self.channels {
            settling.arg(capacity(messages)).arg(messages.len());
            let bytes: usize = messages.iter().map(Weight::bytes).sum();
            let mut command = Cmd::with_capacity(messages.len() + 2, bytes + messages.len() * 128);
            command.arg("RPUSH").arg(departure.keys.channel(name(messages)));
            departure.add_entries(&mut command, messages);
            commands.push(command);
        }
        commands.push(settling);
        commands
    }

    /// The keys of each channel's list and counters, and those of the counters of all.
    fn names(&self, keys: &Keys) -> Vec<String> {
        let mut names = Vec::with_capacity(2 * self.channels.len() + 2);
        for messages in &self.channels {
            let name = name(messages);
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
                        let channel = message.letter.channel.non_local();
                        let answer = format!("the key of channel {channel} holds no list");
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

/// What they are all for, by the non-local part of its name.
fn name(messages: &[Outgoing]) -> &str {
    messages[0].letter.channel.non_local()
}

/// How much their channel may hold with these messages: of those that travel together, one may go past its capacity.
fn capacity(messages: &[Outgoing]) -> usize {
    messages.iter().map(|message| message.capacity).max().unwrap_or(0)
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
