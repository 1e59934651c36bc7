//! What is no message: skipped, and logged once for each cause.

use std::collections::HashSet;

use parking_lot::Mutex;
use tracing::warn;

use crate::name::ChannelName;
use crate::redis::node::shard::Shard;

/// Different causes that are told apart; beyond them nothing is logged, as each would be an attacker's choice.
const CAUSES: usize = 256;

/// Remembers what has been logged.
#[derive(Debug, Default)]
pub(super) struct Garbage {
    /// Held only to look and to add.
    told: Mutex<HashSet<(usize, String)>>,
}

impl Garbage {
    /// Logs why a message could not be read. The caller counts it.
    pub(super) fn log(&self, shard: &Shard, channel: &ChannelName, reason: String) {
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
