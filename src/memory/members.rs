//! Memberships with explicit ends, for a layer that mirrors the memberships of another layer here.

use tokio::time::Instant;

use super::MemoryLayer;
use super::group::Group;
use crate::error::Result;
use crate::name::{ChannelName, GroupName};

impl MemoryLayer {
    /// Makes `channel` a member of `group` until at least `until`.
    pub(crate) fn add_member(&self, group: &GroupName, channel: ChannelName, until: Instant) -> Result<()> {
        self.inner.check_open()?;
        self.inner.groups.get_or_insert(group, Group::default).add(channel, until);
        self.inner.schedule_group_sweep();
        Ok(())
    }

    /// Ends the membership of `channel` in `group`, if there is one.
    pub(crate) fn remove_member(&self, group: &GroupName, channel: &ChannelName) -> Result<()> {
        self.inner.check_open()?;
        let Some(members) = self.inner.groups.get(group.as_str()) else { return Ok(()) };
        if members.discard(channel) {
            drop(members);
            self.inner.groups.remove_if(group.as_str(), Group::is_empty);
        }
        Ok(())
    }

    /// Returns the groups that have members.
    pub(crate) fn groups(&self) -> Vec<GroupName> {
        self.inner.groups.names()
    }

    /// Returns the members of `group`, each with the end of its membership.
    pub(crate) fn members(&self, group: &GroupName) -> Vec<(ChannelName, Instant)> {
        let members = self.inner.groups.get(group.as_str());
        members.map_or_else(Vec::new, |members| members.members(Instant::now()))
    }

    /// Returns the end of the membership of `channel` in `group`, if there is one.
    pub(crate) fn membership_end(&self, group: &GroupName, channel: &ChannelName) -> Option<Instant> {
        self.inner.groups.get(group.as_str())?.end(channel)
    }
}
