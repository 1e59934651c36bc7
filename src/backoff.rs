//! `Backoff`: exponential pauses with jitter between attempts.

use std::time::Duration;

use rand::Rng;

/// The longest pause while a server is unreachable.
pub(crate) const LONGEST_OUTAGE_PAUSE: Duration = Duration::from_secs(10);

/// Pauses that double from a first one up to a longest one. Each is shortened at random by up to half, so that clients
/// that failed together do not retry together.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
    longest: Duration,
}

impl Backoff {
    pub(crate) fn new(first: Duration, longest: Duration) -> Self {
        Self { next: first, longest }
    }

    /// For an unreachable server: 250 ms to 10 s.
    pub(crate) fn outage() -> Self {
        Self::new(Duration::from_millis(250), LONGEST_OUTAGE_PAUSE)
    }

    /// For a full channel: 5 ms to 500 ms.
    pub(crate) fn full_channel() -> Self {
        Self::new(Duration::from_millis(5), Duration::from_millis(500))
    }

    /// Returns the next pause.
    pub(crate) fn pause(&mut self) -> Duration {
        let pause = self.next.mul_f64(rand::rng().random_range(0.5..=1.0));
        self.next = (self.next * 2).min(self.longest);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_keep_half_of_it() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(400));
        for longest in [100, 200, 400, 400] {
            let pause = backoff.pause();
            assert!(
                pause >= Duration::from_millis(longest / 2) && pause <= Duration::from_millis(longest),
                "{pause:?}"
            );
        }
    }
}
