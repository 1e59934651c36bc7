//! `Garbage`: skips values that are not messages, and logs each cause once.

use std::collections::HashSet;

use parking_lot::Mutex;
use tracing::warn;

use crate::name::ChannelName;
use crate::redis::node::shard::Shard;

/// The most causes that are logged. An attacker could choose any number of them.
const CAUSES: usize = 256;

/// The causes that have been logged.
#[derive(Debug, Default)]
pub(super) struct Garbage {
    /// Locked only to look up and to add.
    logged: Mutex<HashSet<(usize, String)>>,
}

impl Garbage {
    /// Logs why a message could not be read. The caller counts it.
    pub(super) fn log(&self, shard: &Shard, channel: &ChannelName, reason: String) {
        let is_new = {
            let mut logged = self.logged.lock();
            logged.len() < CAUSES && logged.insert((shard.index, reason.clone()))
        };
        if is_new {
            let (shard, host) = (shard.index, shard.host());
            warn!(shard, host, %channel, reason, "messages that cannot be read are skipped");
        }
    }
}
