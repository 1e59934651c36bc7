//! `History`: the last two minutes of a server, with one sample per second.

use std::collections::VecDeque;

use crate::server::counters::Totals;

/// Number of seconds that are kept.
pub(crate) const SECONDS: usize = 120;
/// Number of seconds that a rate covers.
const RATE_WINDOW: usize = 10;

/// The state of the server at one second.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sample {
    pub(crate) totals: Totals,
    pub(crate) connections: usize,
}

/// The samples of the last two minutes, the oldest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    samples: VecDeque<Sample>,
}

impl History {
    pub(crate) fn add(&mut self, sample: Sample) {
        // One more than the number of seconds, because a rate needs two samples.
        if self.samples.len() > SECONDS {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
    }

    /// Returns the growth of a total per second over the last seconds.
    pub(crate) fn rate(&self, of: impl Fn(&Totals) -> u64) -> f64 {
        let seconds = RATE_WINDOW.min(self.samples.len().saturating_sub(1));
        let (Some(last), Some(first)) = (self.samples.back(), self.samples.iter().rev().nth(seconds)) else {
            return 0.0;
        };
        let grown = of(&last.totals).saturating_sub(of(&first.totals));
        // The numbers are far below the integers that a float represents exactly.
        #[allow(clippy::cast_precision_loss)]
        let rate = grown as f64 / seconds.max(1) as f64;
        rate
    }

    /// Returns the growth of a total in each second, the oldest first.
    pub(crate) fn growth(&self, of: impl Fn(&Totals) -> u64) -> Vec<u64> {
        let totals = self.samples.iter().map(|sample| of(&sample.totals));
        totals.clone().zip(totals.skip(1)).map(|(before, after)| after.saturating_sub(before)).collect()
    }

    /// Returns the number of sockets at each second, the oldest first.
    pub(crate) fn connections(&self) -> Vec<u64> {
        self.samples.iter().map(|sample| sample.connections as u64).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::counters::{Count, Counters};

    #[test]
    fn a_rate_covers_the_last_seconds() {
        let (counters, mut history) = (Counters::default(), History::default());
        let frames = |totals: &Totals| totals.of(Count::FramesIn);
        assert!(history.rate(frames).abs() < f64::EPSILON);
        for second in 0..500 {
            history.add(Sample { totals: counters.totals(), connections: second });
            counters.add(Count::FramesIn, if second < 400 { 1_000 } else { 7 });
        }
        assert!((history.rate(frames) - 7.0).abs() < f64::EPSILON);
        let growth = history.growth(frames);
        assert_eq!((growth.len(), growth[0], growth[SECONDS - 1]), (SECONDS, 1_000, 7));
        assert_eq!(history.connections().last(), Some(&499));
    }
}
