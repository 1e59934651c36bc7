//! Figures over rounds: medians with their spread, and percentiles of times.

use std::time::Duration;

/// The median of some figures, with the lowest and the highest one.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    pub median: f64,
    pub lowest: f64,
    pub highest: f64,
}

impl Spread {
    /// Returns the spread of `figures`, which must not be empty.
    pub fn of(figures: impl IntoIterator<Item = f64>) -> Self {
        let mut figures: Vec<_> = figures.into_iter().collect();
        figures.sort_by(f64::total_cmp);
        let (lowest, highest) = (figures[0], figures[figures.len() - 1]);
        let upper = figures[figures.len() / 2];
        let lower = figures[(figures.len() - 1) / 2];
        Self { median: f64::midpoint(lower, upper), lowest, highest }
    }

    /// Returns the spread of the ratios of `ours` to `theirs`, each of the same round, so that other load on the
    /// machine affects both sides.
    pub fn of_ratios(ours: &[f64], theirs: &[f64]) -> Self {
        Self::of(ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs))
    }
}

/// The sorted times of many calls.
#[derive(Debug)]
pub struct Latencies(Vec<Duration>);

impl Latencies {
    /// Sorts `times`, which must not be empty.
    pub fn of(mut times: Vec<Duration>) -> Self {
        times.sort();
        Self(times)
    }

    /// Returns the time that `part` of the calls, from 0 to 1, did not exceed.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "counts of calls are far below 2^52, and a rank of them is no less than 0"
    )]
    pub fn percentile(&self, part: f64) -> Duration {
        let rank = (self.0.len() as f64 * part).ceil() as usize;
        self.0[rank.clamp(1, self.0.len()) - 1]
    }

    /// Returns the median in microseconds.
    pub fn median_micros(&self) -> f64 {
        self.percentile(0.5).as_secs_f64() * 1e6
    }
}

/// Returns the rate of `count` operations in `time`.
#[expect(clippy::cast_precision_loss, reason = "counts of messages are far below 2^52")]
pub fn per_second(count: usize, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}
