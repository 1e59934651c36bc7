//! A history, folded into tables.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::history::{Event, MessageId, Moment, Outcome, Record, Target};
use super::membership::{Change, Memberships};
use super::outages::Outages;
use super::replaced::Replaced;

/// How long a call that was cancelled, or whose process was killed, may still take effect on a server.
pub const AFTERMATH: Duration = Duration::from_secs(10);
/// The most messages that a broken connection or a killed process takes along, for each route that it read: one read of
/// 256, and as many that had been read and not handed over.
const ONE_READ: usize = 256;
const READ_AND_HELD: usize = 512;

/// How much later than it happens it may be announced that a process is cut off, or is not any more, and recorded that
/// a clock was set.
pub const NOTICE: Duration = Duration::from_secs(2);

/// A message, and what its writer knows of it.
#[derive(Debug)]
pub struct Message<'r> {
    pub to: &'r Target,
    pub process: usize,
    pub start: Moment,
    /// `None` if the call never returned.
    pub end: Option<Moment>,
    pub outcome: Outcome,
    pub expiry: Duration,
    /// Whether a reader has requeued it. The outcome that its writer got no longer matters then.
    pub was_requeued: bool,
}

/// A message, as a reader got it.
#[derive(Debug)]
pub struct Delivered<'r> {
    pub id: MessageId,
    pub channel: &'r str,
    pub process: usize,
    pub asked: Moment,
    pub at: Moment,
}

/// Messages that may be lost without being counted: up to `room` of those in `place` that were sent before `until`.
#[derive(Clone, Debug)]
pub struct Allowance<'r> {
    pub place: Place<'r>,
    pub until: Moment,
    pub room: usize,
}

/// Where messages may be lost.
#[derive(Clone, Debug)]
pub enum Place<'r> {
    Routes(&'r [String]),
    /// The slots of a master that was replaced.
    Slots(Replaced<'r>),
}

/// What the group send of the messages `ids` counted as dropped.
#[derive(Clone, Debug)]
pub struct CountedByCall<'r> {
    pub ids: &'r [MessageId],
    pub reason: &'r str,
    pub messages: u64,
}

/// A time in which messages and memberships may have been deleted.
#[derive(Clone, Copy, Debug)]
pub struct Wipe {
    pub start: Moment,
    pub end: Moment,
}

/// A process, from its start to the moment at which it begins to end.
#[derive(Clone, Debug)]
pub struct Run<'r> {
    pub process: usize,
    pub routes: &'r [String],
    pub since: Moment,
    pub until: Moment,
}

/// Everything that rules ask about a history.
#[derive(Debug, Default)]
pub struct Facts<'r> {
    pub messages: BTreeMap<MessageId, Message<'r>>,
    /// In the order in which readers got them.
    pub deliveries: Vec<Delivered<'r>>,
    pub memberships: Memberships<'r>,
    pub wipes: Vec<Wipe>,
    pub allowances: Vec<Allowance<'r>>,
    /// Masters of a cluster whose replicas may lack something.
    pub replaced: Vec<Replaced<'r>>,
    /// Dropped messages of all processes by reason.
    pub counted: BTreeMap<&'r str, u64>,
    /// The part of them that group sends counted.
    pub counted_by_calls: Vec<CountedByCall<'r>>,
    pub runs: Vec<Run<'r>>,
    /// When which process was cut off from the others, and until when.
    pub cut_off: Vec<(usize, Moment, Moment)>,
    pub outages: Outages,
    /// When the clock of a server was set.
    pub clock_steps: Vec<Moment>,
    /// The slot of each process.
    pub slots: BTreeMap<usize, usize>,
    pub end: Moment,
}

