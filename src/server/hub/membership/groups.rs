//! What a process knows of its groups on the layer, and what is to be done about each: no I/O.
//!
//! A group has one change under way at a time, and what is asked for meanwhile waits for that alone. Changes that a client
//! waits for have places of their own, so that neither renewals nor groups that cannot be reached stand before them.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::error::Error;
use crate::server::hub::names::Audience;

/// Changes under way that clients wait for.
const WANTED_AT_ONCE: usize = 256;

/// Changes under way that nobody waits for.
const UPKEEP_AT_ONCE: usize = 64;

/// When what failed is tried again: the first pause, and the longest that it grows to.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// How a change ended, shared by all who wait for it.
pub(crate) type Outcome = Result<(), Arc<Error>>;

pub(crate) type Waiting = Vec<oneshot::Sender<Outcome>>;

/// Whether this process is a member of a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Held {
    #[default]
    No,
    Member,
    /// A change failed, and may have taken place; or the layer has lost its groups.
    Unknown,
}

/// A group that is to be brought to what it should be.
#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) audience: Audience,
    pub(crate) held: Held,
    /// To be added again, though it is a member.
    pub(crate) renew: bool,
    urgency: Urgency,
    /// Who asked before it began.
    waiting: Waiting,
}

/// What a task came to.
#[derive(Debug)]
pub(crate) struct Settled {
    /// Messages of other processes come for the audience from now on.
    pub(crate) subscribed: bool,
    /// Who is to be told.
    pub(crate) waiting: Waiting,
    pub(crate) outcome: Outcome,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Urgency {
    Upkeep,
    Wanted,
}

#[derive(Debug)]
pub(crate) struct Groups {
    known: HashMap<Audience, Group>,
    wanted: Line,
    upkeep: Line,
    /// When groups are to be renewed or tried again.
    due: BTreeSet<(Instant, Audience)>,
    renew_every: Duration,
    failing: usize,
}

#[derive(Debug, Default)]
struct Group {
    held: Held,
    under_way: bool,
    /// Something is to be done, after what is under way.
    queued: Option<Urgency>,
    renew: bool,
    /// What is under way may have been done before the layer lost its groups.
    outdated: bool,
    waiting: Waiting,
    due: Option<Instant>,
    /// The last change failed; the pauses until the next ones.
    retry: Option<Backoff>,
}

/// Groups whose turn is to come. One that is in another line, or under way, is passed over.
#[derive(Debug)]
struct Line {
    waiting: VecDeque<Audience>,
    under_way: usize,
    at_once: usize,
}

impl Line {
    fn new(at_once: usize) -> Self {
        Self { waiting: VecDeque::new(), under_way: 0, at_once }
    }
}

impl Groups {
    pub(crate) fn new(renew_every: Duration) -> Self {
        Self {
            known: HashMap::new(),
            wanted: Line::new(WANTED_AT_ONCE),
            upkeep: Line::new(UPKEEP_AT_ONCE),
            due: BTreeSet::new(),
            renew_every,
            failing: 0,
        }
    }

    /// Somebody waits for the messages of an audience.
    pub(crate) fn want(&mut self, audience: Audience, waiting: Waiting) {
        self.known.entry(audience.clone()).or_default().waiting.extend(waiting);
        self.queue(audience, Urgency::Wanted);
    }

    /// An audience has nobody any more.
    pub(crate) fn emptied(&mut self, audience: Audience) {
        self.queue(audience, Urgency::Upkeep);
    }

    /// The layer has lost its groups; gives those that are to be made again.
    pub(crate) fn lost(&mut self) -> Vec<Audience> {
        let concerned = self.known.iter_mut().filter(|(_, group)| group.under_way || group.held != Held::No);
        let mut lost = Vec::new();
        for (audience, group) in concerned {
            group.outdated = group.under_way;
            group.held = Held::Unknown;
            lost.push(audience.clone());
        }
        for audience in &lost {
            self.queue(audience.clone(), Urgency::Upkeep);
        }
        lost
    }

    /// When the next group is due.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Sees to the groups whose time has come.
    pub(crate) fn fall_due(&mut self, now: Instant) {
        while let Some((at, audience)) = self.due.pop_first() {
            if at > now {
                self.due.insert((at, audience));
                return;
            }
            let group = self.known.entry(audience.clone()).or_default();
            group.due = None;
            group.renew = true;
            self.queue(audience, Urgency::Upkeep);
        }
    }

