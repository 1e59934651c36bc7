//! `Arrivals`: the deliveries so far.

use std::sync::Mutex;

use serde_json::{Value, json};

use crate::clock;
use crate::message::Mark;

/// Counts deliveries and collects their marks.
#[derive(Debug, Default)]
pub struct Arrivals(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    count: u64,
    last: u64,
    ids: Vec<u64>,
    nanos: Vec<u64>,
    failure: Option<String>,
}

impl Arrivals {
    /// Adds deliveries of one read, without marks.
    pub fn add(&self, count: usize) {
        let mut counts = self.counts();
        counts.count += count as u64;
        counts.last = clock::now();
    }

    /// Adds a delivery with its mark.
    pub fn add_marked(&self, kind: Mark, mark: u64) {
        let now = clock::now();
        let mut counts = self.counts();
        counts.count += 1;
        counts.last = now;
        match kind {
            Mark::None => {}
            Mark::Id => counts.ids.push(mark),
            Mark::Time => counts.nanos.push(now.saturating_sub(mark)),
        }
    }

    /// Records why no more deliveries will arrive.
    pub fn fail(&self, reason: impl ToString) {
        self.counts().failure = Some(reason.to_string());
    }

    /// Returns the number of deliveries, or the failure.
    pub fn progress(&self) -> Value {
        let counts = self.counts();
        match &counts.failure {
            Some(failure) => json!({ "error": failure }),
            None => json!({ "count": counts.count }),
        }
    }

    /// Returns all records and clears them.
    pub fn take(&self) -> Value {
        let Counts { count, last, ids, nanos, failure } = std::mem::take(&mut *self.counts());
        json!({ "count": count, "last": last, "ids": ids, "nanos": nanos, "failure": failure })
    }

    fn counts(&self) -> std::sync::MutexGuard<'_, Counts> {
        self.0.lock().expect("no holder of this lock panics")
    }
}
