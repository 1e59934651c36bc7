//! `EntryResolver`: finds the recipients of popped entries of the native format.

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
use crate::redis::receive::panic::TASK;
use crate::supervise::contained;

/// Finds the recipients of the entries of one reader.
pub(crate) struct EntryResolver(Arc<Inner>);

/// The result of a lookup of a group's members.
enum Lookup {
    Members(Recipients),
    /// The server of the group is unreachable, or cannot answer now.
    Unavailable,
    /// The server of the group answered with a permanent error.
    Failed,
}

#[async_trait]
impl RecipientResolver for EntryResolver {
    async fn resolve(&mut self, shard: &Arc<Shard>, source: &ChannelName, raw: Raw) -> Option<BufferedEntry> {
        self.resolve_body(shard, source, raw.body).await
    }

    async fn resolve_held(&mut self, held: VecDeque<BufferedEntry>) -> Vec<BufferedEntry> {
        let mut entries = Vec::with_capacity(held.len());
        // If a lookup for one message of a group is unavailable, so are those for the messages behind it.
        let mut unavailable = HashSet::new();
        for mut entry in held {
            if entry.has_expired() {
                drops::count(DropReason::Expired, entry.undelivered());
                continue;
            }
            let unresolved = entry.unresolved_for().and_then(|_| entry.group());
            if let Some((group, version, sent)) = unresolved.filter(|(group, ..)| !unavailable.contains(group)) {
                let source = entry.source.clone();
                match contained(TASK, self.members(&group, &source, version, sent)).await.unwrap_or(Lookup::Failed) {
                    Lookup::Members(members) if members.is_empty() => continue,
                    Lookup::Members(members) => entry.set_recipients(members),
                    Lookup::Unavailable => {
                        unavailable.insert(group);
                    }
                    Lookup::Failed => {
                        drops::count(DropReason::ShardDown, 1);
                        continue;
                    }
                }
            }
            entries.push(entry);
        }
        entries
    }
}

impl EntryResolver {
    pub(crate) fn new(native: Arc<Inner>) -> Self {
        Self(native)
    }

    /// Parses an entry and looks up its recipients. Returns `None` if it has none or is invalid.
    async fn resolve_body(&mut self, shard: &Arc<Shard>, source: &ChannelName, bytes: Bytes) -> Option<BufferedEntry> {
        let entry = match Entry::parse(bytes.clone()) {
            Ok(entry) => entry,
            Err(fault) => return self.quarantine(shard, source, bytes, fault.to_string()),
        };
        match addressee(&entry, source) {
            Ok(Addressee::Channel(channel)) => {
                Some(BufferedEntry::for_channel(shard.clone(), source.clone(), entry, channel))
            }
            Ok(Addressee::Locals(locals)) => {
                (locals.len() > 0).then(|| BufferedEntry::for_locals(shard.clone(), source.clone(), entry, locals))
            }
            Ok(Addressee::Group(group, version)) => match self.members(&group, source, version, entry.sent()).await {
                Lookup::Members(members) if members.is_empty() => None,
                Lookup::Members(members) => {
                    Some(BufferedEntry::for_group(shard.clone(), source.clone(), entry, members))
                }
                Lookup::Unavailable => Some(BufferedEntry::unresolved(shard.clone(), source.clone(), entry)),
                Lookup::Failed => {
                    drops::count(DropReason::ShardDown, 1);
                    None
                }
            },
            Err(reason) => self.quarantine(shard, source, bytes, reason),
        }
    }

    fn quarantine(
        &self,
        shard: &Arc<Shard>,
        source: &ChannelName,
        bytes: Bytes,
        reason: String,
    ) -> Option<BufferedEntry> {
        drops::count(DropReason::Undecodable, 1);
        self.0.quarantine.keep(shard, source, bytes, reason);
        None
    }

    /// Looks up the members of a group at the version and time of a send.
    async fn members(&self, group: &GroupName, route: &ChannelName, version: u64, sent: u64) -> Lookup {
        let Inner { groups, topology, .. } = &*self.0;
        match groups.members_at(group, route, version, sent).await {
            Ok(members) => Lookup::Members(members),
            Err(fault) if fault.broken || fault.transient || !topology.shard_of_group(group).is_up() => {
                Lookup::Unavailable
            }
            Err(_) => Lookup::Failed,
        }
    }
}
