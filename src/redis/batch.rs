//! Messages to one shard that travel in one script call.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use redis::{Cmd, Value};
use tokio::sync::oneshot;

use super::envelope::Envelope;
use super::fault::Fault;
use super::keys::Keys;
use super::letter::Letter;
use super::outbox::Weight;
use super::renewals::{Renewals, SLACK};
use super::routes::Routes;
use super::script;
use super::shard::Shard;
use crate::drops::{self, DropReason};
use crate::name::{ChannelKind, GroupName};
use crate::supervise::contained;

/// How far stamps by the estimate of the server's clock may be off before the server writes them anew. Less than the
/// time that a batch waits on a busy server would only cost; more would show in short expiries.
const STAMP_TOLERANCE: Duration = Duration::from_millis(50);
/// How long the counters of a channel, and those of all channels, outlive the last send at most.
const CHANNEL_STATS_LIVE: Duration = Duration::from_hours(1);
const GLOBAL_STATS_LIVE: Duration = Duration::from_hours(24);

/// A batch of so many bytes, in entries of so many on average, is appended by a transaction: its script is sent with it
/// and hashed, but its entries are not.
const LARGE: usize = 1 << 15;
const LARGE_ENTRY: usize = 1 << 10;

/// What lanes are called where panics are counted.
pub(crate) const TASK: &str = "sender to Redis";

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
    /// Whether a refusal, or a failure, by this shard is one of the message: no other will be tried.
    is_last: bool,
    done: oneshot::Sender<Outcome>,
}

impl Outgoing {
    /// For a shard on which its channel may hold `capacity` messages; what becomes of it there comes by the receiver.
    pub(super) fn new(letter: Letter, capacity: usize, is_last: bool) -> (Self, oneshot::Receiver<Outcome>) {
        let (done, outcome) = oneshot::channel();
        (Self { letter, capacity, is_last, done }, outcome)
    }

    fn channel(&self) -> &str {
        self.letter.channel.non_local()
    }

    /// Whether it waits for a server that takes nothing: no other will do, and somebody wants to know. While a server is away,
    /// nothing else would bound how many messages wait.
    pub(super) fn stays(&self) -> bool {
        self.is_last && !self.done.is_closed()
    }

    /// Tells what became of it; the caller may have gone.
    pub(super) fn fail(self, shard: usize, fault: &Fault) {
        let _ = self.done.send(Outcome::Failed { shard, fault: fault.clone() });
    }

    fn goes_like(&self, other: &Self) -> bool {
        (self.capacity, self.is_last) == (other.capacity, other.is_last)
    }
}

/// What has to be true of a group for messages to its members to be sent.
#[derive(Clone, Debug)]
pub(super) struct Condition {
    pub(super) group: GroupName,
    pub(super) routes: Routes,
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
        for time in [STAMP_TOLERANCE, expiry + SLACK, GLOBAL_STATS_LIVE] {
            command.arg(milliseconds(time));
        }
    }

    /// How long the counters of a letter's channel live. Names with a `?` are made for one purpose each, and would pile up.
    fn counters_live(&self, letter: &Letter) -> u64 {
        milliseconds(match letter.channel.kind() {
            ChannelKind::SingleReader => CHANNEL_STATS_LIVE.min(self.envelope.expiry() + SLACK),
            _ => CHANNEL_STATS_LIVE,
        })
    }

    fn add_entries(&self, command: &mut Cmd, messages: &[Outgoing]) {
        let mut entry = Vec::new();
        for Outgoing { letter, .. } in messages {
            letter.write(self.envelope, self.now_ms, self.expires, &mut entry);
            command.arg(&entry[..]);
        }
    }
}

