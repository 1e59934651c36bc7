//! `Failures`: the failing fetch loops of a reader, and the outage that they cause for its consumers.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::redis::node::fault::Fault;
use crate::redis::receive::fetch::fetch_loop::FetchLoop;
use crate::redis::receive::fetch::fetched::Read;
use crate::redis::receive::outage::reports::Reports;

/// The failing fetch loops of a reader, and when consumers learn about the outage.
pub(crate) struct Failures {
    /// The failing fetch loops by their indices.
    failing: HashMap<usize, Failing>,
    /// How many fetch loops the reader has.
    fetch_loops: usize,
    reports: Reports,
    /// Whether a lasting outage is reported again. A `Receiver` gets one report, but calls of `receive` come and go.
    repeats: bool,
}

struct Failing {
    shard: usize,
    is_pinned: bool,
    fault: Fault,
}

impl Failures {
    /// No failures of `fetch_loops` fetch loops. `first_pause` is the shortest time between two reports.
    pub(crate) fn new(first_pause: Duration, repeats: bool, fetch_loops: usize) -> Self {
        Self { failing: HashMap::new(), fetch_loops, reports: Reports::new(first_pause), repeats }
    }

    /// How many fetch loops the reader has.
    pub(crate) fn fetch_loops(&self) -> usize {
        self.fetch_loops
    }

    /// Records how a read ended. Returns whether that can have changed the present outage.
    pub(crate) fn record(
        &mut self,
        index: usize,
        fetch_loop: &FetchLoop,
        result: &Result<Option<Read>, Fault>,
    ) -> bool {
        match result {
            Ok(_) if self.failing.remove(&index).is_none() => return false,
            Ok(_) => {}
            Err(fault) => {
                let (shard, is_pinned) = (fetch_loop.shard.index, fetch_loop.is_pinned());
                let failing = Failing { shard, is_pinned, fault: fault.clone() };
                self.failing.insert(index, failing);
            }
        }
        if self.cause().is_none() {
            self.reports.outage_ended();
        }
        true
    }

    /// The shard and the fault of the present outage; `None` while messages can arrive.
    pub(crate) fn outage(&self) -> Option<(usize, Fault)> {
        self.cause().map(|failing| (failing.shard, failing.fault.clone()))
    }

    /// The fault of the fetch loop at `index`; `None` if its last read succeeded.
    pub(crate) fn fault_of(&self, index: usize) -> Option<Fault> {
        self.failing.get(&index).map(|failing| failing.fault.clone())
    }

    /// When the present outage is to be reported to consumers. It is reported only once while messages can arrive from
    /// another server.
    pub(crate) fn report_due(&self) -> Option<Instant> {
        self.cause()?;
        self.reports.due(self.repeats && self.all_fail())
    }

    /// Records that the present outage is reported to consumers now.
    pub(crate) fn reported(&mut self) {
        self.reports.reported();
    }

    /// Records that consumers have begun to wait.
    pub(crate) fn waiting_begins(&mut self) {
        self.reports.waiting_begins();
    }

    /// A failing fetch loop that keeps messages from consumers.
    fn cause(&self) -> Option<&Failing> {
        self.failing.values().find(|failing| self.all_fail() || failing.is_pinned)
    }

    fn all_fail(&self) -> bool {
        self.failing.len() == self.fetch_loops
    }
}
