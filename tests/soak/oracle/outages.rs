//! When servers could not be used, because the test broke them or the way to them.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::history::Moment;

/// What a connection attempt takes that began before the end of an outage, and the first pause between two attempts.
const CONNECTING: Duration = Duration::from_secs(2);

/// The outages of all servers.
#[derive(Debug, Default)]
pub struct Outages {
    /// By server, each in the order in which they began.
    servers: BTreeMap<usize, Vec<Outage>>,
}

/// A time in which a server could not be used.
#[derive(Clone, Copy, Debug)]
struct Outage {
    /// The slot of the process that could not use it; `None` if no process could.
    slot: Option<usize>,
    since: Moment,
    /// [`Moment::MAX`] while it lasts.
    until: Moment,
}

impl Outage {
    /// When the last process has found out that the outage is over. The pause between two attempts to connect is at
    /// most as long as the outage so far.
    fn known_until(&self) -> Moment {
        self.until.saturating_add(self.until.saturating_sub(self.since)).saturating_add(CONNECTING)
    }
}

impl Outages {
    pub fn begin(&mut self, server: usize, slot: Option<usize>, since: Moment) {
        self.servers.entry(server).or_default().push(Outage { slot, since, until: Moment::MAX });
    }

    pub fn end(&mut self, server: usize, slot: Option<usize>, until: Moment) {
        let lasting = |outage: &&mut Outage| outage.slot == slot && outage.until == Moment::MAX;
        if let Some(outage) = self.servers.get_mut(&server).and_then(|all| all.iter_mut().find(lasting)) {
            outage.until = until;
        }
    }

    /// Whether the process in `slot` could not use some server at some moment from `start` to `end`.
    pub fn met(&self, slot: usize, start: Moment, end: Moment) -> bool {
        let concerns = |outage: &Outage| outage.slot.is_none_or(|only| only == slot);
        let mut outages = self.servers.values().flatten().filter(|outage| concerns(outage));
        outages.any(|outage| outage.since <= end && start <= outage.known_until())
    }

    /// Whether the process in `slot` may have found some server unreachable for `time` when `end` came, in an outage
    /// that was not over at `start`.
    pub fn lasted(&self, slot: usize, time: Duration, start: Moment, end: Moment) -> bool {
        self.servers.values().any(|outages| {
            let known = known(outages.iter().filter(|outage| outage.slot.is_none_or(|only| only == slot)));
            known.into_iter().any(|(since, until)| until >= start && until.min(end) >= since + time)
        })
    }
}

/// The times in which a process may have known of `outages`. An outage that begins before the process knows the end of
/// the one before continues it.
fn known<'o>(outages: impl Iterator<Item = &'o Outage>) -> Vec<(Moment, Moment)> {
    let mut merged: Vec<Outage> = Vec::new();
    for &outage in outages {
        match merged.last_mut().filter(|last| outage.since <= last.known_until()) {
            Some(last) => last.until = last.until.max(outage.until),
            None => merged.push(outage),
        }
    }
    merged.iter().map(|outage| (outage.since, outage.known_until())).collect()
}
