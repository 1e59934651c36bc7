//! Which channels have had the times to live of their counters set lately, so that it need not be done for each message.

use std::collections::HashSet;
use std::time::{Duration, Instant};

/// How long a time to live that has been set will do.
const EVERY: Duration = Duration::from_secs(15);

/// By how much a list outlives its last message, so that a reader that comes soon counts what has expired. The counters
/// of a `?` channel live as long: more than [`EVERY`], for which they are not renewed.
pub(super) const SLACK: Duration = Duration::from_secs(30);

/// The channels of one lane, or of what is sent beside lanes.
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

    /// For each of `channels`, whether it is to be done by a call that begins `now`.
    pub(super) fn due<'c>(&mut self, now: Instant, channels: impl Iterator<Item = &'c str>) -> Vec<bool> {
        if now.saturating_duration_since(self.since) >= EVERY {
            self.done.clear();
            self.since = now;
        }
        channels.map(|channel| !self.done.contains(channel)).collect()
    }

    /// Notes that a call which began at `begun` has done it for `channels`.
    pub(super) fn done<'c>(&mut self, begun: Instant, channels: impl Iterator<Item = &'c str>) {
        if begun >= self.since {
            self.done.extend(channels.map(Box::from));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_due(renewals: &mut Renewals, now: Instant, channel: &str) -> bool {
        renewals.due(now, [channel].into_iter()) == [true]
    }

    #[test]
    fn each_channel_is_due_once_in_a_while() {
        let mut renewals = Renewals::new();
        let start = renewals.since;
        let mut is_due_at = |seconds, channel| {
            let now = start + Duration::from_secs(seconds);
            let is_due = is_due(&mut renewals, now, channel);
            renewals.done(now, is_due.then_some(channel).into_iter());
            is_due
        };
        let asked = [(0, "a"), (0, "b"), (14, "a"), (15, "a"), (15, "b"), (29, "a"), (30, "b"), (30, "c")];
        let due: Vec<_> = asked.into_iter().map(|(seconds, channel)| is_due_at(seconds, channel)).collect();
        assert_eq!(due, [true, true, false, true, true, false, true, true]);
    }

    #[test]
    fn what_no_call_has_done_is_due_again() {
        let mut renewals = Renewals::new();
        let start = renewals.since;
        assert!(is_due(&mut renewals, start, "a"));
        assert!(is_due(&mut renewals, start, "a"));
    }

    #[test]
    fn a_call_that_began_too_long_ago_does_not_count() {
        let mut renewals = Renewals::new();
        let start = renewals.since;
        let later = start + EVERY;
        assert!(is_due(&mut renewals, start, "a") && is_due(&mut renewals, later, "b"));
        renewals.done(start, ["a"].into_iter());
        assert!(is_due(&mut renewals, later, "a"));
    }

    #[test]
    fn counters_live_on_between_two_renewals() {
        assert!(SLACK > EVERY + Duration::from_secs(1));
    }
}
