//! Who was a member of a group, and when.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::history::{Moment, Outcome};
use super::facts::{AFTERMATH, NOTICE, Wipe};

/// By how much a round sets the clock of a server at most. A clock that is set forward ends memberships early.
const LONGEST_STEP: Duration = Duration::from_secs(20);

/// A call that added a channel to a group, or took it out.
#[derive(Clone, Debug)]
pub struct Change<'r> {
    pub start: Moment,
    pub end: Moment,
    /// The process that made it.
    pub process: usize,
    pub group: &'r str,
    pub channel: &'r str,
    pub joins: bool,
    pub expiry: Duration,
    pub outcome: Outcome,
}

impl<'r> Change<'r> {
    /// A change whose end is not known yet.
    pub fn starting(start: Moment, group: &'r str, channel: &'r str, joins: bool, expiry: Duration) -> Self {
        Self {
            start,
            end: start + AFTERMATH,
            process: usize::MAX,
            group,
            channel,
            joins,
            expiry,
            outcome: Outcome::Unknown,
        }
    }
}

/// Whether a channel was a member during a send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Membership {
    /// From its beginning to its end.
    Member,
    /// At no moment of it.
    Stranger,
    /// Nobody can tell: it changed meanwhile, or a change has an unknown outcome.
    Unclear,
}

/// The changes of all memberships.
#[derive(Debug, Default)]
pub struct Memberships<'r> {
    /// By group and channel, each in the order in which it was made: one actor makes all changes of a membership.
    changes: BTreeMap<&'r str, BTreeMap<&'r str, Vec<Change<'r>>>>,
    wipes: Vec<Wipe>,
    /// When the clock of a server was set. That is recorded a little later.
    clock_steps: Vec<Moment>,
}

impl<'r> Memberships<'r> {
    pub fn of(all: impl Iterator<Item = Change<'r>>, wipes: &[Wipe], clock_steps: &[Moment]) -> Self {
        let mut changes: BTreeMap<_, BTreeMap<_, Vec<_>>> = BTreeMap::new();
        for change in all {
            changes.entry(change.group).or_default().entry(change.channel).or_default().push(change);
        }
        Self { changes, wipes: wipes.to_vec(), clock_steps: clock_steps.to_vec() }
    }

    /// The process of a member: the one that changed its membership last.
    pub fn process(&self, group: &str, channel: &str) -> Option<usize> {
        Some(self.changes.get(group)?.get(channel)?.last()?.process)
    }

    /// The process that has made all changes of the memberships of `channel`, if one has.
    pub fn process_alone(&self, channel: &str) -> Option<usize> {
        let mut changes = self.changes.values().filter_map(|channels| channels.get(channel)).flatten();
        let process = changes.next()?.process;
        changes.all(|change| change.process == process).then_some(process)
    }

    /// The channels that were members of `group` all through a send from `start` to `end`.
    pub fn members(&self, group: &str, start: Moment, end: Moment) -> Vec<&'r str> {
        self.channels(group, |channel| self.during(group, channel, start, end) == Membership::Member)
    }

    /// The channels that may have been members of `group` at some moment of a send from `start` to `end`.
    pub fn possible_members(&self, group: &str, start: Moment, end: Moment) -> Vec<&'r str> {
        self.channels(group, |channel| self.during(group, channel, start, end) != Membership::Stranger)
    }

    fn channels(&self, group: &str, is_wanted: impl Fn(&str) -> bool) -> Vec<&'r str> {
        let channels = self.changes.get(group).into_iter().flat_map(BTreeMap::keys).copied();
        channels.filter(|channel| is_wanted(channel)).collect()
    }

    /// Whether `channel` was a member of `group` during a send from `start` to `end`.
    pub fn during(&self, group: &str, channel: &str, start: Moment, end: Moment) -> Membership {
        let changes = self.changes.get(group).and_then(|channels| channels.get(channel));
        let mut state = Membership::Stranger;
        // When the membership began for certain, which a later wipe may have ended.
        let (mut since, mut ends) = (Moment::ZERO, Moment::ZERO);
        for change in changes.into_iter().flatten().filter(|change| change.start <= end) {
            let target = if change.joins { Membership::Member } else { Membership::Stranger };
            let overlaps = change.end >= start;
            state = match change.outcome {
                Outcome::NotRun | Outcome::Full => state,
                _ if state == target => state,
                Outcome::Done if !overlaps => target,
                _ => Membership::Unclear,
            };
            // A renewal during the send may come after it.
            if change.joins && change.outcome == Outcome::Done && !overlaps {
                (since, ends) = (change.start, change.start + change.expiry);
            }
        }
        let wiped = self.wipes.iter().any(|wipe| wipe.end >= since && wipe.start <= end);
        let steps = self.clock_steps.iter().filter(|step| (since..=end + NOTICE).contains(step)).count();
        let ends = ends.saturating_sub(LONGEST_STEP * u32::try_from(steps).unwrap_or(u32::MAX));
        if state == Membership::Member && (wiped || ends <= end) { Membership::Unclear } else { state }
    }
}
