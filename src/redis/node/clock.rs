//! `Clock`: an estimate of a server's clock, so that expiry does not depend on the local clock.

use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;

/// Estimates the clock of one server from its answers to `TIME`.
///
/// Between two readings the estimate advances by the local monotonic clock, so that a change of the local time of day
/// has no effect.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    /// Held only to copy or replace the reading.
    reading: Mutex<Option<Reading>>,
}

#[derive(Clone, Copy, Debug)]
struct Reading {
    /// The local time at which the server had `time`.
    at: Instant,
    /// The server's time since the epoch.
    time: Duration,
    /// The duration of the round trip. The reading is wrong by half of it at most.
    took: Duration,
}

/// A reading of this age is replaced by any newer one: drift and steps of the server's clock outweigh a slow answer.
const WORN_OUT: Duration = Duration::from_secs(10);

impl Clock {
    /// Records that the server answered `time` now to a command that was sent at `asked`.
    pub(crate) fn observe(&self, asked: Instant, time: Duration) {
        self.observe_at(asked, Instant::now(), time);
    }

    fn observe_at(&self, asked: Instant, answered: Instant, time: Duration) {
        let took = answered.duration_since(asked);
        let new = Reading { at: asked + took / 2, time, took };
        let mut reading = self.reading.lock();
        let keep = reading.is_some_and(|old| {
            let aged = new.at.saturating_duration_since(old.at);
            let agrees = (old.time + aged).abs_diff(new.time) <= old.took + took;
            agrees && aged < WORN_OUT && old.took < took
        });
        if !keep {
            *reading = Some(new);
        }
    }

    /// The server's time in ms since the epoch. `None` before the first answer.
    pub(crate) fn now_ms(&self) -> Option<u64> {
        let reading = (*self.reading.lock())?;
        let now = reading.time + reading.at.elapsed();
        Some(milliseconds(now))
    }

    /// How many seconds the server's clock is ahead of the clock of this machine. `None` before the first answer.
    pub(crate) fn offset_seconds(&self) -> Option<f64> {
        let local = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Some(Duration::from_millis(self.now_ms()?).as_secs_f64() - local.as_secs_f64())
    }
}

/// A time in the form in which Redis takes it.
pub(crate) fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn error_after(readings: &[(Duration, Duration)]) -> Duration {
        // The server's clock is 1000 s ahead of `start`; each reading is (delay before the server looks, after it).
        let (clock, start) = (Clock::default(), Instant::now());
        let mut now = start;
        for (there, back) in readings {
            let time = 1000 * SECOND + (now + *there - start);
            clock.observe_at(now, now + *there + *back, time);
            now += *there + *back;
        }
        let reading = clock.reading.lock().unwrap();
        reading.time.abs_diff(1000 * SECOND + (reading.at - start))
    }

    #[test]
    fn a_slow_answer_does_not_replace_a_quick_one() {
        let quick = (Duration::from_millis(1), Duration::from_millis(1));
        assert_eq!(error_after(&[quick, (SECOND, Duration::ZERO)]), Duration::ZERO);
        assert_eq!(error_after(&[(SECOND, Duration::ZERO)]), SECOND / 2);
    }

    #[test]
    fn a_step_of_the_servers_clock_is_followed_at_once() {
        let (clock, start) = (Clock::default(), Instant::now());
        clock.observe_at(start, start, 1000 * SECOND);
        clock.observe_at(start, start + SECOND / 10, 900 * SECOND);
        assert_eq!(clock.reading.lock().unwrap().time, 900 * SECOND);
    }

    #[test]
    fn there_is_no_time_before_the_first_answer() {
        assert_eq!(Clock::default().now_ms(), None);
    }
}
