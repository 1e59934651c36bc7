//! The servers of a layer and which of them holds what.

use std::sync::Arc;

use super::keys::Keys;
use super::ring::Ring;
use super::shard::Shard;
use crate::name::{ChannelName, GroupName};

/// All shards, the ring that places names on them, and the keys that names have there.
#[derive(Debug)]
pub(super) struct Topology {
    pub(super) shards: Vec<Arc<Shard>>,
    pub(super) keys: Keys,
    ring: Ring,
}

impl Topology {
    /// `ring` and `shards` come from the same hosts in the same order.
    pub(super) fn new(shards: Vec<Arc<Shard>>, ring: Ring, keys: Keys) -> Self {
        Self { shards, keys, ring }
    }

    /// The one shard that holds a `!` or `?` channel.
    pub(super) fn shard_of_channel(&self, channel: &ChannelName) -> &Arc<Shard> {
        &self.shards[self.ring.shard_of(channel.non_local())]
    }

    /// The one shard that holds a group.
    pub(super) fn shard_of_group(&self, group: &GroupName) -> &Arc<Shard> {
        &self.shards[self.ring.shard_of(group.as_str())]
    }

    /// The shards on which messages of `channel` can lie.
    pub(super) fn shards_of_channel(&self, channel: &ChannelName) -> &[Arc<Shard>] {
        if channel.kind().has_one_reader() {
            std::slice::from_ref(self.shard_of_channel(channel))
        } else {
            &self.shards
        }
    }
}
