//! `LookupFailures`: since when the members of groups cannot be looked up.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::name::GroupName;

/// After this time without a failed lookup the next failure begins a new outage. Held messages are looked up again far
/// more often.
const FORGET_AFTER: Duration = Duration::from_secs(5);
/// After this time a failed group does not count any more once another lookup has succeeded. Nobody asks for it again:
/// its messages have expired, or their reader has gone.
const ABANDONED_AFTER: Duration = Duration::from_secs(1);

/// Since when the members of groups cannot be looked up, for each slot of a cluster or each server.
///
/// The groups of a slot that is being migrated fail one after the other, as messages to them arrive. Messages of other
/// groups wait behind the first ones only, so all of them count from the first failure in the slot.
#[derive(Debug, Default)]
pub(crate) struct LookupFailures {
    /// By the number of the slot or of the server. Locked only to read or change it.
    failing: Mutex<HashMap<usize, Failing>>,
}

#[derive(Debug)]
struct Failing {
    since: Instant,
    last: Instant,
    /// The groups whose last lookup failed, with its time.
    groups: HashMap<GroupName, Instant>,
}

impl LookupFailures {
    /// Records that a lookup of the members of `group`, which is at `place`, failed. Returns since when lookups there
    /// fail.
    pub(crate) fn failed(&self, place: usize, group: &GroupName) -> Instant {
        let now = Instant::now();
        let mut failing = self.failing.lock();
        let is_current = |failing: &Failing| now.duration_since(failing.last) < FORGET_AFTER;
        if !failing.get(&place).is_some_and(is_current) {
            failing.retain(|_, failing| is_current(failing));
        }
        let failing = failing.entry(place).or_insert_with(|| Failing { since: now, last: now, groups: HashMap::new() });
        failing.last = now;
        match failing.groups.get_mut(group) {
            Some(failed) => *failed = now,
            None => drop(failing.groups.insert(group.clone(), now)),
        }
        failing.since
    }

    /// Records that the server has answered a lookup of the members of `group`.
    pub(crate) fn succeeded(&self, place: usize, group: &GroupName) {
        let mut failing = self.failing.lock();
        if let Some(at_place) = failing.get_mut(&place) {
            let now = Instant::now();
            at_place.groups.retain(|other, failed| other != group && now.duration_since(*failed) < ABANDONED_AFTER);
            if at_place.groups.is_empty() {
                failing.remove(&place);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn all_groups_of_a_slot_count_from_the_first_failure_until_none_fails() {
        let failures = LookupFailures::default();
        let [one, other]: [GroupName; 2] = ["one", "other"].map(|name| name.parse().expect("the name is valid"));
        let begun = failures.failed(7, &one);
        advance(FORGET_AFTER / 2).await;
        assert_eq!((failures.failed(7, &other), failures.failed(7, &one)), (begun, begun));
        assert!(failures.failed(8, &one) > begun, "another slot");
        failures.succeeded(7, &one);
        assert_eq!(failures.failed(7, &other), begun, "a group still fails");
        failures.succeeded(7, &other);
        let again = failures.failed(7, &one);
        assert!(again > begun);
        advance(FORGET_AFTER).await;
        assert!(failures.failed(7, &one) > again, "the last failure is long ago");
    }

    #[tokio::test(start_paused = true)]
    async fn a_group_that_is_not_looked_up_again_is_forgotten_when_another_lookup_succeeds() {
        let failures = LookupFailures::default();
        let [one, other]: [GroupName; 2] = ["one", "other"].map(|name| name.parse().expect("the name is valid"));
        let begun = failures.failed(7, &one);
        advance(ABANDONED_AFTER).await;
        failures.succeeded(7, &other);
        assert!(failures.failed(7, &other) > begun);
    }
}
