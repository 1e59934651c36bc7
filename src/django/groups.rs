//! Groups of Python's formats: sorted sets of channels, scored by the time at which they were added.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use redis::{Cmd, FromRedisValue, Value};

use super::keys::Keys;
use super::script;
use crate::error::Result;
use crate::name::{ChannelName, GroupName};
use crate::redis::node::fault::Fault;
use crate::redis::send::batch::milliseconds;
use crate::redis::topology::places::Places;

/// The groups of a layer.
#[derive(Debug)]
pub(super) struct Groups {
    pub(super) places: Arc<Places>,
    pub(super) keys: Keys,
    pub(super) expiry: Duration,
}

impl Groups {
    /// Makes `channel` a member for `lasts`, at most the expiry, or extends its membership.
    pub(super) async fn add(&self, group: &GroupName, channel: &ChannelName, lasts: Duration) -> Result<()> {
        let mut command = script::GROUP_ADD.call(&[self.keys.group(group)]);
        command.arg(channel.as_str()).arg(milliseconds(self.expiry)).arg(milliseconds(lasts.min(self.expiry)));
        self.run(group, &command).await.map(|_| ()).map_err(|fault| self.places.shard_of_group(group).error(fault))
    }

    /// Ends the membership of `channel`.
    pub(super) async fn discard(&self, group: &GroupName, channel: &ChannelName) -> Result<()> {
        let mut command = redis::cmd("ZREM");
        command.arg(self.keys.group(group)).arg(channel.as_str());
        self.run(group, &command).await.map(|_| ()).map_err(|fault| self.places.shard_of_group(group).error(fault))
    }

    /// The present members. Members that are not valid channel names are left out.
    pub(super) async fn channels(&self, group: &GroupName) -> Result<Vec<ChannelName>> {
        self.members(group).await.map_err(|fault| self.places.shard_of_group(group).error(fault))
    }

    /// The present members of each of `groups`, or the shard that failed and its fault.
    pub(super) async fn members_of_all(&self, groups: &[GroupName]) -> Vec<Result<Vec<ChannelName>, (usize, Fault)>> {
        let members = groups.iter().map(|group| async move {
            let shard = self.places.shard_of_group(group).index;
            self.members(group).await.map_err(|fault| (shard, fault))
        });
        join_all(members).await
    }

    async fn members(&self, group: &GroupName) -> Result<Vec<ChannelName>, Fault> {
        let mut command = script::GROUP_MEMBERS.call(&[self.keys.group(group)]);
        command.arg(milliseconds(self.expiry));
        let answer = self.run(group, &command).await?;
        let names: Vec<Vec<u8>> =
            FromRedisValue::from_redis_value(answer).map_err(|error| Fault::unexpected(&error.to_string()))?;
        let name = |name: &Vec<u8>| ChannelName::parse_target(std::str::from_utf8(name).ok()?).ok();
        Ok(names.iter().filter_map(name).collect())
    }

    async fn run(&self, group: &GroupName, command: &Cmd) -> Result<Value, Fault> {
        self.places.shard_of_group(group).run(command).await
    }
}
