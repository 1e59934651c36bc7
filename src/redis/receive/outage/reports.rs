//! `Reports`: when an outage is reported to consumers.

use std::time::Duration;

use tokio::time::Instant;

use crate::backoff::LONGEST_OUTAGE_PAUSE;

/// The times at which the consumers of one reader get an error because of an outage: when it begins, and again after
/// pauses that double while it lasts.
///
/// Two reports are always a pause apart, even if the server returns and is lost again in between. A caller that loops
/// without a pause of its own then waits for the server instead of spinning.
pub(crate) struct Reports {
    first_pause: Duration,
    /// The pause after the last report.
    pause: Duration,
    /// The earliest time of the next report.
    next: Option<Instant>,
    /// Whether the present outage has been reported.
    reported: bool,
}

impl Reports {
    pub(crate) fn new(first_pause: Duration) -> Self {
        Self { first_pause, pause: first_pause, next: None, reported: false }
    }

    /// When the present outage is to be reported; `None` if it has been. With `again`, it is reported repeatedly.
    pub(crate) fn due(&self, again: bool) -> Option<Instant> {
        (again || !self.reported).then(|| self.next.unwrap_or_else(Instant::now))
    }

    /// Records that the outage is reported now.
    pub(crate) fn reported(&mut self) {
        let now = Instant::now();
        // A report long after its earliest time starts again with the first pause.
        let continues = self.next.is_some_and(|next| now <= next + self.pause);
        self.pause = if continues { self.pause * 2 } else { self.first_pause };
        self.pause = self.pause.min(LONGEST_OUTAGE_PAUSE.max(self.first_pause));
        self.next = Some(now + self.pause);
        self.reported = true;
    }

    /// Records that consumers have begun to wait. If the outage has been reported, they wait for at least one pause.
    pub(crate) fn waiting_begins(&mut self) {
        if self.reported {
            self.next = self.next.max(Some(Instant::now() + self.first_pause));
        }
    }

    /// Records that messages can reach consumers again.
    pub(crate) fn outage_ended(&mut self) {
        self.reported = false;
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, sleep_until};

    use super::*;

    const FIRST: Duration = Duration::from_millis(250);

    #[tokio::test(start_paused = true)]
    async fn a_lasting_outage_is_reported_after_doubling_pauses() {
        let (mut reports, start) = (Reports::new(FIRST), Instant::now());
        let mut times = Vec::new();
        for _ in 0..9 {
            sleep_until(reports.due(true).unwrap()).await;
            reports.reported();
            times.push(start.elapsed().as_millis());
        }
        assert_eq!(times, [0, 250, 750, 1750, 3750, 7750, 15_750, 25_750, 35_750]);
        assert_eq!(reports.due(false), None, "a reported outage is not reported again");
    }

    #[tokio::test(start_paused = true)]
    async fn consecutive_outages_are_reported_a_pause_apart() {
        let (mut reports, start) = (Reports::new(FIRST), Instant::now());
        for _ in 0..3 {
            sleep_until(reports.due(false).unwrap()).await;
            reports.reported();
            reports.outage_ended();
        }
        assert_eq!(start.elapsed(), FIRST * 3);
        advance(FIRST * 20).await;
        assert!(reports.due(false).unwrap() <= Instant::now(), "an outage long after the last one is reported at once");
        reports.reported();
        assert_eq!(reports.due(true), Some(Instant::now() + FIRST));
    }

    #[tokio::test(start_paused = true)]
    async fn consumers_that_begin_to_wait_during_an_outage_wait_for_a_pause() {
        let mut reports = Reports::new(FIRST);
        reports.waiting_begins();
        assert!(reports.due(true).unwrap() <= Instant::now());
        reports.reported();
        advance(FIRST * 20).await;
        reports.waiting_begins();
        assert_eq!(reports.due(true), Some(Instant::now() + FIRST));
    }
}
