//! `Places`: the servers of a layer and the ring that places names on them.

use std::sync::Arc;

use crate::error::Error;
use crate::name::{ChannelName, GroupName};
use crate::redis::node::fault::Fault;
use crate::redis::node::shard::Shard;
use crate::redis::topology::ring::Ring;

/// The shards of a layer, and the ring that places names on them.
#[derive(Debug)]
pub struct Places {
    pub(crate) shards: Vec<Arc<Shard>>,
    ring: Ring,
}

impl Places {
    /// `ring` and `shards` come from the same hosts in the same order.
    pub(crate) fn new(shards: Vec<Arc<Shard>>, ring: Ring) -> Self {
        Self { shards, ring }
    }

    /// The index of the shard for a name of any kind.
    pub(crate) fn shard_of_name(&self, name: &str) -> usize {
        self.ring.shard_of(name)
    }

    /// The error of a call that failed with `fault` on `shard`.
    pub(crate) fn error(&self, shard: usize, fault: Fault) -> Error {
        self.shards[shard].error(fault)
    }

    /// The shard that holds a `!` or `?` channel.
    pub(crate) fn shard_of_channel(&self, channel: &ChannelName) -> &Arc<Shard> {
        &self.shards[self.ring.shard_of(channel.non_local())]
    }

    /// The shard that holds a group.
    pub(crate) fn shard_of_group(&self, group: &GroupName) -> &Arc<Shard> {
        &self.shards[self.ring.shard_of(group.as_str())]
    }

    /// The shards that can hold messages of `channel`.
    pub(crate) fn shards_of_channel(&self, channel: &ChannelName) -> &[Arc<Shard>] {
        if channel.kind().has_one_reader() {
            std::slice::from_ref(self.shard_of_channel(channel))
        } else {
            &self.shards
        }
    }
}
