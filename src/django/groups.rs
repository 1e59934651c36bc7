//! Groups: sorted sets of channels by the time when they were added, alike in both formats.

use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, FromRedisValue, Value};

use super::keys::Keys;
use super::script;
use crate::error::Result;
use crate::name::{ChannelName, GroupName};
use crate::redis::batch::milliseconds;
use crate::redis::fault::Fault;
use crate::redis::topology::Places;

/// The groups of a layer.
#[derive(Debug)]
pub(super) struct Groups {
    pub(super) places: Arc<Places>,
    pub(super) keys: Keys,
    pub(super) expiry: Duration,
}

impl Groups {
    /// Makes `channel` a member, or renews its membership.
    pub(super) async fn add(&self, group: &GroupName, channel: &ChannelName) -> Result<()> {
        let mut command = script::GROUP_ADD.call(&[self.keys.group(group)]);
        command.arg(channel.as_str()).arg(milliseconds(self.expiry));
        self.run(group, &command).await.map(|_| ())
    }

    /// Ends the membership of `channel`.
    pub(super) async fn discard(&self, group: &GroupName, channel: &ChannelName) -> Result<()> {
        let mut command = redis::cmd("ZREM");
        command.arg(self.keys.group(group)).arg(channel.as_str());
        self.run(group, &command).await.map(|_| ())
    }

    /// Those who are members now. What is no name of a channel is left out.
    pub(super) async fn members(&self, group: &GroupName) -> Result<Vec<ChannelName>> {
        let mut command = script::GROUP_MEMBERS.call(&[self.keys.group(group)]);
        command.arg(milliseconds(self.expiry));
        let answer = self.run(group, &command).await?;
        let names: Vec<Vec<u8>> = FromRedisValue::from_redis_value(answer)
            .map_err(|error| self.places.shard_of_group(group).error(Fault::unexpected(&error.to_string())))?;
        let name = |name: &Vec<u8>| ChannelName::parse_target(std::str::from_utf8(name).ok()?).ok();
        Ok(names.iter().filter_map(name).collect())
    }

    async fn run(&self, group: &GroupName, command: &Cmd) -> Result<Value> {
        let shard = self.places.shard_of_group(group);
        shard.run(command).await.map_err(|fault| shard.error(fault))
    }
}
