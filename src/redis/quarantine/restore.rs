//! Restoring: from quarantine to the head of a channel.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use redis::Value;

use super::{Opened, Quarantine, QuarantineId};
use crate::error::Result;
use crate::name::ChannelName;
use crate::redis::native::scripts;
use crate::redis::native::ttl_refresh::SLACK;
use crate::redis::node::fault::Fault;
use crate::redis::node::shard::Shard;
use crate::redis::quarantine::writer::LIVES_MS;
use crate::redis::send::batch::milliseconds;

/// Bytes after which no further entry is put back in the same call.
const MAX_BYTES: usize = 1 << 20;
/// How long a restored record is remembered: a record may be there for so long, as the last one before the stream expires
/// drops only those that are older than half of it.
const REMEMBERED_MS: u64 = 2 * LIVES_MS;

/// What became of an entry that was to be restored.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Restored {
    /// It is at the head of its channel.
    Restored,
    /// It is not in quarantine any more: another call has restored or deleted it, or it has been there for too long.
    Gone,
    /// It has expired, and stays in quarantine.
    Expired,
    /// This layer cannot read it, for this reason, and it stays in quarantine.
    Unreadable(String),
}

/// An entry that goes back.
struct Returning {
    id: QuarantineId,
    bytes: Vec<u8>,
}

impl Quarantine<'_> {
    /// Puts entries back at the heads of their channels, those of one channel in the order in which they came into
    /// quarantine, whatever its capacity. Returns what became of each, in the order of `ids`.
    ///
    /// An entry keeps its end of life. One that has expired, or that this layer cannot read, stays in quarantine.
    ///
    /// An entry is restored once, however many calls and processes restore it. It goes to its channel first and leaves the
    /// quarantine then: if the process is killed between the two, the entry stays in the list, and the next call only
    /// removes it.
    ///
    /// # Cancel safety
    ///
    /// When dropped, some of the entries may have been restored. None is lost, and another call restores none of them again.
    ///
    /// # Errors
    ///
    /// [`Error::Redis`](crate::Error::Redis) if a server cannot be reached or has no memory; [`Error::Closed`](crate::Error::Closed)
    /// and [`Error::RuntimeEnded`](crate::Error::RuntimeEnded). Some of the entries may have been restored; the same call may be tried again
    /// even if [`may_have_run`](crate::Error::may_have_run) is true.
    pub async fn restore(&self, ids: &[QuarantineId]) -> Result<Vec<Restored>> {
        self.restore_all(ids, false).await
    }

    /// As [`restore`](Self::restore), and gives each entry its whole lifetime anew, expired or not. A sealed entry is
    /// sealed again, with the first key of this layer.
    ///
    /// This gives up the protection from replay for these entries: somebody who may write to Redis can put a copy of an
    /// earlier message there, which would then be delivered a second time. A group message goes to members of its time that
    /// are still members.
    ///
    /// # Cancel safety
    ///
    /// As [`restore`](Self::restore).
    ///
    /// # Errors
    ///
    /// As [`restore`](Self::restore).
    pub async fn restore_anew(&self, ids: &[QuarantineId]) -> Result<Vec<Restored>> {
        self.restore_all(ids, true).await
    }

    async fn restore_all(&self, ids: &[QuarantineId], anew: bool) -> Result<Vec<Restored>> {
        self.closing.check()?;
        let mut outcomes = HashMap::new();
        let mut returning: BTreeMap<(usize, ChannelName), Vec<Returning>> = BTreeMap::new();
        for id in ids.iter().copied().collect::<BTreeSet<_>>() {
            match self.returning(id, anew).await? {
                Ok((channel, entry)) => returning.entry((id.shard(), channel)).or_default().push(entry),
                Err(outcome) => {
                    outcomes.insert(id, outcome);
                }
            }
        }
        for ((shard, channel), mut entries) in returning {
            let shard = &self.topology.shards[shard];
            // The last ones first, because each call puts its entries before those of the call before.
            while !entries.is_empty() {
                let chunk = entries.split_off(last_chunk(&entries));
                let put_back = self.put_back(shard, &channel, &chunk).await.map_err(|fault| shard.error(fault))?;
                outcomes.extend(chunk.iter().map(|entry| entry.id).zip(put_back));
            }
        }
        Ok(ids.iter().filter_map(|id| outcomes.get(id).cloned()).collect())
    }

    /// The channel and the entry of a record that can be restored.
    async fn returning(&self, id: QuarantineId, anew: bool) -> Result<Result<(ChannelName, Returning), Restored>> {
        let Some((shard, record)) = self.find(id).await? else { return Ok(Err(Restored::Gone)) };
        let now = shard.now_ms().map_err(|fault| shard.error(fault))?;
        Ok(match self.open(shard, &record, now) {
            Ok(Opened { channel, entry, .. }) if anew => {
                let bytes = self.envelope.renew(&entry, channel.as_str(), now).to_bytes();
                Ok((channel, Returning { id, bytes }))
            }
            Ok(Opened { expired: true, .. }) => Err(Restored::Expired),
            Ok(Opened { channel, .. }) => Ok((channel, Returning { id, bytes: record.entry.into() })),
            Err(reason) => Err(Restored::Unreadable(reason)),
        })
    }

    /// Puts entries back into the list of a channel, and removes their records.
    async fn put_back(
        &self,
        shard: &Shard,
        channel: &ChannelName,
        entries: &[Returning],
    ) -> Result<Vec<Restored>, Fault> {
        let keys = &self.topology.keys;
        let mut command = scripts::RESTORE.call(&[keys.channel(channel.as_str()), keys.restored(channel.as_str())]);
        command.arg(milliseconds(SLACK)).arg(REMEMBERED_MS);
        for Returning { id, bytes } in entries {
            command.arg(id.of_stream()).arg(&bytes[..]);
        }
        let unexpected = || Fault::unexpected("the script did not return a number for each entry");
        let Value::Array(answers) = shard.run(&command).await? else { return Err(unexpected()) };
        if answers.len() != entries.len() {
            return Err(unexpected());
        }
        let outcome = |answer: &Value| match answer {
            Value::Int(1) => Ok(Restored::Restored),
            Value::Int(0) => Ok(Restored::Gone),
            Value::Int(_) => Ok(Restored::Expired),
            _ => Err(unexpected()),
        };
        let outcomes = answers.iter().map(outcome).collect::<Result<Vec<_>, _>>()?;
        let left = entries.iter().zip(&outcomes).filter(|(_, outcome)| **outcome != Restored::Expired);
        self.remove(shard, &left.map(|(entry, _)| entry.id).collect::<Vec<_>>()).await?;
        Ok(outcomes)
    }
}

/// Where the last chunk begins that goes back in one call.
fn last_chunk(entries: &[Returning]) -> usize {
    let (mut start, mut bytes) = (entries.len(), 0);
    while start > 0 && bytes < MAX_BYTES {
        start -= 1;
        bytes += entries[start].bytes.len();
    }
    start
}
