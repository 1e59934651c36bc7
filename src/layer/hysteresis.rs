//! `Hysteresis`: how long a lost server has to answer before it is used again.

use std::time::Duration;

use tokio::time::Instant;

/// A server that is reachable again within this time was not down: only a connection to it broke.
const BRIEF: Duration = Duration::from_secs(1);

/// Times at which a server was lost and returned. They tell a broken connection from an outage and from a server that
/// keeps failing.
#[derive(Debug)]
pub(crate) struct Hysteresis {
    return_after: Duration,
    /// Whether messages go to the server.
    used: bool,
    /// When the server was used again after it had been lost.
    returned: Option<Instant>,
    /// Until when a server that returns is used at once.
    forgiven_until: Option<Instant>,
}

impl Hysteresis {
    /// Starts with a server that has not been used yet.
    pub(crate) fn new(return_after: Duration) -> Self {
        Self { return_after, used: false, returned: None, forgiven_until: None }
    }

    /// Records that messages go to the server from now on.
    pub(crate) fn arrived(&mut self) {
        self.used = true;
        self.returned = self.forgiven_until.map(|_| Instant::now());
    }

    /// Records that messages no longer go to the server. A server that is lost soon after its return has to answer for
    /// the whole time. Otherwise a server that fails every few seconds would be used in between.
    pub(crate) fn departed(&mut self) {
        if !std::mem::take(&mut self.used) {
            return;
        }
        let now = Instant::now();
        let steady = self.returned.is_none_or(|returned| now - returned >= self.return_after);
        self.forgiven_until = Some(if steady { now + BRIEF } else { now });
    }

    /// Returns how long a server that has answered since `back` has to answer before it is used.
    pub(crate) fn required(&self, back: Instant) -> Duration {
        if self.forgiven_until.is_some_and(|until| back < until) { Duration::ZERO } else { self.return_after }
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
        hysteresis.departed();
        advance(away).await;
        // Later failed attempts report the same outage again.
        hysteresis.departed();
        hysteresis.required(Instant::now())
    }

    #[tokio::test(start_paused = true)]
    async fn only_an_outage_makes_a_server_prove_itself() {
        for (away, expected) in
            [(Duration::ZERO, Duration::ZERO), (BRIEF.saturating_sub(MOMENT), Duration::ZERO), (BRIEF, RETURN_AFTER)]
        {
            let mut hysteresis = Hysteresis::new(RETURN_AFTER);
            hysteresis.arrived();
            assert_eq!(required(&mut hysteresis, away).await, expected, "away for {away:?}");
        }
        assert_eq!(Hysteresis::new(RETURN_AFTER).required(Instant::now()), RETURN_AFTER);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_comes_and_goes_has_to_prove_itself_however_short_it_is_away() {
        let mut hysteresis = Hysteresis::new(RETURN_AFTER);
        for (used, expected) in [
            (MOMENT, Duration::ZERO),
            (RETURN_AFTER.saturating_sub(MOMENT), RETURN_AFTER),
            (RETURN_AFTER, Duration::ZERO),
        ] {
            hysteresis.arrived();
            advance(used).await;
            assert_eq!(required(&mut hysteresis, Duration::ZERO).await, expected, "used for {used:?}");
        }
    }
}
