//! Popped entries to parcels: who each is for.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::Instant;

use super::format::{Raw, Sorter};
use super::native::Inner;
use super::parcel::Parcel;
use crate::drops::{self, DropReason};
use crate::name::{ChannelName, GroupName};
use crate::redis::frame::{Address, Entry, Text};
use crate::redis::shard::Shard;

/// How long to wait for the shard of a group whose message has been popped.
const GROUP_PATIENCE: Duration = Duration::from_secs(4);

/// Finds out who the entries of one reader are for.
pub(super) struct EntrySorter {
    native: Arc<Inner>,
    /// Shards of groups that were waited for in vain.
    given_up: HashSet<usize>,
}

/// What is told of the members of a group.
enum Told {
    Members(Arc<[ChannelName]>),
    /// It cannot have had that version yet.
    NoSuchVersion,
    Nothing,
}

#[async_trait]
impl Sorter for EntrySorter {
    async fn parcels(&mut self, shard: &Arc<Shard>, source: &ChannelName, raw: Vec<Raw>) -> Vec<Parcel> {
        let mut parcels = Vec::with_capacity(raw.len());
        for Raw { body, .. } in raw {
            parcels.extend(self.parcel(shard, source, body).await);
        }
        parcels
    }
}

impl EntrySorter {
    pub(super) fn new(native: Arc<Inner>) -> Self {
        Self { native, given_up: HashSet::new() }
    }

    /// Finds out who an entry is for; nothing if it is for nobody, or no entry of ours.
    async fn parcel(&mut self, shard: &Arc<Shard>, source: &ChannelName, bytes: Bytes) -> Option<Parcel> {
        let entry = match Entry::parse(bytes.clone()) {
            Ok(entry) => entry,
            Err(fault) => return self.refuse(shard, bytes, &fault.to_string()),
        };
        let to_local = source.as_str().ends_with('!');
        let member = |local: &Text| ChannelName::from_parts(source.as_str(), local);
        match &entry.address {
            Address::Local(local) if to_local => match member(local) {
                Ok(channel) => Some(Parcel::to_one(shard.clone(), source.clone(), entry, channel)),
                Err(error) => self.refuse(shard, bytes, &error.to_string()),
            },
            Address::Rest { locals, .. } if to_local => {
                match locals.iter().map(member).collect::<Result<Vec<_>, _>>() {
                    Ok(channels) if channels.is_empty() => None,
                    Ok(channels) => Some(Parcel::to_members(shard.clone(), source.clone(), entry, channels.into())),
                    Err(error) => self.refuse(shard, bytes, &error.to_string()),
                }
            }
            Address::Group { group, version } if to_local => {
                let Ok(group) = GroupName::parse(group) else {
                    return self.refuse(shard, bytes, "its group has no valid name");
                };
                match self.members(&group, source, *version, entry.sent()).await {
                    Told::Members(channels) if channels.is_empty() => None,
                    Told::Members(channels) => Some(Parcel::to_members(shard.clone(), source.clone(), entry, channels)),
                    Told::NoSuchVersion => self.refuse(shard, bytes, "its group cannot have its version yet"),
                    Told::Nothing => Some(Parcel::to_unknown(shard.clone(), source.clone(), entry)),
                }
            }
            Address::Channel | Address::Group { .. } if !to_local => {
                Some(Parcel::to_one(shard.clone(), source.clone(), entry, source.clone()))
            }
            _ => self.refuse(shard, bytes, "its address does not fit its channel"),
        }
    }

    fn refuse(&self, shard: &Arc<Shard>, bytes: Bytes, reason: &str) -> Option<Parcel> {
        drops::count(DropReason::Undecodable, 1);
        self.native.quarantine.keep(shard, bytes, reason.to_owned());
        None
    }

    /// The members of a group at the version and time of a send. Its server tells nothing when it refuses, or is away
    /// for long.
    async fn members(&mut self, group: &GroupName, route: &ChannelName, version: u64, sent: u64) -> Told {
        let Inner { groups, topology, closing, .. } = &*self.native;
        let shard = topology.shard_of_group(group);
        // Only the first message for a server that is away is worth waiting for; those behind it have waited too.
        let waits = !closing.is_cancelled() && !self.given_up.contains(&shard.index);
        let deadline = Instant::now() + if waits { GROUP_PATIENCE } else { Duration::ZERO };
        loop {
            match groups.members_at(group, route, version, sent).await {
                Ok(members) => {
                    self.given_up.remove(&shard.index);
                    return members.map_or(Told::NoSuchVersion, Told::Members);
                }
                Err(fault) => {
                    let away = fault.broken || !shard.is_up();
                    let up = closing.run_until_cancelled(shard.up());
                    if !away || !matches!(tokio::time::timeout_at(deadline, up).await, Ok(Some(_))) {
                        break;
                    }
                }
            }
        }
        self.given_up.insert(shard.index);
        Told::Nothing
    }
}
