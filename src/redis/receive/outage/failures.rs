//! The lanes of a reader that fail, and what that means for its consumers.

use std::collections::HashMap;

use tokio::time::Instant;

use crate::redis::node::fault::Fault;
use crate::redis::receive::fetch::fetch_loop::{FetchLoop, Read};
use crate::redis::receive::outage::reports::Reports;
use crate::redis::receive::reader::Reader;

/// Which lanes fail, and when consumers are told.
pub(crate) struct Failures {
    /// By the places of the lanes.
    down: HashMap<usize, Down>,
    /// How many lanes there are.
    lanes: usize,
    reports: Reports,
    /// Whether an outage is reported again while it lasts: a `Receiver` hears of it once, but calls of `receive` come and go.
    repeats: bool,
}

struct Down {
    shard: usize,
    has_one_reader: bool,
    fault: Fault,
}

impl Failures {
    /// None yet, of so many lanes.
    pub(crate) fn new(reader: &Reader, lanes: usize) -> Self {
        let reports = Reports::new(reader.surroundings.retry_pause());
        Self { down: HashMap::new(), lanes, reports, repeats: !reader.owned }
    }

    /// Records how a read ended. Returns whether that can have changed the present outage.
    pub(crate) fn note(&mut self, place: usize, lane: &FetchLoop, result: &Result<Option<Read>, Fault>) -> bool {
        match result {
            Ok(_) if self.down.remove(&place).is_none() => return false,
            Ok(_) => {}
            Err(fault) => {
                let down = Down { shard: lane.shard.index, has_one_reader: lane.has_one_reader, fault: fault.clone() };
                self.down.insert(place, down);
            }
        }
        if self.outage().is_none() {
            self.reports.outage_ended();
        }
        true
    }

    /// The shard and the fault of the present outage.
    pub(crate) fn present(&self) -> Option<(usize, Fault)> {
        self.outage().map(|down| (down.shard, down.fault.clone()))
    }

    /// Why the lane at this place fails, if it does.
    pub(crate) fn of(&self, place: usize) -> Option<Fault> {
        self.down.get(&place).map(|down| down.fault.clone())
    }

    /// When consumers are to be told of the present outage. Nobody is told twice while messages may come from another server.
    pub(crate) fn report_due(&self) -> Option<Instant> {
        self.outage()?;
        self.reports.due(self.repeats && self.is_cut_off())
    }

    /// Notes that consumers are told of the present outage.
    pub(crate) fn reported(&mut self) {
        self.reports.made();
    }

    /// Notes that consumers have just begun to wait.
    pub(crate) fn waiting_begins(&mut self) {
        self.reports.waiting_begins();
    }

    /// A lane that fails, if that keeps messages from consumers.
    fn outage(&self) -> Option<&Down> {
        self.down.values().find(|down| self.is_cut_off() || down.has_one_reader)
    }

    /// Whether all lanes fail.
    fn is_cut_off(&self) -> bool {
        self.down.len() == self.lanes
    }
}
