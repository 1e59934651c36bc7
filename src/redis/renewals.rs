//! Which channels have had their times to live set lately, so that it need not be done for each message.

use std::collections::HashSet;
use std::time::{Duration, Instant};

/// How long a time to live that has been set will do.
const EVERY: Duration = Duration::from_secs(15);

/// By how much a list outlives its last message at most: more than what it may lack of its time to live, which is
/// [`EVERY`] and what a script allows a call to be late.
pub(super) const SLACK: Duration = Duration::from_secs(30);

/// The channels of one lane.
#[derive(Debug)]
pub(super) struct Renewals {
    since: Instant,
    /// By the non-local parts of their names.
    done: HashSet<Box<str>>,
}

impl Renewals {
    pub(super) fn new() -> Self {
        Self { since: Instant::now(), done: HashSet::new() }
    }

    /// Begins a batch: what was done too long ago is forgotten.
    pub(super) fn begin(&mut self, now: Instant) {
        if now.saturating_duration_since(self.since) >= EVERY {
            self.forget();
            self.since = now;
        }
    }

    /// Whether it is to be done for a channel now; from here on it counts as done.
    pub(super) fn is_due(&mut self, channel: &str) -> bool {
        !self.done.contains(channel) && self.done.insert(channel.into())
    }

    /// Takes nothing for done: a call may not have run.
    pub(super) fn forget(&mut self) {
        self.done.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_channel_is_due_once_in_a_while() {
        let mut renewals = Renewals::new();
        let start = renewals.since;
        let mut due_at = |seconds, channel: &str| {
            renewals.begin(start + Duration::from_secs(seconds));
            renewals.is_due(channel)
        };
        let asked = [(0, "a"), (0, "b"), (14, "a"), (15, "a"), (15, "b"), (29, "a"), (30, "b"), (30, "c")];
        let due: Vec<_> = asked.into_iter().map(|(seconds, channel)| due_at(seconds, channel)).collect();
        assert_eq!(due, [true, true, false, true, true, false, true, true]);
    }

    #[test]
    fn after_a_failure_all_are_due() {
        let mut renewals = Renewals::new();
        assert!(renewals.is_due("a") && !renewals.is_due("a"));
        renewals.forget();
        assert!(renewals.is_due("a"));
    }

    #[test]
    fn a_list_lives_on_between_two_renewals() {
        assert!(SLACK > EVERY + Duration::from_secs(1));
    }
}
