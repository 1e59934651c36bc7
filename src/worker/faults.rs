//! `Faults`: counts the failures of handlers, and logs them at a limited rate.

use std::collections::HashMap;
use std::error::Error;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::name::ChannelName;
use crate::supervise::update_metric;

/// How long further failures of the same kind on the same channel are only counted after one was logged.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// The failures and the running handlers of one worker.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// By kind and channel. Locked for a look-up, never across an await.
    logged: Mutex<HashMap<(&'static str, String), Logged>>,
    running: AtomicUsize,
}

/// Counts a running handler until it is dropped. A drop without [`end`](Self::end) counts the handler as stopped.
#[derive(Debug)]
pub(crate) struct Running<'a> {
    faults: &'a Faults,
    ended: bool,
}

impl Running<'_> {
    pub(crate) fn end(mut self) {
        self.ended = true;
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.faults.running.fetch_sub(1, Ordering::Relaxed);
        if !self.ended {
            count("stopped");
        }
    }
}

#[derive(Debug)]
struct Logged {
    /// Time of the last logged failure.
    at: Instant,
    /// Number of failures since `at`, which were only counted.
    unlogged: u64,
}

impl Faults {
    pub(crate) fn failed(&self, channel: &ChannelName, error: &(dyn Error + 'static)) {
        if let Some(unlogged) = self.count("error", channel) {
            tracing::warn!(%channel, error, unlogged, "a handler failed");
        }
    }

    pub(crate) fn panicked(&self, channel: &ChannelName) {
        if let Some(unlogged) = self.count("panic", channel) {
            tracing::error!(%channel, unlogged, "a handler panicked");
        }
    }

    /// Starts a handler. It counts as stopped unless [`Running::end`] is called.
    pub(crate) fn begin(&self) -> Running<'_> {
        self.running.fetch_add(1, Ordering::Relaxed);
        Running { faults: self, ended: false }
    }

    /// Returns the number of running handlers.
    pub(crate) fn running(&self) -> usize {
        self.running.load(Ordering::Relaxed)
    }

    /// Counts a failure. Returns the number of unlogged failures before it, or `None` if this one must not be logged.
    fn count(&self, kind: &'static str, channel: &ChannelName) -> Option<u64> {
        count(kind);
        let now = Instant::now();
        let mut logged = self.logged.lock();
        let entry = logged.entry((kind, channel.non_local().to_owned()));
        let mut first = false;
        let last = entry.or_insert_with(|| {
            first = true;
            Logged { at: now, unlogged: 0 }
        });
        if !first && now - last.at < LOG_INTERVAL {
            last.unlogged += 1;
            return None;
        }
        last.at = now;
        Some(std::mem::take(&mut last.unlogged))
    }
}

fn count(kind: &'static str) {
    update_metric(|| metrics::counter!("channel_layer_worker_failures_total", "kind" => kind).increment(1));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn repeated_failures_are_logged_at_a_limited_rate() {
        let faults = Faults::default();
        let (one, other) = ("one".parse().unwrap(), "other".parse().unwrap());
        assert_eq!(faults.count("error", &one), Some(0));
        assert_eq!([faults.count("error", &one), faults.count("error", &one)], [None, None]);
        assert_eq!([faults.count("error", &other), faults.count("panic", &one)], [Some(0), Some(0)]);
        tokio::time::advance(LOG_INTERVAL).await;
        assert_eq!(faults.count("error", &one), Some(2));
        assert_eq!(faults.count("error", &one), None);
    }
}
