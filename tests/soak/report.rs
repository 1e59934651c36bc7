//! What a person reads of a round.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use super::history::{Event, MessageId, Outcome, Record, Target, route};
use super::oracle::Violation;
use super::plan::Plan;

/// The most violations and lines of a history that are shown.
const MOST_VIOLATIONS: usize = 12;
const MOST_LINES: usize = 400;
/// Of what is frequent, how much before and after a message is shown.
const LINES_AROUND: usize = 40;

/// The figures of some rounds.
#[derive(Debug, Default)]
pub struct Figures {
    pub rounds: usize,
    /// Rounds that the machine has disturbed, which are not among the others.
    pub disturbed: usize,
    sent: usize,
    refused: usize,
    unknown: usize,
    delivered: usize,
    interrupted: usize,
    faults: BTreeMap<String, usize>,
    dropped: BTreeMap<String, u64>,
}

impl Figures {
    pub fn add(&mut self, plan: &Plan, records: &[Record]) {
        self.rounds += 1;
        for (_, fault) in &plan.faults {
            let name = format!("{fault:?}");
            *self.faults.entry(name.split(' ').next().unwrap_or_default().to_owned()).or_default() += 1;
        }
        for Record { event, .. } in records {
            match event {
                Event::Sent { outcome: Outcome::Done, .. } => self.sent += 1,
                Event::Sent { outcome: Outcome::Unknown, .. } => self.unknown += 1,
                Event::Sent { .. } => self.refused += 1,
                Event::Received { .. } => self.delivered += 1,
                Event::Interrupted { .. } => self.interrupted += 1,
                Event::Counted { reason, messages } | Event::GroupSendCounted { reason, messages, .. } => {
                    *self.dropped.entry(reason.clone()).or_default() += messages;
                }
                _ => {}
            }
        }
    }
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { rounds, disturbed, sent, refused, unknown, delivered, interrupted, faults, dropped } = self;
        write!(
            f,
            "{rounds} rounds, {disturbed} disturbed: {sent} sent, {refused} refused, {unknown} with unknown outcome, "
        )?;
        write!(f, "{delivered} delivered, {interrupted} interrupted reads, dropped {dropped:?}, faults {faults:?}")
    }
}

/// How a round broke promises, with the part of its history that shows it.
pub fn failure(plan: &Plan, records: &[Record], violations: &[Violation]) -> String {
    let (layer, seed) = (plan.backend.name(), plan.seed);
    let mut text = format!(
        "{layer} broke {} promises; repeat it with: scripts/soak --layer {layer} --seed {seed} --seconds 1\n\n{plan}\n",
        violations.len(),
    );
    for violation in violations.iter().take(MOST_VIOLATIONS) {
        let _ = writeln!(text, "{violation}");
    }
    if violations.len() > MOST_VIOLATIONS {
        let _ = writeln!(text, "... and {} more", violations.len() - MOST_VIOLATIONS);
    }
    let mut figures = Figures::default();
    figures.add(plan, records);
    let _ = writeln!(text, "\n{figures}");
    let shown = violations.iter().find(|violation| violation.route.is_some());
    let route = shown.and_then(|shown| shown.route.as_deref());
    let _ = writeln!(text, "\nthe history of {}:", route.unwrap_or("all processes"));
    let excerpt = Excerpt::of(records, route.unwrap_or_default(), shown.and_then(|shown| shown.id));
    for record in excerpt.records(records).into_iter().take(MOST_LINES) {
        let process = if record.process == usize::MAX { "-".to_owned() } else { record.process.to_string() };
        let _ = writeln!(text, "{:>10.4} s  process {process:<3} {:?}", record.at.as_secs_f64(), record.event);
    }
    text
}

/// What of a history concerns a route and one message.
struct Excerpt<'r> {
    route: &'r str,
    id: Option<MessageId>,
    /// The messages that were sent to the route or got from it, and those of the same call as the message.
    messages: BTreeSet<MessageId>,
    /// All changes of the message's group, if it went to one; otherwise changes of groups that channels of the route
    /// are in.
    changes: BTreeSet<u32>,
}

