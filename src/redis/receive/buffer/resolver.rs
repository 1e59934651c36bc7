//! Popped entries to parcels: who each is for.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::drops::{self, DropReason};
use crate::name::{ChannelName, GroupName};
use crate::redis::groups::membership::Recipients;
use crate::redis::native::entry::Entry;
use crate::redis::native::read::Inner;
use crate::redis::node::shard::Shard;
use crate::redis::receive::buffer::address::{Addressee, addressee};
use crate::redis::receive::buffer::entry::BufferedEntry;
use crate::redis::receive::format::{Raw, RecipientResolver};
use crate::redis::receive::reader::TASK;
use crate::supervise::contained;

/// Finds out who the entries of one reader are for.
pub(crate) struct EntryResolver(Arc<Inner>);

/// What is told of the members of a group.
enum Told {
    Members(Recipients),
    /// Nothing while its server is away, or cannot answer now.
    NotNow,
    /// Nothing, and its server will not say more.
    Never,
}

#[async_trait]
impl RecipientResolver for EntryResolver {
    async fn parcel(&mut self, shard: &Arc<Shard>, source: &ChannelName, raw: Raw) -> Option<BufferedEntry> {
        self.sort(shard, source, raw.body).await
    }

    async fn ask_again(&mut self, held: VecDeque<BufferedEntry>) -> Vec<BufferedEntry> {
        let mut parcels = Vec::with_capacity(held.len());
        // What a group's server does not tell for one message, it does not tell for those behind it either.
        let mut unanswered = HashSet::new();
        for mut parcel in held {
            if parcel.has_expired() {
                drops::count(DropReason::Expired, parcel.left());
                continue;
            }
            let asked = parcel.unknown_for().and_then(|_| parcel.group());
            if let Some((group, version, sent)) = asked.filter(|(group, ..)| !unanswered.contains(group)) {
                let source = parcel.source.clone();
                match contained(TASK, self.members(&group, &source, version, sent)).await.unwrap_or(Told::Never) {
                    Told::Members(members) if members.is_empty() => continue,
                    Told::Members(members) => parcel.address(members),
                    Told::NotNow => {
                        unanswered.insert(group);
                    }
                    Told::Never => {
                        drops::count(DropReason::ShardDown, 1);
                        continue;
                    }
                }
            }
            parcels.push(parcel);
        }
        parcels
    }
}

impl EntryResolver {
    pub(crate) fn new(native: Arc<Inner>) -> Self {
        Self(native)
    }

    /// Finds out who an entry is for; nothing if it is for nobody, or no entry of ours.
    async fn sort(&mut self, shard: &Arc<Shard>, source: &ChannelName, bytes: Bytes) -> Option<BufferedEntry> {
        let entry = match Entry::parse(bytes.clone()) {
            Ok(entry) => entry,
            Err(fault) => return self.refuse(shard, source, bytes, fault.to_string()),
        };
        match addressee(&entry, source) {
            Ok(Addressee::Channel(channel)) => {
                Some(BufferedEntry::to_one(shard.clone(), source.clone(), entry, channel))
            }
            Ok(Addressee::Rest(locals)) => {
                (locals.len() > 0).then(|| BufferedEntry::to_rest(shard.clone(), source.clone(), entry, locals))
            }
            Ok(Addressee::Group(group, version)) => match self.members(&group, source, version, entry.sent()).await {
                Told::Members(members) if members.is_empty() => None,
                Told::Members(members) => {
                    Some(BufferedEntry::to_members(shard.clone(), source.clone(), entry, members))
                }
                Told::NotNow => Some(BufferedEntry::to_unknown(shard.clone(), source.clone(), entry)),
                Told::Never => {
                    drops::count(DropReason::ShardDown, 1);
                    None
                }
            },
            Err(reason) => self.refuse(shard, source, bytes, reason),
        }
    }

    fn refuse(&self, shard: &Arc<Shard>, source: &ChannelName, bytes: Bytes, reason: String) -> Option<BufferedEntry> {
        drops::count(DropReason::Undecodable, 1);
        self.0.quarantine.keep(shard, source, bytes, reason);
        None
    }

    /// The members of a group at the version and time of a send.
    async fn members(&self, group: &GroupName, route: &ChannelName, version: u64, sent: u64) -> Told {
        let Inner { groups, topology, .. } = &*self.0;
        match groups.members_at(group, route, version, sent).await {
            Ok(members) => Told::Members(members),
            Err(fault) if fault.broken || fault.transient || !topology.shard_of_group(group).is_up() => Told::NotNow,
            Err(_) => Told::Never,
        }
    }
}
