//! What is no message: skipped, counted, and logged once for each cause.

use std::collections::HashSet;

use parking_lot::Mutex;
use tracing::warn;

use crate::drops;
use crate::name::ChannelName;
use crate::redis::node::shard::Shard;
use crate::redis::receive::Unreadable;

/// Different causes that are told apart; beyond them nothing is logged, as each would be an attacker's choice.
const CAUSES: usize = 256;

/// Remembers what has been logged.
#[derive(Debug, Default)]
pub(super) struct Garbage {
    /// Held only to look and to add.
    told: Mutex<HashSet<(usize, String)>>,
}

impl Garbage {
    /// Counts one message that could not be read.
    pub(super) fn count(&self, shard: &Shard, channel: &ChannelName, unreadable: Unreadable) {
        let Unreadable { drop, reason } = unreadable;
        drops::count(drop, 1);
        let is_new = {
            let mut told = self.told.lock();
            told.len() < CAUSES && told.insert((shard.index, reason.clone()))
        };
        if is_new {
            let (shard, host) = (shard.index, shard.host());
            warn!(shard, host, %channel, reason, "messages that cannot be read are skipped");
        }
    }
}
