//! `Groups`: the state of this process' groups on the layer, and the next change of each. No I/O.
//!
//! A group has one change in flight at a time; later requests for the same group wait for it. Changes that a client
//! waits for have their own slots, so that neither renewals nor unreachable groups delay them.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::error::Error;
use crate::server::hub::names::Audience;

/// Limit of changes in flight that clients wait for.
const MAX_REQUESTED: usize = 256;

/// Limit of changes in flight that no client waits for.
const MAX_MAINTENANCE: usize = 64;

/// First and longest pause before a failed change is retried.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// The result of a change, shared by all callers that wait for it.
pub(crate) type Outcome = Result<(), Arc<Error>>;

pub(crate) type Waiters = Vec<oneshot::Sender<Outcome>>;

/// Whether this process is a member of a group, as far as it knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum MembershipState {
    #[default]
    Absent,
    Member,
    /// A change failed and may have taken effect, or the layer lost its groups.
    Unknown,
}

/// One change of a group.
#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) audience: Audience,
    pub(crate) state: MembershipState,
    /// Whether to add the process again although it is a member.
    pub(crate) renew: bool,
    priority: Priority,
    /// The callers that requested the group before the change began.
    waiting: Waiters,
}

/// The result of a task.
#[derive(Debug)]
pub(crate) struct TaskOutcome {
    /// Whether messages of other processes arrive for the audience now.
    pub(crate) subscribed: bool,
    /// The callers to notify.
    pub(crate) waiting: Waiters,
    pub(crate) outcome: Outcome,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Priority {
    Maintenance,
    Requested,
}

#[derive(Debug)]
pub(crate) struct Groups {
    known: HashMap<Audience, Group>,
    requested: TaskQueue,
    maintenance: TaskQueue,
    /// Times at which groups are renewed or retried.
    due: BTreeSet<(Instant, Audience)>,
    renew_every: Duration,
    failing: usize,
}

#[derive(Debug, Default)]
struct Group {
    state: MembershipState,
    in_flight: bool,
    /// Priority of the next change, if one is queued.
    queued: Option<Priority>,
    renew: bool,
    /// Whether the layer lost its groups while the present change was in flight.
    outdated: bool,
    waiting: Waiters,
    due: Option<Instant>,
    /// Pauses before retries, if the last change failed.
    retry: Option<Backoff>,
}

/// Queued groups of one priority. `next_of` skips an entry whose group is in flight or was queued with another
/// priority.
#[derive(Debug)]
struct TaskQueue {
    waiting: VecDeque<Audience>,
    in_flight: usize,
    limit: usize,
}

impl TaskQueue {
    fn new(limit: usize) -> Self {
        Self { waiting: VecDeque::new(), in_flight: 0, limit }
    }
}

impl Groups {
    pub(crate) fn new(renew_every: Duration) -> Self {
        Self {
            known: HashMap::new(),
            requested: TaskQueue::new(MAX_REQUESTED),
            maintenance: TaskQueue::new(MAX_MAINTENANCE),
            due: BTreeSet::new(),
            renew_every,
            failing: 0,
        }
    }

    /// Requests the group of an audience, so that its messages arrive. `waiting` is notified of the result.
    pub(crate) fn request(&mut self, audience: Audience, waiting: Waiters) {
        self.known.entry(audience.clone()).or_default().waiting.extend(waiting);
        self.queue(audience, Priority::Requested);
    }

    /// Records that an audience has no members any more.
    pub(crate) fn mark_empty(&mut self, audience: Audience) {
        self.queue(audience, Priority::Maintenance);
    }

    /// Records that the layer lost its groups. Returns the audiences whose groups have to be added again.
    pub(crate) fn groups_lost(&mut self) -> Vec<Audience> {
        let affected =
            self.known.iter_mut().filter(|(_, group)| group.in_flight || group.state != MembershipState::Absent);
        let mut lost = Vec::new();
        for (audience, group) in affected {
            group.outdated = group.in_flight;
            group.state = MembershipState::Unknown;
            lost.push(audience.clone());
        }
        for audience in &lost {
            self.queue(audience.clone(), Priority::Maintenance);
        }
        lost
    }