impl<'r> Excerpt<'r> {
    fn of(records: &[Record], shown: &'r str, id: Option<MessageId>) -> Self {
        let to_group = records.iter().find_map(|record| match &record.event {
            Event::Sending { id: sent, to: Target::Group(group), .. } if Some(*sent) == id => Some(group),
            _ => None,
        });
        let messages = id.map_or_else(BTreeSet::new, |id| call_of(id, records));
        let mut excerpt = Self { route: shown, id, messages, changes: BTreeSet::new() };
        for Record { event, .. } in records {
            match event {
                Event::Received { id, channel, .. } | Event::Sending { id, to: Target::Channel(channel), .. }
                    if route(channel) == shown =>
                {
                    excerpt.messages.insert(*id);
                }
                Event::Changing { change, channel, group, .. }
                    if to_group.map_or(route(channel) == shown, |wanted| wanted == group) =>
                {
                    excerpt.changes.insert(*change);
                }
                _ => {}
            }
        }
        excerpt
    }

    /// The records that concern it; of what is frequent only those around the message, since what explains it comes
    /// before, and what it did comes after.
    fn records<'a>(&self, records: &'a [Record]) -> Vec<&'a Record> {
        let chosen: Vec<_> = records.iter().filter(|record| self.concerns(record)).collect();
        let names = |record: &&Record| self.id.is_some() && id_of(record) == self.id;
        let around = |at: usize| at.saturating_sub(LINES_AROUND)..=at + LINES_AROUND;
        let first = chosen.iter().position(names).map(around);
        let last = chosen.iter().rposition(names).map(around);
        let is_near = |at: usize| [&first, &last].into_iter().flatten().any(|range| range.contains(&at));
        let shown = chosen.into_iter().enumerate().filter(|(at, record)| is_near(*at) || !is_frequent(record));
        shown.map(|(_, record)| record).collect()
    }

    fn concerns(&self, record: &Record) -> bool {
        match &record.event {
            Event::Received { id, channel, .. } => {
                self.messages.contains(id) && (self.route.is_empty() || route(channel) == self.route)
            }
            Event::Sending { id, .. }
            | Event::Sent { id, .. }
            | Event::Requeueing { id, .. }
            | Event::Requeued { id, .. }
            | Event::Abandoned { id } => self.messages.contains(id),
            Event::GroupSendCounted { ids, .. } => self.id.is_some_and(|id| ids.contains(&id)),
            Event::Named { channel } => channel == self.route,
            Event::Reading { routes, .. } => self.route.is_empty() || routes.iter().any(|read| read == self.route),
            Event::Changing { change, .. } | Event::Changed { change, .. } => self.changes.contains(change),
            Event::Waiting { route, .. } => route == self.route,
            _ => true,
        }
    }
}

/// The messages of the call that sent the message `id`. A writer makes one call at a time.
fn call_of(id: MessageId, records: &[Record]) -> BTreeSet<MessageId> {
    let mut call = BTreeSet::new();
    for Record { event, .. } in records {
        match event {
            Event::Sending { id: sent, .. } if sent.writer == id.writer => _ = call.insert(*sent),
            Event::Sent { id: sent, .. } if sent.writer == id.writer && call.contains(&id) => break,
            Event::Sent { id: sent, .. } if sent.writer == id.writer => call.clear(),
            _ => {}
        }
    }
    call
}

fn id_of(record: &Record) -> Option<MessageId> {
    match record.event {
        Event::Sending { id, .. }
        | Event::Sent { id, .. }
        | Event::Requeueing { id, .. }
        | Event::Requeued { id, .. }
        | Event::Abandoned { id }
        | Event::Received { id, .. } => Some(id),
        _ => None,
    }
}

fn is_frequent(record: &Record) -> bool {
    let is_frequent = matches!(
        record.event,
        Event::Waiting { .. }
            | Event::ReadFailed { .. }
            | Event::CallFailed { .. }
            | Event::Counted { .. }
            | Event::GroupSendCounted { .. }
    );
    id_of(record).is_some() || is_frequent
}
