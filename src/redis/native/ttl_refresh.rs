//! `TtlRefresh`: the channels whose counters had their time to live set lately, so that not every send sets it.

use std::collections::HashSet;
use std::time::{Duration, Instant};

/// How often the time to live of a channel's counters is set while messages are sent.
const EVERY: Duration = Duration::from_secs(15);

/// How much longer than its last message a list lives, so that a reader that comes soon counts the expired messages. The
/// counters of a `?` channel live as long, which is more than [`EVERY`].
pub(crate) const SLACK: Duration = Duration::from_secs(30);

/// The channels of one shard.
#[derive(Debug)]
pub(crate) struct TtlRefresh {
    since: Instant,
    /// By the non-local parts of their names.
    done: HashSet<Box<str>>,
}

impl TtlRefresh {
    pub(crate) fn new() -> Self {
        Self { since: Instant::now(), done: HashSet::new() }
    }

    /// For each of `channels`, whether a call that begins `now` has to set the time to live.
    pub(crate) fn due<'c>(&mut self, now: Instant, channels: impl Iterator<Item = &'c str>) -> Vec<bool> {
        if now.saturating_duration_since(self.since) >= EVERY {
            self.done.clear();
            self.since = now;
        }
        channels.map(|channel| !self.done.contains(channel)).collect()
    }

    /// Records that a call which began at `begun` has set it for `channels`.
    pub(crate) fn done<'c>(&mut self, begun: Instant, channels: impl Iterator<Item = &'c str>) {
        if begun >= self.since {
            self.done.extend(channels.map(Box::from));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_due(refresh: &mut TtlRefresh, now: Instant, channel: &str) -> bool {
        refresh.due(now, [channel].into_iter()) == [true]
    }

    #[test]
    fn each_channel_is_due_once_per_interval() {
        let mut refresh = TtlRefresh::new();
        let start = refresh.since;
        let mut is_due_at = |seconds, channel| {
            let now = start + Duration::from_secs(seconds);
            let is_due = is_due(&mut refresh, now, channel);
            refresh.done(now, is_due.then_some(channel).into_iter());
            is_due
        };
        let asked = [(0, "a"), (0, "b"), (14, "a"), (15, "a"), (15, "b"), (29, "a"), (30, "b"), (30, "c")];
        let due: Vec<_> = asked.into_iter().map(|(seconds, channel)| is_due_at(seconds, channel)).collect();
        assert_eq!(due, [true, true, false, true, true, false, true, true]);
    }

    #[test]
    fn a_channel_that_no_call_has_refreshed_is_due_again() {
        let mut refresh = TtlRefresh::new();
        let start = refresh.since;
        assert!(is_due(&mut refresh, start, "a"));
        assert!(is_due(&mut refresh, start, "a"));
    }

    #[test]
    fn a_call_that_began_in_an_earlier_interval_does_not_count() {
        let mut refresh = TtlRefresh::new();
        let start = refresh.since;
        let later = start + EVERY;
        assert!(is_due(&mut refresh, start, "a") && is_due(&mut refresh, later, "b"));
        refresh.done(start, ["a"].into_iter());
        assert!(is_due(&mut refresh, later, "a"));
    }

    #[test]
    fn counters_outlive_the_interval() {
        assert!(SLACK > EVERY + Duration::from_secs(1));
    }
}
