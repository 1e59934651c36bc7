//! `QuarantineWriter`: moves unreadable entries to a bounded stream on the same server.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{broadcast, mpsc};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::layer::Event;
use crate::name::ChannelName;
use crate::redis::native::scripts;
use crate::redis::native::topology::Topology;
use crate::redis::node::shard::Shard;
use crate::supervise::contained;

/// The most records of a shard, and the most bytes of all of them. The oldest records are dropped.
const MAX_RECORDS: usize = 256;
const MAX_BYTES: usize = 16 << 20;
/// How long a record is kept, in ms: an operator may look at it only after a weekend.
pub(crate) const LIFETIME_MS: u64 = 3 * 86_400_000;
/// The most entries that wait to be written. Further ones are counted as dropped and not kept.
const QUEUE_CAPACITY: usize = 1024;
/// The most causes that are logged, each once. An attacker could otherwise fill the log with new ones.
const MAX_CAUSES: usize = 256;

/// Writes unreadable entries to the quarantine stream in the background.
#[derive(Debug)]
pub(crate) struct QuarantineWriter {
    queue: mpsc::Sender<Unreadable>,
}

struct Unreadable {
    shard: Arc<Shard>,
    source: ChannelName,
    entry: Bytes,
    reason: String,
}

impl QuarantineWriter {
    /// Returns the writer and the future of its task. After `work_ended` is cancelled, the task writes the waiting
    /// entries and ends.
    pub(crate) fn new(
        topology: &Arc<Topology>,
        events: broadcast::Sender<Event>,
        work_ended: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + use<>) {
        let (queue, waiting) = mpsc::channel(QUEUE_CAPACITY);
        (Self { queue }, write(waiting, topology.clone(), events, work_ended))
    }

    /// Queues `entry`, which was in the list of `source` and could not be read for `reason`.
    pub(crate) fn keep(&self, shard: &Arc<Shard>, source: &ChannelName, entry: Bytes, reason: String) {
        // A full queue means a flood of bad entries. The first ones are enough for a diagnosis.
        let _ = self.queue.try_send(Unreadable { shard: shard.clone(), source: source.clone(), entry, reason });
    }
}

async fn write(
    mut waiting: mpsc::Receiver<Unreadable>,
    topology: Arc<Topology>,
    events: broadcast::Sender<Event>,
    work_ended: CancellationToken,
) {
    let mut logged = HashSet::new();
    loop {
        let next = tokio::select! {
            biased;
            next = waiting.recv() => next,
            () = work_ended.cancelled(), if !waiting.is_closed() => {
                waiting.close();
                continue;
            }
        };
        let Some(unreadable) = next else { return };
        let keeping = async {
            let Unreadable { shard, reason, .. } = &unreadable;
            if logged.len() < MAX_CAUSES && logged.insert((shard.index, reason.clone())) {
                warn!(shard = shard.index, host = shard.host(), reason, "unreadable entries are moved to quarantine");
                let _ = events.send(Event::Quarantined { shard: shard.index, reason: reason.clone() });
            }
            // A record larger than the whole stream may be would displace all others.
            if unreadable.entry.len() <= MAX_BYTES {
                keep(&topology, &unreadable).await;
            }
        };
        contained("quarantine", keeping).await;
    }
}

async fn keep(topology: &Topology, unreadable: &Unreadable) {
    let Unreadable { shard, source, entry, reason } = unreadable;
    let key = topology.keys.quarantine();
    let mut command = scripts::QUARANTINE.call(&[&key]);
    command.arg(source.as_str()).arg(reason).arg(&entry[..]).arg(MAX_RECORDS).arg(MAX_BYTES).arg(LIFETIME_MS);
    if let Err((shard, fault)) = topology.run_once_on(shard, &key, &command).await {
        warn!(shard, fault = %topology.error(shard, fault), "an unreadable entry could not be moved to quarantine");
    }
}
