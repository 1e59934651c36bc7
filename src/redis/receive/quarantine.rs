//! Where entries go that are no message of ours: a bounded list beside the channels, for somebody to look at.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{broadcast, mpsc};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::layer::Event;
use crate::redis::keys::Keys;
use crate::redis::shard::Shard;
use crate::supervise::contained;

/// The most entries that a shard's list keeps, older ones falling out, and the largest: 256 MiB at the worst.
const KEPT: isize = 256;
const LARGEST: usize = 1 << 20;
/// How long the list outlives the last entry that came: long enough for somebody to see it the next morning.
const LIVES_MS: u64 = 3 * 86_400_000;
/// Entries that wait to be written. What comes faster is counted as dropped and not kept.
const WAITING: usize = 1024;
/// Different causes that are told apart; beyond them nothing is logged, as each would be an attacker's choice.
const CAUSES: usize = 256;

/// Takes unreadable entries and writes them away in the background.
#[derive(Debug)]
pub(in crate::redis) struct Quarantine {
    queue: mpsc::Sender<Unreadable>,
}

struct Unreadable {
    shard: Arc<Shard>,
    entry: Bytes,
    reason: String,
}

impl Quarantine {
    /// The quarantine and the task that writes, which ends with `closing` once it has written what waits.
    pub(in crate::redis) fn new(
        keys: &Keys,
        events: broadcast::Sender<Event>,
        closing: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + use<>) {
        let (queue, waiting) = mpsc::channel(WAITING);
        (Self { queue }, write(waiting, keys.quarantine(), events, closing))
    }

    /// Keeps `entry`, which could not be read for `reason`.
    pub(super) fn keep(&self, shard: &Arc<Shard>, entry: Bytes, reason: String) {
        // A full queue means a flood of bad entries, of which the first ones tell enough.
        let _ = self.queue.try_send(Unreadable { shard: shard.clone(), entry, reason });
    }
}

async fn write(
    mut waiting: mpsc::Receiver<Unreadable>,
    key: String,
    events: broadcast::Sender<Event>,
    closing: CancellationToken,
) {
    let mut told = HashSet::new();
    loop {
        let next = tokio::select! {
            biased;
            next = waiting.recv() => next,
            () = closing.cancelled(), if !waiting.is_closed() => {
                waiting.close();
                continue;
            }
        };
        let Some(Unreadable { shard, entry, reason }) = next else { return };
        let keeping = async {
            if told.len() < CAUSES && told.insert((shard.index, reason.clone())) {
                warn!(shard = shard.index, host = shard.host(), reason, "entries that cannot be read go to quarantine");
                let _ = events.send(Event::Quarantined { shard: shard.index, reason });
            }
            if entry.len() <= LARGEST {
                keep(&shard, &key, &entry).await;
            }
        };
        contained("quarantine", keeping).await;
    }
}

async fn keep(shard: &Shard, key: &str, entry: &[u8]) {
    let mut commands = redis::pipe();
    commands.cmd("LPUSH").arg(key).arg(entry);
    commands.cmd("LTRIM").arg(key).arg(0).arg(KEPT - 1);
    commands.cmd("PEXPIRE").arg(key).arg(LIVES_MS);
    if let Err(fault) = shard.run_all_once(&commands).await {
        warn!(shard = shard.index, host = shard.host(), fault = %shard.error(fault), "an unreadable entry could not be kept");
    }
}