    /// Returns the time at which the next group is due.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Queues the groups that are due.
    pub(crate) fn queue_due(&mut self, now: Instant) {
        while let Some((at, audience)) = self.due.pop_first() {
            if at > now {
                self.due.insert((at, audience));
                return;
            }
            let group = self.known.entry(audience.clone()).or_default();
            group.due = None;
            group.renew = true;
            self.queue(audience, Priority::Maintenance);
        }
    }

    /// Returns the next task to start. Each task has to be passed to [`complete`](Self::complete).
    pub(crate) fn next(&mut self) -> Option<Task> {
        self.next_of(Priority::Requested).or_else(|| self.next_of(Priority::Maintenance))
    }

    /// Records the result of a task at `now`.
    pub(crate) fn complete(&mut self, task: Task, result: Result<MembershipState, Error>, now: Instant) -> TaskOutcome {
        let Task { audience, priority, mut waiting, .. } = task;
        self.queue_of(priority).in_flight -= 1;
        let group = self.known.entry(audience.clone()).or_default();
        group.in_flight = false;
        let outdated = std::mem::take(&mut group.outdated);
        let failed_before = group.retry.is_some();
        let (state, next, outcome) = match result {
            Ok(state) => {
                group.retry = None;
                (state, (state == MembershipState::Member).then_some(now + self.renew_every), Ok(()))
            }
            Err(error) => {
                let pause = group.retry.get_or_insert_with(|| Backoff::new(RETRY.0, RETRY.1)).pause();
                (MembershipState::Unknown, Some(now + pause), Err(Arc::new(error)))
            }
        };
        let state = if outdated { MembershipState::Unknown } else { state };
        if outdated && outcome.is_ok() {
            // The callers wait for the next change.
            group.waiting.append(&mut waiting);
        }
        group.state = state;
        let failing = group.retry.is_some();
        self.failing = self.failing + usize::from(failing) - usize::from(failed_before);
        self.schedule(&audience, next);
        self.requeue(audience);
        TaskOutcome { subscribed: state == MembershipState::Member, waiting, outcome }
    }

    /// Returns the number of groups whose last change failed.
    pub(crate) fn failing(&self) -> usize {
        self.failing
    }

    /// Returns the audiences of all groups that this process may be a member of.
    pub(crate) fn into_joined(self) -> impl Iterator<Item = Audience> {
        self.known.into_iter().filter(|(_, group)| group.state != MembershipState::Absent).map(|(audience, _)| audience)
    }

    fn queue_of(&mut self, priority: Priority) -> &mut TaskQueue {
        match priority {
            Priority::Requested => &mut self.requested,
            Priority::Maintenance => &mut self.maintenance,
        }
    }

    fn queue(&mut self, audience: Audience, priority: Priority) {
        let group = self.known.entry(audience.clone()).or_default();
        if group.queued >= Some(priority) {
            return;
        }
        group.queued = Some(priority);
        if !group.in_flight {
            self.queue_of(priority).waiting.push_back(audience);
        }
    }

