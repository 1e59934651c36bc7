//! The last two minutes, second by second.

use std::collections::VecDeque;

use crate::server::status::counters::Totals;

/// How many seconds are kept.
pub(crate) const SECONDS: usize = 120;
/// Over how many of the last seconds a rate is taken.
const RATE_OVER: usize = 10;

/// What the server looked like at one second.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sample {
    pub(crate) totals: Totals,
    pub(crate) connections: usize,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    samples: VecDeque<Sample>,
}

impl History {
    pub(crate) fn add(&mut self, sample: Sample) {
        // One more than seconds: a rate needs two.
        if self.samples.len() > SECONDS {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
    }

    /// How much a total grew per second lately.
    pub(crate) fn rate(&self, of: impl Fn(&Totals) -> u64) -> f64 {
        let span = RATE_OVER.min(self.samples.len().saturating_sub(1));
        let (Some(last), Some(first)) = (self.samples.back(), self.samples.iter().rev().nth(span)) else { return 0.0 };
        let grown = of(&last.totals).saturating_sub(of(&first.totals));
        // Far below what a float holds exactly.
        #[allow(clippy::cast_precision_loss)]
        let rate = grown as f64 / span.max(1) as f64;
        rate
    }

    /// By how much a total grew in each second, the oldest first.
    pub(crate) fn growth(&self, of: impl Fn(&Totals) -> u64) -> Vec<u64> {
        let totals = self.samples.iter().map(|sample| of(&sample.totals));
        totals.clone().zip(totals.skip(1)).map(|(before, after)| after.saturating_sub(before)).collect()
    }

    /// The sockets at each second, the oldest first.
    pub(crate) fn connections(&self) -> Vec<u64> {
        self.samples.iter().map(|sample| sample.connections as u64).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::status::counters::{Count, Tally};

    #[test]
    fn a_rate_is_that_of_the_last_seconds() {
        let (tally, mut history) = (Tally::default(), History::default());
        let frames = |totals: &Totals| totals.of(Count::FramesIn);
        assert!(history.rate(frames).abs() < f64::EPSILON);
        for second in 0..500 {
            history.add(Sample { totals: tally.totals(), connections: second });
            tally.add(Count::FramesIn, if second < 400 { 1_000 } else { 7 });
        }
        assert!((history.rate(frames) - 7.0).abs() < f64::EPSILON);
        let growth = history.growth(frames);
        assert_eq!((growth.len(), growth[0], growth[SECONDS - 1]), (SECONDS, 1_000, 7));
        assert_eq!(history.connections().last(), Some(&499));
    }
}
