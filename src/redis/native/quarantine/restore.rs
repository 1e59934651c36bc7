//! Restoring: puts entries from quarantine back at the heads of their channels.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use parking_lot::Mutex;
use redis::Value;

use super::{Opened, Partial, Quarantine, QuarantineId, Stream};
use crate::error::Result;
use crate::name::ChannelName;
use crate::redis::native::quarantine::writer::LIFETIME_MS;
use crate::redis::native::scripts;
use crate::redis::native::send::write::SLACK;
use crate::redis::node::clock::milliseconds;
use crate::redis::node::fault::Fault;

/// How long a restored or deleted record is remembered, in ms: a record may stay in the stream for so long, because the
/// last addition before the stream expires drops only records that are older than half of this time.
pub(super) const REMEMBERED_MS: u64 = 2 * LIFETIME_MS;

/// The outcome of restoring an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Restored {
    /// The entry is at the head of its channel.
    Restored,
    /// The entry is no longer in quarantine: another call has restored or deleted it, or the quarantine has dropped it.
    Gone,
    /// The entry has expired, and stays in quarantine.
    Expired,
    /// This layer cannot read the entry, for this reason. The entry stays in quarantine.
    Unreadable(String),
    /// The server of the entry failed: see [`Partial::errors`]. The entry may have been restored. Another call restores
    /// it if it was not.
    Failed,
}

/// An entry to put back.
struct Restorable {
    id: QuarantineId,
    bytes: Vec<u8>,
}

impl Quarantine<'_> {
    /// Puts entries back at the heads of their channels, whatever the capacity. Entries of one channel keep the order
    /// in which they were quarantined. Returns the outcome for each entry, in the order of `ids`.
    ///
    /// An entry keeps its expiry. An entry that has expired or that this layer cannot read stays in quarantine.
    ///
    /// An entry is restored once, however many calls and processes restore it, and never after a call has deleted it.
    /// It is added to its channel first, and its record is deleted then. If the process is killed between the two
    /// steps, the record stays in quarantine, and the next call only deletes it.
    ///
    /// # Cancel safety
    ///
    /// A dropped call may have restored some of the entries. None is lost, and another call restores none of them
    /// again.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`](crate::Error::Closed) and [`Error::RuntimeEnded`](crate::Error::RuntimeEnded). Within the
    /// result, [`Error::Redis`](crate::Error::Redis) for each server that cannot be reached or has no memory. The same
    /// call may be tried again even if [`may_have_run`](crate::Error::may_have_run) is true.
    pub async fn restore(&self, ids: &[QuarantineId]) -> Result<Partial<Vec<Restored>>> {
        self.restore_all(ids, false).await
    }

    /// Like [`restore`](Self::restore), but gives each entry, expired or not, a new lifetime of the same length. A
    /// sealed entry is sealed again with the first key of this layer.
    ///
    /// This gives up the replay protection of these entries: a program that may write to Redis can add a copy of an
    /// earlier message to the quarantine, which would then be delivered a second time. A group message is delivered to
    /// those members at the time of its send that are still members.
    ///
    /// # Cancel safety
    ///
    /// As [`restore`](Self::restore).
    ///
    /// # Errors
    ///
    /// As [`restore`](Self::restore).
    pub async fn restore_anew(&self, ids: &[QuarantineId]) -> Result<Partial<Vec<Restored>>> {
        self.restore_all(ids, true).await
    }

    async fn restore_all(&self, ids: &[QuarantineId], anew: bool) -> Result<Partial<Vec<Restored>>> {
        let outcomes = Mutex::new(HashMap::new());
        let restored = self.on_every_stream(async |stream| self.restore_on(stream, ids, anew, &outcomes).await).await?;
        let outcomes = outcomes.into_inner();
        let outcome = |id: &QuarantineId| match outcomes.get(id) {
            Some(outcome) => outcome.clone(),
            None if id.shard() < self.servers() => Restored::Failed,
            None => Restored::Gone,
        };
        Ok(restored.map(|_| ids.iter().map(outcome).collect()))
    }

    /// Restores the entries of one server, and adds their outcomes, also if it fails later.
    async fn restore_on(
        &self,
        stream: Stream<'_>,
        ids: &[QuarantineId],
        anew: bool,
        outcomes: &Mutex<HashMap<QuarantineId, Restored>>,
    ) -> Result<(), Fault> {
        let mut restorable: BTreeMap<ChannelName, Vec<Restorable>> = BTreeMap::new();
        for id in ids.iter().copied().filter(|id| id.shard() == stream.server).collect::<BTreeSet<_>>() {
            match self.restorable(stream, id, anew).await? {
                Ok((channel, entry)) => restorable.entry(channel).or_default().push(entry),
                Err(outcome) => drop(outcomes.lock().insert(id, outcome)),
            }
        }
        for (channel, entries) in restorable {
            // One call for all entries of a channel, because a waiting reader takes the first ones at once. They are no
            // larger than the quarantine of a server.
            let put_back = self.put_back(stream, &channel, &entries).await?;
            outcomes.lock().extend(entries.iter().map(|entry| entry.id).zip(put_back));
        }
        Ok(())
    }

    /// Reads a record that is to be restored. Returns its channel and entry, or the outcome if it stays where it is.
    async fn restorable(
        &self,
        stream: Stream<'_>,
        id: QuarantineId,
        anew: bool,
    ) -> Result<Result<(ChannelName, Restorable), Restored>, Fault> {
        let Some(record) = self.record(stream, id).await? else { return Ok(Err(Restored::Gone)) };
        let now = stream.shard.now_ms()?;
        Ok(match self.open(stream, &record, now) {
            Ok(Opened { channel, entry, .. }) if anew => {
                let bytes = self.codec.renew(&entry, channel.as_str(), now).to_bytes();
                Ok((channel, Restorable { id, bytes }))
            }
            Ok(Opened { expired: true, .. }) => Err(Restored::Expired),
            Ok(Opened { channel, .. }) => Ok((channel, Restorable { id, bytes: record.entry.into() })),
            Err(reason) => Err(Restored::Unreadable(reason)),
        })
    }

    /// Puts entries back into the list of a channel, and deletes their records.
    async fn put_back(
        &self,
        stream: Stream<'_>,
        channel: &ChannelName,
        entries: &[Restorable],
    ) -> Result<Vec<Restored>, Fault> {
        let keys = &self.topology.keys;
        let mut command = scripts::RESTORE.call(&[keys.channel(channel.as_str()), keys.restored(channel.as_str())]);
        command.arg(milliseconds(SLACK)).arg(REMEMBERED_MS);
        for Restorable { id, bytes } in entries {
            command.arg(id.of_stream()).arg(&bytes[..]);
        }
        let unexpected = || Fault::unexpected("the script did not return a number for each entry");
        let Value::Array(answers) = self.run(stream, channel.as_str(), &command).await? else {
            return Err(unexpected());
        };
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
        let done = entries.iter().zip(&outcomes).filter(|(_, outcome)| **outcome != Restored::Expired);
        self.remove(stream, &done.map(|(entry, _)| entry.id).collect::<Vec<_>>()).await?;
        Ok(outcomes)
    }
}
