//! Deleting: marks entries, so that no call restores them any more, and removes their records.

use std::collections::{BTreeMap, BTreeSet};

use super::restore::REMEMBERED_MS;
use super::{Partial, Quarantine, QuarantineId, Stream};
use crate::error::Result;
use crate::name::ChannelName;
use crate::redis::native::scripts;
use crate::redis::node::fault::Fault;
use crate::redis::stored::scan::parse;

impl Quarantine<'_> {
    /// Deletes entries. Returns how many of them were in quarantine.
    ///
    /// An entry that another call restores at the same time is either restored or deleted, and counts only if it is
    /// deleted.
    ///
    /// # Cancel safety
    ///
    /// A dropped call may have deleted some of the entries.
    ///
    /// # Errors
    ///
    /// As [`entries`](Self::entries). Some of the entries of a server that failed may have been deleted; they do not
    /// count.
    pub async fn delete(&self, ids: &[QuarantineId]) -> Result<Partial<usize>> {
        let deleted = self.on_every_stream(async |stream| self.delete_on(stream, ids).await).await?;
        Ok(deleted.map(|counts| counts.into_iter().sum()))
    }

    async fn delete_on(&self, stream: Stream<'_>, ids: &[QuarantineId]) -> Result<usize, Fault> {
        let (mut by_channel, mut deleted) = (BTreeMap::<ChannelName, Vec<QuarantineId>>::new(), Vec::new());
        for id in ids.iter().copied().filter(|id| id.shard() == stream.server).collect::<BTreeSet<_>>() {
            match self.record(stream, id).await?.map(|record| record.channel) {
                Some(Some(channel)) => by_channel.entry(channel).or_default().push(id),
                // An entry without a valid channel is never restored.
                Some(None) => deleted.push(id),
                None => {}
            }
        }
        let mut restored = Vec::new();
        for (channel, ids) in by_channel {
            let mut command = scripts::MARK_DELETED.call(&[self.topology.keys.restored(channel.as_str())]);
            command.arg(REMEMBERED_MS).arg(ids.iter().map(|id| id.of_stream()).collect::<Vec<_>>());
            let marked: Vec<bool> = parse(self.run(stream, channel.as_str(), &command).await?)?;
            for (id, is_deleted) in ids.into_iter().zip(marked) {
                if is_deleted { deleted.push(id) } else { restored.push(id) }
            }
        }
        self.remove(stream, &restored).await?;
        self.remove(stream, &deleted).await
    }
}