    fn next_of(&mut self, priority: Priority) -> Option<Task> {
        let queue = self.queue_of(priority);
        if queue.in_flight >= queue.limit {
            return None;
        }
        while let Some(audience) = self.queue_of(priority).waiting.pop_front() {
            let Some(group) = self.known.get_mut(&audience) else { continue };
            if group.in_flight || group.queued != Some(priority) {
                continue;
            }
            group.queued = None;
            group.in_flight = true;
            let (renew, waiting) = (std::mem::take(&mut group.renew), std::mem::take(&mut group.waiting));
            let task = Task { state: group.state, renew, priority, waiting, audience };
            self.queue_of(priority).in_flight += 1;
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

    /// Queues the next change of a group that is no longer in flight, or forgets the group.
    fn requeue(&mut self, audience: Audience) {
        match self.known.get(&audience) {
            Some(Group { queued: Some(priority), .. }) => {
                let priority = *priority;
                self.queue_of(priority).waiting.push_back(audience);
            }
            Some(Group { state: MembershipState::Absent, .. }) => drop(self.known.remove(&audience)),
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

    fn failure() -> Result<MembershipState, Error> {
        Err(Error::Closed)
    }

    fn names(groups: &mut Groups) -> Vec<String> {
        std::iter::from_fn(|| groups.next()).map(|task| task.audience.name.to_string()).collect()
    }

    /// Returns groups that this process joined at `now`.
    fn joined(rooms: &[&str], now: Instant) -> Groups {
        let mut groups = Groups::new(EVERY);
        for name in rooms {
            groups.request(room(name), Vec::new());
            let task = groups.next().unwrap();
            assert!(groups.complete(task, Ok(MembershipState::Member), now).subscribed);
        }
        groups
    }

    #[test]
    fn a_group_has_one_change_in_flight_at_a_time() {
        let mut groups = Groups::new(EVERY);
        groups.request(room("a"), Vec::new());
        let first = groups.next().unwrap();
        groups.mark_empty(room("a"));
        groups.request(room("a"), Vec::new());
        assert!(groups.next().is_none());
        groups.complete(first, Ok(MembershipState::Member), Instant::now());
        let second = groups.next().unwrap();
        assert_eq!((second.state, second.renew), (MembershipState::Member, false));
        groups.complete(second, Ok(MembershipState::Absent), Instant::now());
        assert!(groups.next().is_none() && groups.known.is_empty() && groups.due.is_empty());
    }

    #[test]
    fn a_failing_group_does_not_change_the_schedule_of_others() {
        let begun = Instant::now();
        let mut groups = joined(&["a", "b"], begun);
        groups.request(room("c"), Vec::new());
        let task = groups.next().unwrap();
        groups.complete(task, failure(), begun);
        assert_eq!(groups.failing(), 1);
        groups.queue_due(begun + RETRY.0);
        assert_eq!(names(&mut groups), ["c"], "only the failed change is retried");
        groups.queue_due(begun + EVERY);
        assert_eq!(names(&mut groups).len(), 2);
    }

    #[test]
    fn pauses_before_a_retry_grow_and_end_with_success() {
        let mut now = Instant::now();
        let mut groups = joined(&[], now);
        groups.request(room("a"), Vec::new());
        let mut pauses = Vec::new();
        for _ in 0..8 {
            let task = groups.next().unwrap();
            groups.complete(task, failure(), now);
            let due = groups.next_due().unwrap();
            pauses.push(due - now);
            now = due;
            groups.queue_due(now);
        }
        assert!(pauses[0] <= RETRY.0 && pauses[7] >= RETRY.1 / 2 && pauses[7] <= RETRY.1, "{pauses:?}");
        let task = groups.next().unwrap();
        groups.complete(task, Ok(MembershipState::Member), now);
        assert_eq!((groups.failing(), groups.next_due()), (0, Some(now + EVERY)));
    }

    #[test]
    fn requested_changes_do_not_wait_for_maintenance() {
        let now = Instant::now();
        let rooms: Vec<_> = (0..1_000).map(|number| number.to_string()).collect();
        let mut groups = joined(&rooms.iter().map(|name| &**name).collect::<Vec<_>>(), now);
        groups.queue_due(now + EVERY);
        assert_eq!(names(&mut groups).len(), MAX_MAINTENANCE);
        groups.request(room("new"), Vec::new());
        groups.request(room("999"), Vec::new());
        assert_eq!(names(&mut groups), ["new", "999"]);
    }

    #[test]
    fn a_change_in_flight_during_a_loss_is_repeated_before_callers_are_notified() {
        let mut groups = joined(&["a"], Instant::now());
        let (done, _receiver) = oneshot::channel();
        groups.request(room("b"), vec![done]);
        let task = groups.next().unwrap();
        assert_eq!(groups.groups_lost().len(), 2);
        let outcome = groups.complete(task, Ok(MembershipState::Member), Instant::now());
        assert!(!outcome.subscribed && outcome.waiting.is_empty());
        let again: Vec<_> = std::iter::from_fn(|| groups.next()).collect();
        assert!(again.iter().all(|task| task.state == MembershipState::Unknown) && again.len() == 2, "{again:?}");
        assert_eq!(again.iter().map(|task| task.waiting.len()).sum::<usize>(), 1);
    }
}
