//! When callers are told of an outage.

use std::time::Duration;

use tokio::time::Instant;

use crate::backoff::LONGEST_OUTAGE_PAUSE;

/// The times at which the callers of one reader are told of an outage: when it begins, and again after pauses that double
/// while it lasts. No two reports come within a pause, even if the server returns and is lost again in between: a caller
/// that loops without a pause of its own then waits for the server instead of spinning.
pub(crate) struct Reports {
    first_pause: Duration,
    /// The pause behind the last report.
    pause: Duration,
    /// No report is made before this time.
    next: Option<Instant>,
    /// Whether the present outage has been reported.
    told: bool,
}

impl Reports {
    pub(crate) fn new(first_pause: Duration) -> Self {
        Self { first_pause, pause: first_pause, next: None, told: false }
    }

    /// When the present outage is to be reported; `None` if it has been, unless it is reported again.
    pub(crate) fn due(&self, again: bool) -> Option<Instant> {
        (again || !self.told).then(|| self.next.unwrap_or_else(Instant::now))
    }

    /// Notes that the outage is reported now.
    pub(crate) fn made(&mut self) {
        let now = Instant::now();
        // A report long after it could have been made begins a new series.
        let continues = self.next.is_some_and(|next| now <= next + self.pause);
        self.pause = if continues { self.pause * 2 } else { self.first_pause };
        self.pause = self.pause.min(LONGEST_OUTAGE_PAUSE.max(self.first_pause));
        self.next = Some(now + self.pause);
        self.told = true;
    }

    /// Notes that callers have just begun to wait: in an outage that has been reported they wait at least one pause.
    pub(crate) fn waiting_begins(&mut self) {
        if self.told {
            self.next = self.next.max(Some(Instant::now() + self.first_pause));
        }
    }

    /// Notes that nothing keeps messages from callers any more.
    pub(crate) fn outage_ended(&mut self) {
        self.told = false;
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, sleep_until};

    use super::*;

    const FIRST: Duration = Duration::from_millis(250);

    #[tokio::test(start_paused = true)]
    async fn an_outage_that_lasts_is_reported_after_pauses_that_double() {
        let (mut reports, start) = (Reports::new(FIRST), Instant::now());
        let mut times = Vec::new();
        for _ in 0..9 {
            sleep_until(reports.due(true).unwrap()).await;
            reports.made();
            times.push(start.elapsed().as_millis());
        }
        assert_eq!(times, [0, 250, 750, 1750, 3750, 7750, 15_750, 25_750, 35_750]);
        assert_eq!(reports.due(false), None, "who was told is not told again");
    }

    #[tokio::test(start_paused = true)]
    async fn outages_that_follow_each_other_are_reported_a_pause_apart() {
        let (mut reports, start) = (Reports::new(FIRST), Instant::now());
        for _ in 0..3 {
            sleep_until(reports.due(false).unwrap()).await;
            reports.made();
            reports.outage_ended();
        }
        assert_eq!(start.elapsed(), FIRST * 3);
        advance(FIRST * 20).await;
        assert!(reports.due(false).unwrap() <= Instant::now(), "an outage long after the last one is told at once");
        reports.made();
        assert_eq!(reports.due(true), Some(Instant::now() + FIRST));
    }

    #[tokio::test(start_paused = true)]
    async fn callers_that_come_later_wait_a_pause() {
        let mut reports = Reports::new(FIRST);
        reports.waiting_begins();
        assert!(reports.due(true).unwrap() <= Instant::now());
        reports.made();
        advance(FIRST * 20).await;
        reports.waiting_begins();
        assert_eq!(reports.due(true), Some(Instant::now() + FIRST));
    }
}
