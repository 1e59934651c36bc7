//! `Hysteresis`: how long a lost server must answer before it is used again.

use std::time::Duration;

use tokio::time::Instant;

/// A shorter outage counts as a broken connection, and not as a server that was down.
const BRIEF: Duration = Duration::from_secs(1);

/// The times at which a server was lost and returned. They distinguish a broken connection from an outage and from a
/// server that fails again and again.
#[derive(Debug)]
pub(crate) struct Hysteresis {
    return_after: Duration,
    /// Whether messages go to the server.
    used: bool,
    /// When the server was used again after it had been lost.
    returned: Option<Instant>,
    /// A server that returns before this time is used at once.
    trusted_until: Option<Instant>,
}

impl Hysteresis {
    /// Starts with a server that has not been used yet.
    pub(crate) fn new(return_after: Duration) -> Self {
        Self { return_after, used: false, returned: None, trusted_until: None }
    }

    /// Records that messages go to the server from now on.
    pub(crate) fn mark_used(&mut self) {
        self.used = true;
        self.returned = self.trusted_until.map(|_| Instant::now());
    }

    /// Records that messages no longer go to the server. A server that is lost soon after its return must answer for
    /// the whole time. Otherwise a server that fails every few seconds would be used between its failures.
    pub(crate) fn mark_lost(&mut self) {
        if !std::mem::take(&mut self.used) {
            return;
        }
        let now = Instant::now();
        let stable = self.returned.is_none_or(|returned| now - returned >= self.return_after);
        self.trusted_until = Some(if stable { now + BRIEF } else { now });
    }

    /// Returns how long a server that has answered since `back` must answer before it is used.
    pub(crate) fn required(&self, back: Instant) -> Duration {
        if self.trusted_until.is_some_and(|until| back < until) { Duration::ZERO } else { self.return_after }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const RETURN_AFTER: Duration = Duration::from_secs(2);
    const MOMENT: Duration = Duration::from_millis(1);

    /// Returns the required time for a server that returns `away` after it was lost.
    async fn required(hysteresis: &mut Hysteresis, away: Duration) -> Duration {
        hysteresis.mark_lost();
        advance(away).await;
        // Later failed attempts report the same outage again.
        hysteresis.mark_lost();
        hysteresis.required(Instant::now())
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_must_answer_for_the_whole_time_only_after_an_outage() {
        for (away, expected) in
            [(Duration::ZERO, Duration::ZERO), (BRIEF.saturating_sub(MOMENT), Duration::ZERO), (BRIEF, RETURN_AFTER)]
        {
            let mut hysteresis = Hysteresis::new(RETURN_AFTER);
            hysteresis.mark_used();
            assert_eq!(required(&mut hysteresis, away).await, expected, "away for {away:?}");
        }
        assert_eq!(Hysteresis::new(RETURN_AFTER).required(Instant::now()), RETURN_AFTER);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_fails_repeatedly_must_answer_for_the_whole_time_after_short_outages() {
        let mut hysteresis = Hysteresis::new(RETURN_AFTER);
        for (used, expected) in [
            (MOMENT, Duration::ZERO),
            (RETURN_AFTER.saturating_sub(MOMENT), RETURN_AFTER),
            (RETURN_AFTER, Duration::ZERO),
        ] {
            hysteresis.mark_used();
            advance(used).await;
            assert_eq!(required(&mut hysteresis, Duration::ZERO).await, expected, "used for {used:?}");
        }
    }
}
