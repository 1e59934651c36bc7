//! `WriteFormat`: how a stored format writes messages.

use std::future::ready;

use super::batch::{Batch, Pushed};
use crate::name::ChannelName;
use crate::redis::node::commands::asking::Node;
use crate::redis::node::fault::Fault;

/// The writing half of a stored format.
///
/// The sender decides when and to which shard messages go. The format decides what they look like there.
pub trait WriteFormat: Send + Sync + 'static {
    /// The content of a message while it waits to be sent.
    type Body: Weight + Clone + Send + Sync + 'static;

    /// The index of the shard that takes the first message to a normal channel; the following messages go round.
    fn first_shard(&self, shards: usize) -> usize;

    /// The part of a normal channel's `capacity` that `shard`, one of `shards`, may hold. In a cluster these are lists.
    fn capacity_on(&self, shard: usize, capacity: usize, shards: usize) -> usize;

    /// Adds the messages of `batch` to their lists on `node`, in one attempt. In a cluster they are all for one list.
    fn push(&self, node: Node<'_>, batch: &Batch<Self::Body>) -> impl Future<Output = Result<Pushed, Fault>> + Send;

    /// Adds messages to the lists that are on `node`, a node of a cluster, in one attempt. `None` if the messages for
    /// each list need an attempt of their own.
    fn push_together(
        &self,
        _node: Node<'_>,
        _batch: &Batch<Self::Body>,
    ) -> impl Future<Output = Result<Option<Pushed>, Fault>> + Send {
        ready(Ok(None))
    }
}

/// A message in the form of its format, and its destination.
#[derive(Clone, Debug)]
pub struct OutboundMessage<B> {
    pub(crate) channel: ChannelName,
    /// How many messages the channel may hold; [`usize::MAX`] for a message that goes past the capacity.
    pub(crate) capacity: usize,
    /// Whether only the shard of the channel's name can take it, and in a cluster only the first list of the channel.
    pub(crate) pinned: bool,
    pub(crate) body: B,
}

/// The size of a message.
pub trait Weight {
    /// How many bytes it has in Redis.
    fn bytes(&self) -> usize;
}

impl Weight for bytes::Bytes {
    fn bytes(&self) -> usize {
        self.len()
    }
}