impl<'r> Facts<'r> {
    pub fn of(records: &'r [Record]) -> Self {
        let mut facts = Self { end: records.last().map_or(Moment::ZERO, |last| last.at), ..Self::default() };
        let mut changes: BTreeMap<u32, Change<'r>> = BTreeMap::new();
        let mut wipes: BTreeMap<u32, Wipe> = BTreeMap::new();
        let mut emptied = Vec::new();
        let mut cut_off: BTreeMap<(usize, Option<usize>), Moment> = BTreeMap::new();
        for Record { at, process, event } in records {
            let (at, process) = (*at, *process);
            match event {
                Event::Sending { id, to, expiry } => {
                    let (outcome, expiry) = (Outcome::Unknown, *expiry);
                    let (start, end, was_requeued) = (at, None, false);
                    facts.messages.insert(*id, Message { to, process, start, end, outcome, expiry, was_requeued });
                }
                Event::Sent { id, outcome } => {
                    if let Some(message) = facts.messages.get_mut(id).filter(|message| !message.was_requeued) {
                        (message.end, message.outcome) = (Some(at), *outcome);
                    }
                }
                Event::Requeueing { id, expiry } => {
                    if let Some(message) = facts.messages.get_mut(id) {
                        let (to, end, outcome, expiry) = (message.to, None, Outcome::Unknown, *expiry);
                        *message = Message { to, process, start: at, end, outcome, expiry, was_requeued: true };
                    }
                }
                Event::Requeued { id, outcome } => {
                    if let Some(message) = facts.messages.get_mut(id) {
                        (message.end, message.outcome) = (Some(at), *outcome);
                    }
                }
                Event::Abandoned { id } => {
                    if let Some(message) = facts.messages.get_mut(id) {
                        message.outcome = Outcome::Unknown;
                    }
                }
                Event::Received { id, channel, asked } => {
                    facts.deliveries.push(Delivered { id: *id, channel, process, asked: *asked, at });
                }
                Event::Changing { change, group, channel, joins, expiry } => {
                    changes.insert(*change, Change::starting(at, group, channel, *joins, *expiry));
                }
                Event::Changed { change, outcome } => {
                    if let Some(change) = changes.get_mut(change) {
                        (change.end, change.outcome, change.process) = (at, *outcome, process);
                    }
                }
                Event::Wiping { wipe, .. } => {
                    wipes.insert(*wipe, Wipe { start: at, end: at + AFTERMATH });
                }
                Event::Wiped { wipe } => {
                    if let Some(wipe) = wipes.get_mut(wipe) {
                        wipe.end = at;
                    }
                }
                Event::Interrupted { routes } => facts.allow(Place::Routes(routes), at + AFTERMATH, ONE_READ),
                Event::MasterReplaced { since, until, slots } => {
                    let replaced = Replaced { since: *since, until: *until, slots };
                    // What was put back and the replica lacks may have been sent long before.
                    facts.allow(Place::Slots(replaced), *until, READ_AND_HELD);
                    facts.replaced.push(replaced);
                }
                Event::MasterEmptied { since } => emptied.push(Wipe { start: *since, end: at }),
                Event::ServerAway { server, slot } => facts.outages.begin(*server, *slot, at),
                Event::ServerBack { server, slot } => facts.outages.end(*server, *slot, at),
                Event::ClockStepped { .. } => facts.clock_steps.push(at),
                Event::Started { slot, routes } => {
                    facts.slots.insert(process, *slot);
                    facts.runs.push(Run { process, routes, since: at, until: Moment::MAX });
                }
                Event::Closing => facts.end_run(process, at),
                Event::Killed { routes } => {
                    facts.end_run(process, at);
                    facts.allow(Place::Routes(routes), at + AFTERMATH, READ_AND_HELD);
                }
                Event::CutOff { shard } => {
                    cut_off.entry((process, *shard)).or_insert(at);
                }
                Event::Connected { shard } => {
                    for shard in [None, Some(*shard)] {
                        facts.cut_off.extend(cut_off.remove(&(process, shard)).map(|since| (process, since, at)));
                    }
                }
                Event::Counted { reason, messages } => *facts.counted.entry(reason).or_default() += messages,
                Event::GroupSendCounted { ids, reason, messages } => {
                    *facts.counted.entry(reason).or_default() += messages;
                    facts.counted_by_calls.push(CountedByCall { ids, reason, messages: *messages });
                }
                _ => {}
            }
        }
        facts.cut_off.extend(cut_off.into_iter().map(|((process, _), since)| (process, since, facts.end)));
        facts.wipes = wipes.into_values().chain(emptied).collect();
        // What a process that is cut off changes is known to others later, and what a replica lacks is not known to it.
        for change in changes.values_mut().filter(|change| change.outcome == Outcome::Done) {
            let is_lacking = facts.may_lack(change.group, change.start, change.end);
            if is_lacking || facts.was_cut_off(change.process, change.start, change.end) {
                change.outcome = Outcome::Unknown;
            }
        }
        facts.memberships = Memberships::of(changes.into_values(), &facts.wipes, &facts.clock_steps);
        facts
    }

    fn end_run(&mut self, process: usize, at: Moment) {
        let runs = self.runs.iter_mut().filter(|run| run.process == process);
        runs.for_each(|run| run.until = run.until.min(at));
    }

    fn allow(&mut self, place: Place<'r>, until: Moment, room: usize) {
        self.allowances.push(Allowance { place, until, room });
    }

    /// Whether the master that now has the slot of `name` may lack the effect of a call from `start` to `end`.
    pub fn may_lack(&self, name: &str, start: Moment, end: Moment) -> bool {
        self.replaced.iter().any(|replaced| replaced.may_lack(name, start, end))
    }

    /// Whether the clock of a server was set at some moment from `start` to `end`. That is recorded a little later.
    pub fn clock_stepped(&self, start: Moment, end: Moment) -> bool {
        self.clock_steps.iter().any(|&step| (start..=end + NOTICE).contains(&step))
    }

    /// Whether a message that was sent from `start` on may have been deleted.
    pub fn wiped_since(&self, start: Moment) -> bool {
        self.wipes.iter().any(|wipe| wipe.end >= start)
    }

    /// Whether a message may have been dropped because nobody read it in time.
    pub fn may_have_expired(&self, message: &Message<'_>) -> bool {
        message.start + message.expiry <= self.end
    }

    /// Whether a process was cut off at some moment from `start` to `end`.
    pub fn was_cut_off(&self, process: usize, start: Moment, end: Moment) -> bool {
        let meets = |since: Moment, until: Moment| since <= end + NOTICE && until + NOTICE >= start;
        self.cut_off.iter().any(|&(cut, since, until)| cut == process && meets(since, until))
    }
}
