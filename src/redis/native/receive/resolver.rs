//! `EntryResolver`: finds the recipients of popped entries of the native format.

use std::sync::Arc;

use async_trait::async_trait;

use crate::drops::DropReason;
use crate::name::ChannelName;
use crate::redis::entry::Entry;
use crate::redis::native::address::{Addressee, addressee};
use crate::redis::native::groups::Groups;
use crate::redis::node::shard::Shard;
use crate::redis::receive::buffer::buffered_entry::{BufferedEntry, GroupSend, Unresolved};
use crate::redis::receive::buffer::held::Lookup;
use crate::redis::receive::{Raw, RecipientResolver, Undeliverable, Unreadable};

/// Finds the recipients of the entries of one reader.
pub(crate) struct EntryResolver(Arc<Groups>);

#[async_trait]
impl RecipientResolver for EntryResolver {
    async fn resolve(
        &mut self,
        shard: &Arc<Shard>,
        source: &ChannelName,
        raw: Raw,
    ) -> Result<Option<BufferedEntry>, Undeliverable> {
        let entry = Entry::parse(raw.body).map_err(|fault| undecodable(fault.to_string()))?;
        let (shard, source) = (shard.clone(), source.clone());
        let (group, version) = match addressee(&entry, &source).map_err(undecodable)? {
            Addressee::Channel(channel) => {
                return Ok(Some(BufferedEntry::for_channel(shard, source, entry, channel)));
            }
            Addressee::Locals(locals) => {
                return Ok((locals.len() > 0).then(|| BufferedEntry::for_locals(shard, source, entry, locals)));
            }
            Addressee::Group(group, version) => (group, version),
        };
        let send = GroupSend { group, route: source, version, sent: entry.sent() };
        match self.members(&send).await {
            Lookup::Members(members) if members.is_empty() => Ok(None),
            Lookup::Members(members) => Ok(Some(BufferedEntry::for_group(shard, send.route, entry, members))),
            Lookup::Unavailable { since } => {
                let home = self.0.home(&send.group).clone();
                Ok(Some(BufferedEntry::unresolved(shard, entry, Unresolved { send, home, since })))
            }
            Lookup::Failed => Err(Undeliverable::Dropped(DropReason::ShardDown)),
        }
    }

    async fn members(&mut self, send: &GroupSend) -> Lookup {
        let GroupSend { group, route, version, sent } = send;
        match self.0.members_at(group, route, *version, *sent).await {
            Ok(members) => Lookup::Members(members),
            Err(fault) if fault.broken || fault.transient || !self.0.home(group).is_up() => {
                Lookup::Unavailable { since: self.0.lookup_failed(group) }
            }
            Err(_) => Lookup::Failed,
        }
    }
}

impl EntryResolver {
    pub(crate) fn new(groups: Arc<Groups>) -> Self {
        Self(groups)
    }
}

fn undecodable(reason: String) -> Undeliverable {
    Unreadable { drop: DropReason::Undecodable, reason }.into()
}
