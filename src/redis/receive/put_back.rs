//! Giving back what was popped and not handed over.

use std::time::Duration;

use tokio::time::Instant;

use super::parcel::Parcel;
use crate::drops::{self, DropReason};
use crate::redis::fault::Fault;
use crate::redis::script;
use crate::redis::topology::Topology;

/// The most bytes and entries that are put back in one call.
const MAX_BYTES: usize = 1 << 20;
const MAX_ENTRIES: usize = 1000;
/// The pause before another attempt on a server that is up and refuses.
const PAUSE: Duration = Duration::from_millis(10);

/// Puts parcels back, each at the head of its channel in the order in which they stand. Gives the shard and the reason
/// if some are lost.
pub(super) async fn put_back(topology: &Topology, parcels: Vec<Parcel>) -> Option<(usize, Fault)> {
    let mut by_channel: Vec<Vec<Parcel>> = Vec::new();
    for parcel in parcels {
        let home = |parcels: &&mut Vec<Parcel>| {
            parcels[0].source == parcel.source && parcels[0].shard.index == parcel.shard.index
        };
        match by_channel.iter_mut().find(home) {
            Some(parcels) => parcels.push(parcel),
            None => by_channel.push(vec![parcel]),
        }
    }
    let mut lost = None;
    for mut parcels in by_channel {
        // The last ones first, because each call puts its entries before those of the call before.
        while !parcels.is_empty() {
            let (mut start, mut bytes) = (parcels.len(), 0);
            while start > 0 && bytes < MAX_BYTES && parcels.len() - start < MAX_ENTRIES {
                start -= 1;
                bytes += parcels[start].to_bytes().len();
            }
            let chunk = parcels.split_off(start);
            if let Err(fault) = put_back_to_one(topology, &chunk).await {
                drops::count(DropReason::ShardDown, chunk.iter().map(Parcel::left).sum());
                lost = Some((chunk[0].shard.index, fault));
            }
        }
    }
    lost
}

/// Puts parcels of one channel back; tries again as long as it is known that nothing was put back.
async fn put_back_to_one(topology: &Topology, parcels: &[Parcel]) -> Result<(), Fault> {
    let Parcel { shard, source, .. } = &parcels[0];
    let mut command = script::PUT_BACK.call(&[topology.keys.channel(source.non_local())]);
    for parcel in parcels {
        command.arg(parcel.to_bytes());
    }
    let deadline = Instant::now() + shard.command_timeout();
    loop {
        match shard.run(&command).await {
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