    /// What to begin with now; [`settle`](Self::settle) has to follow.
    pub(crate) fn next(&mut self) -> Option<Task> {
        self.next_of(Urgency::Wanted).or_else(|| self.next_of(Urgency::Upkeep))
    }

    /// Notes how a task ended at `now`.
    pub(crate) fn settle(&mut self, task: Task, result: Result<Held, Error>, now: Instant) -> Settled {
        let Task { audience, urgency, mut waiting, .. } = task;
        self.line(urgency).under_way -= 1;
        let group = self.known.entry(audience.clone()).or_default();
        group.under_way = false;
        let outdated = std::mem::take(&mut group.outdated);
        let failed_before = group.retry.is_some();
        let (held, next, outcome) = match result {
            Ok(held) => {
                group.retry = None;
                (held, (held == Held::Member).then_some(now + self.renew_every), Ok(()))
            }
            Err(error) => {
                let pause = group.retry.get_or_insert_with(|| Backoff::new(RETRY.0, RETRY.1)).pause();
                (Held::Unknown, Some(now + pause), Err(Arc::new(error)))
            }
        };
        let held = if outdated { Held::Unknown } else { held };
        if outdated && outcome.is_ok() {
            // They wait for what comes next.
            group.waiting.append(&mut waiting);
        }
        group.held = held;
        let failing = group.retry.is_some();
        self.failing = self.failing + usize::from(failing) - usize::from(failed_before);
        self.schedule(&audience, next);
        self.go_on(audience);
        Settled { subscribed: held == Held::Member, waiting, outcome }
    }

    /// How many groups could not be changed the last time.
    pub(crate) fn failing(&self) -> usize {
        self.failing
    }

    /// All groups that this process may be in.
    pub(crate) fn into_held(self) -> impl Iterator<Item = Audience> {
        self.known.into_iter().filter(|(_, group)| group.held != Held::No).map(|(audience, _)| audience)
    }

    fn line(&mut self, urgency: Urgency) -> &mut Line {
        match urgency {
            Urgency::Wanted => &mut self.wanted,
            Urgency::Upkeep => &mut self.upkeep,
        }
    }

    fn queue(&mut self, audience: Audience, urgency: Urgency) {
        let group = self.known.entry(audience.clone()).or_default();
        if group.queued >= Some(urgency) {
            return;
        }
        group.queued = Some(urgency);
        if !group.under_way {
            self.line(urgency).waiting.push_back(audience);
        }
    }

    fn next_of(&mut self, urgency: Urgency) -> Option<Task> {
        let line = self.line(urgency);
        if line.under_way >= line.at_once {
            return None;
        }
        while let Some(audience) = self.line(urgency).waiting.pop_front() {
            let Some(group) = self.known.get_mut(&audience) else { continue };
            if group.under_way || group.queued != Some(urgency) {
                continue;
            }
            group.queued = None;
            group.under_way = true;
            let (renew, waiting) = (std::mem::take(&mut group.renew), std::mem::take(&mut group.waiting));
            let task = Task { held: group.held, renew, urgency, waiting, audience };
            self.line(urgency).under_way += 1;
            return Some(task);
        }
        None
    }

    fn schedule(&mut self, audience: &Audience, next: Option<Instant>) {
        let Some(group) = self.known.get_mut(audience) else { return };
        if let Some(before) = std::mem::replace(&mut group.due, next) {
            self.due.remove(&(before, audience.clone()));
        }
        self.due.extend(next.map(|next| (next, audience.clone())));
    }

