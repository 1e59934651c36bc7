//! Masters of a cluster that were killed and whose replicas took over. Replication is asynchronous, so a replica may
//! lack what its master acknowledged last.

use std::ops::RangeInclusive;

use super::super::history::{Moment, route};
use crate::support::slot_of;

/// A master that was replaced.
#[derive(Clone, Copy, Debug)]
pub struct Replaced<'r> {
    /// The replica had everything that was acknowledged until then.
    pub since: Moment,
    /// The master was dead then.
    pub until: Moment,
    pub slots: &'r [RangeInclusive<u16>],
}

impl Replaced<'_> {
    /// Whether the replica may lack the effect of a call for `name`, a channel, a route or a group.
    pub fn may_lack(&self, name: &str, start: Moment, end: Moment) -> bool {
        start <= self.until && self.since <= end && self.has(name)
    }

    /// Whether a message on `channel` that was sent from `sent` on may be delivered again after it was delivered at
    /// `before`: the replica may lack the read of that time, which was answered after `since`.
    pub fn may_repeat(&self, channel: &str, sent: Moment, before: Moment) -> bool {
        sent <= self.until && self.since <= before && self.has(channel)
    }

    /// Whether the slot of `name` was one of the master.
    pub fn has(&self, name: &str) -> bool {
        let slot = slot_of(route(name));
        self.slots.iter().any(|slots| slots.contains(&slot))
    }
}
