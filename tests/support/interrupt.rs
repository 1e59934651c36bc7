//! Futures that are dropped at varying moments, reproducible from a seed.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::timeout;

/// Polls `future` at most `polls` times and for at most `patience`. Returns its output if it completes, and drops it
/// otherwise.
pub async fn interrupted<F: Future>(polls: usize, patience: Duration, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = polls;
    let polled = poll_fn(|cx| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    });
    timeout(patience, polled).await.ok().flatten()
}

/// A sequence of moments at which to drop futures: after a few polls, after a short while, or never.
pub struct Moments(StdRng);

impl Moments {
    /// Creates the sequence of `seed`.
    pub fn new(seed: u64) -> Self {
        Self(StdRng::seed_from_u64(seed))
    }

    /// Runs `future` up to the next moment.
    pub async fn cut<F: Future>(&mut self, future: F) -> Option<F::Output> {
        match self.0.random_range(0..10) {
            0..=4 => interrupted(self.0.random_range(1..5), Duration::from_millis(50), future).await,
            5..=8 => interrupted(usize::MAX, Duration::from_micros(self.0.random_range(0..4000)), future).await,
            _ => interrupted(usize::MAX, Duration::from_millis(50), future).await,
        }
    }
}