    /// Gives a group that is not under way any more its next turn, or forgets it.
    fn go_on(&mut self, audience: Audience) {
        match self.known.get(&audience) {
            Some(Group { queued: Some(urgency), .. }) => {
                let urgency = *urgency;
                self.line(urgency).waiting.push_back(audience);
            }
            Some(Group { held: Held::No, .. }) => drop(self.known.remove(&audience)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::hub::names::Kind;

    const EVERY: Duration = Duration::from_hours(1);

    fn room(name: &str) -> Audience {
        Audience { kind: Kind::Room, name: name.into() }
    }

    fn failure() -> Result<Held, Error> {
        Err(Error::Closed)
    }

    fn names(groups: &mut Groups) -> Vec<String> {
        std::iter::from_fn(|| groups.next()).map(|task| task.audience.name.to_string()).collect()
    }

    /// Groups of which this process is a member since `now`.
    fn joined(rooms: &[&str], now: Instant) -> Groups {
        let mut groups = Groups::new(EVERY);
        for name in rooms {
            groups.want(room(name), Vec::new());
            let task = groups.next().unwrap();
            assert!(groups.settle(task, Ok(Held::Member), now).subscribed);
        }
        groups
    }

    #[test]
    fn a_group_has_one_change_under_way_and_then_the_next() {
        let mut groups = Groups::new(EVERY);
        groups.want(room("a"), Vec::new());
        let first = groups.next().unwrap();
        groups.emptied(room("a"));
        groups.want(room("a"), Vec::new());
        assert!(groups.next().is_none());
        groups.settle(first, Ok(Held::Member), Instant::now());
        let second = groups.next().unwrap();
        assert_eq!((second.held, second.renew), (Held::Member, false));
        groups.settle(second, Ok(Held::No), Instant::now());
        assert!(groups.next().is_none() && groups.known.is_empty() && groups.due.is_empty());
    }

    #[test]
    fn each_group_is_renewed_at_its_own_time_whatever_fails_beside_it() {
        let begun = Instant::now();
        let mut groups = joined(&["a", "b"], begun);
        groups.want(room("c"), Vec::new());
        let task = groups.next().unwrap();
        groups.settle(task, failure(), begun);
        assert_eq!(groups.failing(), 1);
        groups.fall_due(begun + RETRY.0);
        assert_eq!(names(&mut groups), ["c"], "what failed alone is tried again");
        groups.fall_due(begun + EVERY);
        assert_eq!(names(&mut groups).len(), 2);
    }

    #[test]
    fn pauses_before_a_retry_grow_and_end_with_success() {
        let mut now = Instant::now();
        let mut groups = joined(&[], now);
        groups.want(room("a"), Vec::new());
        let mut pauses = Vec::new();
        for _ in 0..8 {
            let task = groups.next().unwrap();
            groups.settle(task, failure(), now);
            let due = groups.next_due().unwrap();
            pauses.push(due - now);
            now = due;
            groups.fall_due(now);
        }
        assert!(pauses[0] <= RETRY.0 && pauses[7] >= RETRY.1 / 2 && pauses[7] <= RETRY.1, "{pauses:?}");
        let task = groups.next().unwrap();
        groups.settle(task, Ok(Held::Member), now);
        assert_eq!((groups.failing(), groups.next_due()), (0, Some(now + EVERY)));
    }

    #[test]
    fn who_is_waited_for_stands_behind_no_upkeep() {
        let now = Instant::now();
        let rooms: Vec<_> = (0..1_000).map(|number| number.to_string()).collect();
        let mut groups = joined(&rooms.iter().map(|name| &**name).collect::<Vec<_>>(), now);
        groups.fall_due(now + EVERY);
        assert_eq!(names(&mut groups).len(), UPKEEP_AT_ONCE);
        groups.want(room("new"), Vec::new());
        groups.want(room("999"), Vec::new());
        assert_eq!(names(&mut groups), ["new", "999"]);
    }

    #[test]
    fn what_was_under_way_during_a_loss_is_done_again_before_anybody_is_told() {
        let mut groups = joined(&["a"], Instant::now());
        let (done, _told) = oneshot::channel();
        groups.want(room("b"), vec![done]);
        let task = groups.next().unwrap();
        assert_eq!(groups.lost().len(), 2);
        let settled = groups.settle(task, Ok(Held::Member), Instant::now());
        assert!(!settled.subscribed && settled.waiting.is_empty());
        let again: Vec<_> = std::iter::from_fn(|| groups.next()).collect();
        assert!(again.iter().all(|task| task.held == Held::Unknown) && again.len() == 2, "{again:?}");
        assert_eq!(again.iter().map(|task| task.waiting.len()).sum::<usize>(), 1);
    }
}
