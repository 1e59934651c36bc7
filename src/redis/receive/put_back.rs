//! Giving back what was popped and not handed over.

use std::time::Duration;

use tokio::time::Instant;

use super::format::ReadFormat;
use super::reader::TASK;
use crate::drops::{self, DropReason};
use crate::redis::node::fault::Fault;
use crate::redis::receive::buffer::entry::BufferedEntry;
use crate::supervise::contained;

/// The most bytes and entries that are put back in one call.
const MAX_BYTES: usize = 1 << 20;
const MAX_ENTRIES: usize = 1000;
/// The pause before another attempt on a server that is up and refuses.
const PAUSE: Duration = Duration::from_millis(10);

/// What became of parcels that were to go back.
#[derive(Default)]
pub(crate) struct PutBack {
    /// Still here: their server is away or refuses, and surely has not got them.
    pub(crate) kept: Vec<BufferedEntry>,
    /// The shard that they are kept for, and why.
    pub(crate) refused: Option<(usize, Fault)>,
    /// A shard whose parcels may be lost, and why.
    pub(crate) lost: Option<(usize, Fault)>,
}

/// Puts parcels back, each at the head of its channel in the order in which they stand. As long as it is known that nothing
/// was put back it is tried again, for the last time at `deadline`.
pub(crate) async fn put_back(format: &dyn ReadFormat, parcels: Vec<BufferedEntry>, deadline: Instant) -> PutBack {
    let mut by_channel: Vec<Vec<BufferedEntry>> = Vec::new();
    for parcel in parcels {
        let home = |parcels: &&mut Vec<BufferedEntry>| {
            parcels[0].source == parcel.source && parcels[0].shard.index == parcel.shard.index
        };
        match by_channel.iter_mut().find(home) {
            Some(parcels) => parcels.push(parcel),
            None => by_channel.push(vec![parcel]),
        }
    }
    let mut result = PutBack::default();
    for mut parcels in by_channel {
        // The last ones first, because each call puts its entries before those of the call before.
        while !parcels.is_empty() {
            let chunk = parcels.split_off(last_chunk(&parcels));
            let put_back = contained(TASK, put_back_chunk(format, &chunk, deadline)).await;
            match put_back.unwrap_or_else(|| Err(Fault::panicked())) {
                Ok(()) => {}
                Err(fault) if fault.may_have_run => {
                    drops::count(DropReason::ShardDown, chunk.iter().map(BufferedEntry::left).sum());
                    result.lost = Some((chunk[0].shard.index, fault));
                }
                Err(fault) => {
                    result.refused = Some((chunk[0].shard.index, fault));
                    result.kept.append(&mut parcels);
                    result.kept.extend(chunk);
                }
            }
        }
    }
    result
}

/// Where the last chunk begins that goes back in one call.
fn last_chunk(parcels: &[BufferedEntry]) -> usize {
    let (mut start, mut bytes) = (parcels.len(), 0);
    while start > 0 && bytes < MAX_BYTES && parcels.len() - start < MAX_ENTRIES {
        start -= 1;
        bytes += parcels[start].size();
    }
    start
}

async fn put_back_chunk(format: &dyn ReadFormat, parcels: &[BufferedEntry], deadline: Instant) -> Result<(), Fault> {
    let BufferedEntry { shard, source, .. } = &parcels[0];
    let command = format.put_back(&format.key(source.non_local()), parcels);
    loop {
        match shard.run_once(&command).await {
            Ok(answer) => {
                if let redis::Value::Int(expired) = answer {
                    drops::count(DropReason::Expired, usize::try_from(expired).unwrap_or(0));
                }
                return Ok(());
            }
            // A server that is up may go on refusing, and then waiting for it takes no time.
            Err(fault) if fault.may_have_run || Instant::now() >= deadline => return Err(fault),
            Err(fault) => {
                tokio::time::timeout_at(deadline, shard.up()).await.map_err(|_| fault)?;
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