/// Messages that travel together, by channel, in the order in which they came. A channel is there again where messages of
/// which another number may be there, or of which refusals mean something else, come after others.
#[derive(Default)]
pub(super) struct Batch {
    channels: Vec<Vec<Outgoing>>,
    /// The last place of each channel, by the non-local part of its name.
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
        match self.places.get(outgoing.channel()) {
            Some(place) if self.channels[*place][0].goes_like(&outgoing) => self.channels[*place].push(outgoing),
            _ => {
                self.places.insert(outgoing.channel().into(), self.channels.len());
                self.channels.push(vec![outgoing]);
            }
        }
    }

    /// Sends the messages to `shard`, as often as configured while they cannot have arrived, and tells each what became
    /// of it. Only what [stays](Outgoing::stays) waits for the next attempt; `others_go` is told why before and after each
    /// pause.
    pub(super) async fn send(
        mut self,
        shard: &Shard,
        keys: &Keys,
        envelope: &Envelope,
        renewals: &Mutex<Renewals>,
        others_go: impl Fn(&Fault),
    ) {
        self.measure();
        let mut retry = shard.retry();
        while !self.channels.is_empty() {
            let pushed = contained(TASK, self.push(shard, keys, envelope, None, renewals)).await;
            let fault = match pushed.unwrap_or_else(|| Err(Fault::panicked())) {
                Err(fault) if !fault.may_have_run => fault,
                answer => return self.settle(shard.index, answer),
            };
            self.keep(Outgoing::stays).fail(shard.index, &fault);
            others_go(&fault);
            if self.channels.is_empty() || !retry.wait_after(&fault).await {
                return self.fail(shard.index, &fault);
            }
            self.keep(Outgoing::stays).fail(shard.index, &fault);
            others_go(&fault);
        }
    }

    /// Keeps the messages of which this is true, and gives the others.
    fn keep(&mut self, is_kept: impl Fn(&Outgoing) -> bool) -> Self {
        let all = std::mem::take(self).channels.into_iter().flatten();
        let (kept, others): (Vec<_>, Vec<_>) = all.partition(is_kept);
        *self = kept.into_iter().collect();
        others.into_iter().collect()
    }

    /// Sends the messages to `shard` if the condition holds, and tells each what became of it. Otherwise nothing is sent
    /// and nobody is told; the result may be what the server says of the group.
    pub(super) async fn send_if(
        self,
        condition: &Condition,
        shard: &Shard,
        keys: &Keys,
        envelope: &Envelope,
        renewals: &Mutex<Renewals>,
    ) -> Result<(), Option<Value>> {
        self.measure();
        match self.push(shard, keys, envelope, Some(condition), renewals).await {
            Ok(Answer::OtherRoutes(routes)) => Err(Some(routes)),
            Err(fault) if !fault.may_have_run => Err(None),
            answer => {
                self.settle(shard.index, answer);
                Ok(())
            }
        }
    }

    /// Sends the messages once, if the condition holds.
    async fn push(
        &self,
        shard: &Shard,
        keys: &Keys,
        envelope: &Envelope,
        condition: Option<&Condition>,
        renewals: &Mutex<Renewals>,
    ) -> Result<Answer, Fault> {
        let now_ms = shard.now_ms()?;
        let departure = Departure { envelope, keys, now_ms, expires: now_ms + milliseconds(envelope.expiry()) };
        if condition.is_none() && self.is_large() {
            return parse_answer(self.append(shard, &departure).await?, self.channels.len());
        }
        let begun = Instant::now();
        let names = self.channels.iter().map(|messages| messages[0].channel());
        let due = renewals.lock().due(begun, names.clone());
        let answer = shard.run_once(&self.call(&departure, condition, &due)).await?;
        let answer = parse_answer(answer, self.channels.len())?;
        if matches!(answer, Answer::Appended { .. }) {
            renewals.lock().done(begun, names.zip(due).filter(|(_, due)| *due).map(|(name, _)| name));
        }
        Ok(answer)
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

    /// Whether it is better appended by a transaction, which can hold a channel once.
    fn is_large(&self) -> bool {
        if self.channels.len() > self.places.len() {
            return false;
        }
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

    /// The call of `push.lua`, which sets the times to live of the counters for which that is due.
    fn call(&self, departure: &Departure<'_>, condition: Option<&Condition>, due: &[bool]) -> Cmd {
        let mut names = self.names(departure.keys);
        if let Some(Condition { group, .. }) = condition {
            names.extend([departure.keys.group(group), departure.keys.route_ends(group)]);
        }
        let mut command = script::PUSH.call(&names);
        departure.add_times(&mut command);
        match condition {
            Some(Condition { routes, .. }) => command.arg(routes.until).arg(&*routes.text),
            None => command.arg(0),
        };
        for (messages, is_due) in self.channels.iter().zip(due) {
            let Outgoing { letter, capacity, is_last, .. } = &messages[0];
            command.arg(*capacity).arg(departure.counters_live(letter));
            command.arg(usize::from(*is_due)).arg(usize::from(*is_last)).arg(messages.len());
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
            let Outgoing { letter, capacity, is_last, .. } = &messages[0];
            settling.arg(*capacity).arg(departure.counters_live(letter));
            settling.arg(usize::from(*is_last)).arg(messages.len());
            let bytes: usize = messages.iter().map(Weight::bytes).sum();
            let mut command = Cmd::with_capacity(messages.len() + 2, bytes + messages.len() * 128);
            command.arg("RPUSH").arg(departure.keys.channel(messages[0].channel()));
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
            let name = messages[0].channel();
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
                        let answer = format!("the key of channel {} holds no list", message.channel());
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
        self.channels.into_iter().flatten().for_each(|message| message.fail(shard, fault));
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
