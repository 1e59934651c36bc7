//! `StoredGroups`: how a stored format keeps the members of groups.

use std::time::Duration;

use crate::error::Result;
use crate::name::{ChannelName, GroupName};
use crate::redis::topology::places::Failure;

/// The groups of a stored format.
pub trait StoredGroups: Send + Sync {
    /// The places to which messages to a group go.
    type Destinations: Clone + Send + Sync;

    /// How long a membership lasts after the last add.
    fn expiry(&self) -> Duration;

    /// Makes `channel` a member for `lasts`, at most the [`expiry`](Self::expiry), or extends its membership.
    fn add(&self, group: &GroupName, channel: &ChannelName, lasts: Duration)
    -> impl Future<Output = Result<()>> + Send;

    /// Ends the membership of `channel`.
    fn discard(&self, group: &GroupName, channel: &ChannelName) -> impl Future<Output = Result<()>> + Send;

    /// The present members. Members that are not valid channel names are left out.
    fn channels(&self, group: &GroupName) -> impl Future<Output = Result<Vec<ChannelName>>> + Send;

    /// The destinations of each of `groups`, which are sorted and without duplicates, or the shard that failed and its
    /// fault.
    fn destinations(
        &self,
        groups: &[GroupName],
    ) -> impl Future<Output = Vec<Result<Self::Destinations, Failure>>> + Send;
}
