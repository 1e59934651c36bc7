//! Moves entries that no reader can read to a bounded stream beside the channels.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{broadcast, mpsc};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::layer::Event;
use crate::name::ChannelName;
use crate::redis::native::keys::Keys;
use crate::redis::native::scripts;
use crate::redis::node::shard::Shard;
use crate::supervise::contained;

/// How many records a shard keeps at most, and how many bytes they may take together. The oldest ones are dropped.
const KEPT: usize = 256;
const KEPT_BYTES: usize = 16 << 20;
/// How long a record is kept: an operator may look only after a weekend.
pub(crate) const LIVES_MS: u64 = 3 * 86_400_000;
/// Entries that wait to be written. What comes faster is counted as dropped and not kept.
const WAITING: usize = 1024;
/// Different causes that are told apart; beyond them nothing is logged, as each would be an attacker's choice.
const CAUSES: usize = 256;

/// Takes unreadable entries and writes them to quarantine in the background.
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
    /// The writer and its task that writes, which ends with `closing` once it has written what waits.
    pub(crate) fn new(
        keys: &Keys,
        events: broadcast::Sender<Event>,
        closing: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + use<>) {
        let (queue, waiting) = mpsc::channel(WAITING);
        (Self { queue }, write(waiting, keys.quarantine(), events, closing))
    }

    /// Keeps `entry` from the list of `source`, which could not be read for `reason`.
    pub(crate) fn keep(&self, shard: &Arc<Shard>, source: &ChannelName, entry: Bytes, reason: String) {
        // A full queue means a flood of bad entries, of which the first ones tell enough.
        let _ = self.queue.try_send(Unreadable { shard: shard.clone(), source: source.clone(), entry, reason });
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
        let Some(unreadable) = next else { return };
        let keeping = async {
            let Unreadable { shard, reason, .. } = &unreadable;
            if told.len() < CAUSES && told.insert((shard.index, reason.clone())) {
                warn!(shard = shard.index, host = shard.host(), reason, "entries that cannot be read go to quarantine");
                let _ = events.send(Event::Quarantined { shard: shard.index, reason: reason.clone() });
            }
            // One that is larger than all may be together would push out every other.
            if unreadable.entry.len() <= KEPT_BYTES {
                keep(&key, &unreadable).await;
            }
        };
        contained("quarantine", keeping).await;
    }
}

async fn keep(key: &str, unreadable: &Unreadable) {
    let Unreadable { shard, source, entry, reason } = unreadable;
    let mut command = scripts::QUARANTINE.call(&[key]);
    command.arg(source.as_str()).arg(reason).arg(&entry[..]).arg(KEPT).arg(KEPT_BYTES).arg(LIVES_MS);
    if let Err(fault) = shard.run_once(&command).await {
        warn!(shard = shard.index, host = shard.host(), fault = %shard.error(fault), "an unreadable entry could not be kept");
    }
}
