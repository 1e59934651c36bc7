//! Putting entries that no consumer took back into Redis.

use std::time::Duration;

use tokio::time::Instant;

use super::format::ReadFormat;
use super::panic::TASK;
use crate::drops::{self, DropReason};
use crate::redis::node::fault::Fault;
use crate::redis::receive::buffer::entry::BufferedEntry;
use crate::supervise::contained;

/// The most bytes and entries that one call puts back.
const MAX_BYTES: usize = 1 << 20;
const MAX_ENTRIES: usize = 1000;
/// The pause between attempts on a server that is up and refuses.
const PAUSE: Duration = Duration::from_millis(10);

/// The outcome of a put-back.
#[derive(Default)]
pub(crate) struct PutBack {
    /// Entries that are certainly not in Redis, because their server is unreachable or refuses them.
    pub(crate) kept: Vec<BufferedEntry>,
    /// A shard whose entries are kept, and the cause.
    pub(crate) refused: Option<(usize, Fault)>,
    /// A shard whose entries may be lost, and the cause.
    pub(crate) lost: Option<(usize, Fault)>,
}

/// Puts entries back at the heads of their channels, in order. An attempt that has certainly put nothing back is repeated; the last
/// attempt is at `deadline`.
pub(crate) async fn put_back(format: &dyn ReadFormat, entries: Vec<BufferedEntry>, deadline: Instant) -> PutBack {
    let mut result = PutBack::default();
    for mut entries in by_channel(entries) {
        // The last chunk first, because each call puts its entries before those of the previous call.
        while !entries.is_empty() {
            let chunk = entries.split_off(last_chunk(&entries));
            let put_back = contained(TASK, put_back_chunk(format, &chunk, deadline)).await;
            match put_back.unwrap_or_else(|| Err(Fault::panicked())) {
                Ok(()) => {}
                Err(fault) if fault.may_have_run => {
                    drops::count(DropReason::ShardDown, chunk.iter().map(BufferedEntry::undelivered).sum());
                    result.lost = Some((chunk[0].shard.index, fault));
                }
                Err(fault) => {
                    result.refused = Some((chunk[0].shard.index, fault));
                    result.kept.append(&mut entries);
                    result.kept.extend(chunk);
                }
            }
        }
    }
    result
}

/// Groups entries by channel and shard. The order within a group is that of `entries`.
fn by_channel(entries: Vec<BufferedEntry>) -> Vec<Vec<BufferedEntry>> {
    let mut groups: Vec<Vec<BufferedEntry>> = Vec::new();
    for entry in entries {
        let same = |group: &&mut Vec<BufferedEntry>| {
            group[0].source == entry.source && group[0].shard.index == entry.shard.index
        };
        match groups.iter_mut().find(same) {
            Some(group) => group.push(entry),
            None => groups.push(vec![entry]),
        }
    }
    groups
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

async fn put_back_chunk(format: &dyn ReadFormat, entries: &[BufferedEntry], deadline: Instant) -> Result<(), Fault> {
    let BufferedEntry { shard, source, .. } = &entries[0];
    let command = format.put_back(&format.key(source.non_local()), entries);
    loop {
        match shard.run_once(&command).await {
            Ok(answer) => {
                if let redis::Value::Int(expired) = answer {
                    drops::count(DropReason::Expired, usize::try_from(expired).unwrap_or(0));
                }
                return Ok(());
            }
            Err(fault) if fault.may_have_run || Instant::now() >= deadline => return Err(fault),
            Err(fault) => {
                tokio::time::timeout_at(deadline, shard.up()).await.map_err(|_| fault)?;
                // A server that is up may keep refusing. Then `up` returns at once, and only this pause slows the loop down.
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
