//! Groups of Python's formats: sorted sets of channels, scored by the time at which they were added.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use redis::{Cmd, Value};

use super::keys::Keys;
use super::script;
use crate::error::Result;
use crate::name::{ChannelName, GroupName};
use crate::redis::node::clock::milliseconds;
use crate::redis::node::fault::Fault;
use crate::redis::stored::groups::StoredGroups;
use crate::redis::stored::scan::parse;
use crate::redis::topology::places::Places;

/// The groups of a layer.
#[derive(Debug)]
pub struct Groups {
    pub(super) places: Arc<Places>,
    pub(super) keys: Keys,
    pub(super) expiry: Duration,
}

impl StoredGroups for Groups {
    type Destinations = Vec<ChannelName>;

    fn expiry(&self) -> Duration {
        self.expiry
    }

    async fn add(&self, group: &GroupName, channel: &ChannelName, lasts: Duration) -> Result<()> {
        let mut command = script::GROUP_ADD.call(&[self.keys.group(group)]);
        command.arg(channel.as_str()).arg(milliseconds(self.expiry)).arg(milliseconds(lasts.min(self.expiry)));
        self.run(group, &command).await.map(|_| ()).map_err(|fault| self.places.shard_of_group(group).error(fault))
    }

    async fn discard(&self, group: &GroupName, channel: &ChannelName) -> Result<()> {
        let mut command = redis::cmd("ZREM");
        command.arg(self.keys.group(group)).arg(channel.as_str());
        self.run(group, &command).await.map(|_| ()).map_err(|fault| self.places.shard_of_group(group).error(fault))
    }

    async fn channels(&self, group: &GroupName) -> Result<Vec<ChannelName>> {
        self.members(group).await.map_err(|fault| self.places.shard_of_group(group).error(fault))
    }

    async fn destinations(&self, groups: &[GroupName]) -> Vec<Result<Vec<ChannelName>, (usize, Fault)>> {
        let members = groups.iter().map(|group| async move {
            let shard = self.places.shard_of_group(group).index;
            self.members(group).await.map_err(|fault| (shard, fault))
        });
        join_all(members).await
    }
}

impl Groups {
    /// The present members. Members that are not valid channel names are left out.
    async fn members(&self, group: &GroupName) -> Result<Vec<ChannelName>, Fault> {
        let mut command = script::GROUP_MEMBERS.call(&[self.keys.group(group)]);
        command.arg(milliseconds(self.expiry));
        let answer = self.places.shard_of_group(group).query(&command).await?;
        let names: Vec<Vec<u8>> = parse(answer)?;
        let name = |name: &Vec<u8>| ChannelName::parse_target(std::str::from_utf8(name).ok()?).ok();
        Ok(names.iter().filter_map(name).collect())
    }

    async fn run(&self, group: &GroupName, command: &Cmd) -> Result<Value, Fault> {
        self.places.shard_of_group(group).run(command).await
    }
}
