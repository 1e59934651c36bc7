//! Handlers that fail: counted each, and logged without flooding.

use std::collections::HashMap;
use std::error::Error;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::name::ChannelName;

/// How long further faults of one kind on one channel are only counted.
const SILENCE: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// By kind and channel; held for a look-up, never across an await.
    logged: Mutex<HashMap<(&'static str, String), Logged>>,
    running: AtomicUsize,
}

/// A handler at work.
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
            metrics::counter!("channel_layer_worker_failures_total", "kind" => "stopped").increment(1);
        }
    }
}

#[derive(Debug)]
struct Logged {
    at: Instant,
    /// How many came since then.
    unsaid: u64,
}

impl Faults {
    pub(crate) fn failed(&self, channel: &ChannelName, error: &(dyn Error + 'static)) {
        if let Some(unsaid) = self.count("error", channel) {
            tracing::warn!(%channel, error, unsaid, "a handler failed");
        }
    }

    pub(crate) fn panicked(&self, channel: &ChannelName) {
        if let Some(unsaid) = self.count("panic", channel) {
            tracing::error!(%channel, unsaid, "a handler panicked");
        }
    }

    /// A handler begins; it counts as stopped unless it ends.
    pub(crate) fn begin(&self) -> Running<'_> {
        self.running.fetch_add(1, Ordering::Relaxed);
        Running { faults: self, ended: false }
    }

    /// How many handlers are at work.
    pub(crate) fn running(&self) -> usize {
        self.running.load(Ordering::Relaxed)
    }

    /// How many faults were not logged before this one, if this one is to be.
    fn count(&self, kind: &'static str, channel: &ChannelName) -> Option<u64> {
        metrics::counter!("channel_layer_worker_failures_total", "kind" => kind).increment(1);
        let now = Instant::now();
        let mut logged = self.logged.lock();
        let entry = logged.entry((kind, channel.non_local().to_owned()));
        let mut first = false;
        let last = entry.or_insert_with(|| {
            first = true;
            Logged { at: now, unsaid: 0 }
        });
        if !first && now - last.at < SILENCE {
            last.unsaid += 1;
            return None;
        }
        last.at = now;
        Some(std::mem::take(&mut last.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_fault_that_repeats_is_logged_now_and_then() {
        let faults = Faults::default();
        let (one, other) = ("one".parse().unwrap(), "other".parse().unwrap());
        assert_eq!(faults.count("error", &one), Some(0));
        assert_eq!([faults.count("error", &one), faults.count("error", &one)], [None, None]);
        assert_eq!([faults.count("error", &other), faults.count("panic", &one)], [Some(0), Some(0)]);
        tokio::time::advance(SILENCE).await;
        assert_eq!(faults.count("error", &one), Some(2));
        assert_eq!(faults.count("error", &one), None);
    }
}
