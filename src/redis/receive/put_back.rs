//! `PutBack`: entries that no consumer took, on their way back into Redis.

use std::task::Waker;
use std::time::Duration;

use tokio::time::Instant;

use super::buffer::buffered_entry::BufferedEntry;
use super::reader::context::ReaderContext;
use super::reader::{Reader, State};
use crate::drops::{DropReason, Drops};
use crate::redis::node::fault::Fault;
use crate::redis::receive::raw::TASK;
use crate::redis::topology::places::{Failure, Places};
use crate::supervise::contained;

/// The most bytes and entries that one call puts back.
const MAX_BYTES: usize = 1 << 20;
const MAX_ENTRIES: usize = 1000;
/// The pause between attempts on a server that is up and refuses.
const PAUSE: Duration = Duration::from_millis(10);

/// Entries that a reader puts back. On drop, those that are left return to the buffer of the reader, where they are
/// counted if the runtime ends.
pub(crate) struct PutBack<'r> {
    reader: &'r Reader,
    /// Entries that have not been put back. Those of one channel and shard are together and in order.
    entries: Vec<BufferedEntry>,
    /// Entries that are certainly not in Redis, because their server is unreachable or refuses them.
    kept: Vec<BufferedEntry>,
    /// A shard whose entries are kept, and the cause.
    pub(crate) refused: Option<(usize, Fault)>,
    /// A shard whose entries may be lost, and the cause.
    pub(crate) lost: Option<(usize, Fault)>,
    dropped: Drops,
}

impl<'r> PutBack<'r> {
    /// Takes the entries that match `chosen` out of the buffer of `reader`, whose state is `state`.
    pub(crate) fn take(reader: &'r Reader, state: &mut State, chosen: impl Fn(&BufferedEntry) -> bool) -> Self {
        let (entries, others) = state.buffer.take_all().into_iter().partition::<Vec<_>, _>(chosen);
        state.buffer.prepend(others);
        let (kept, dropped) = (Vec::new(), Drops::default());
        let entries = by_channel(&reader.context.places, entries);
        Self { reader, entries, kept, refused: None, lost: None, dropped }
    }

    /// Puts the entries back at the heads of their channels, in order. An attempt that has certainly put nothing back
    /// is repeated; the last attempt is at `deadline`.
    pub(crate) async fn run(&mut self, deadline: Instant) {
        // The last chunk first, because each call puts its entries before those of the previous call.
        let reader = self.reader;
        let context = &reader.context;
        while let Some(last) = self.entries.last() {
            let shard = last.shard.index;
            let is_other = |entry: &BufferedEntry| !same_list(&context.places, entry, last);
            let others = self.entries.iter().rposition(is_other).map_or(0, |index| index + 1);
            let start = others + last_chunk(&self.entries[others..]);
            let chunk = &self.entries[start..];
            let put_back = contained(TASK, put_back_chunk(context, chunk, deadline)).await;
            match put_back.unwrap_or_else(|| Err((shard, Fault::panicked()))) {
                Ok(expired) => {
                    self.entries.truncate(start);
                    self.dropped.add(DropReason::Expired, expired);
                }
                Err((shard, fault)) if fault.may_have_run => {
                    let undelivered = self.entries.drain(start..).map(|entry| entry.undelivered()).sum();
                    self.dropped.add(DropReason::Unconfirmed, undelivered);
                    self.lost = Some((shard, fault));
                }
                Err((shard, fault)) => {
                    self.kept.extend(self.entries.drain(others..));
                    self.refused = Some((shard, fault));
                }
            }
        }
    }

    /// Whether entries are left that a server did not take.
    pub(crate) fn has_kept(&self) -> bool {
        !self.kept.is_empty()
    }

    /// Drops the entries that a server did not take.
    pub(crate) fn drop_kept(&mut self) {
        let undelivered = self.kept.drain(..).map(|entry| entry.undelivered()).sum();
        self.dropped.add(DropReason::ShardDown, undelivered);
    }
}

impl Drop for PutBack<'_> {
    fn drop(&mut self) {
        // The entries of one channel and shard are either all kept or all left.
        self.entries.append(&mut self.kept);
        let (entries, dropped) = (std::mem::take(&mut self.entries), std::mem::take(&mut self.dropped));
        // A consumer may have begun to wait when the buffer was empty.
        let woken = self.reader.state().change_buffer(|buffer| {
            buffer.dropped.append(dropped);
            buffer.prepend(entries);
        });
        woken.into_iter().for_each(Waker::wake);
    }
}

/// Brings the entries of each channel and shard together. Their order does not change.
fn by_channel(places: &Places, entries: Vec<BufferedEntry>) -> Vec<BufferedEntry> {
    let mut groups: Vec<Vec<BufferedEntry>> = Vec::new();
    for entry in entries {
        match groups.iter_mut().find(|group| same_list(places, &group[0], &entry)) {
            Some(group) => group.push(entry),
            None => groups.push(vec![entry]),
        }
    }
    groups.into_iter().flatten().collect()
}

/// Whether two entries were in one list. In a cluster the list may have moved to another shard between two reads.
fn same_list(places: &Places, one: &BufferedEntry, other: &BufferedEntry) -> bool {
    one.list() == other.list() && (places.is_cluster() || one.shard.index == other.shard.index)
}

/// The index at which the last chunk for one call begins.
fn last_chunk(entries: &[BufferedEntry]) -> usize {
    let (mut start, mut bytes) = (entries.len(), 0);
    while start > 0 && bytes < MAX_BYTES && entries.len() - start < MAX_ENTRIES {
        start -= 1;
        bytes += entries[start].size();
    }
    start
}

/// Puts entries of one list back. Returns how many had expired.
async fn put_back_chunk(
    context: &ReaderContext,
    entries: &[BufferedEntry],
    deadline: Instant,
) -> Result<usize, Failure> {
    let (shard, name) = (&entries[0].shard, entries[0].list());
    let (format, places) = (&*context.format, &context.places);
    let command = format.put_back(&format.key(name), entries);
    loop {
        match places.routing(shard, name).until(deadline).run_once(&command).await {
            Ok(redis::Value::Int(expired)) => return Ok(usize::try_from(expired).unwrap_or(0)),
            Ok(_) => return Ok(0),
            Err(failure) if !failure.1.is_retryable() || Instant::now() >= deadline => return Err(failure),
            Err(failure) => {
                tokio::time::timeout_at(deadline, places.up(shard, name)).await.map_err(|_| failure)?;
                // A server that is up may keep refusing. Then `up` returns at once, and only this pause slows the loop
                // down.
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
