//! `Counters`: how many messages were sent and refused. They are summed in the process and written to each server at most once
//! a second.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use redis::Cmd;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::layer::Reasons;
use crate::name::{ChannelKind, ChannelName};
use crate::redis::native::keys::Keys;
use crate::redis::native::scripts;
use crate::redis::node::clock::milliseconds;
use crate::redis::node::shard::Shard;
use crate::redis::send::{Batch, Pushed};
use crate::supervise::contained;

/// How long counts are summed before they are written.
const PERIOD: Duration = Duration::from_secs(1);
/// The most channels of one call.
const CHANNELS_PER_WRITE: usize = 200;
/// How long the counters of a channel, and the counters of all channels, outlive the last send.
const CHANNEL_LIFETIME: Duration = Duration::from_hours(1);
const TOTAL_LIFETIME: Duration = Duration::from_hours(24);

/// The counters of the channels on one server.
#[derive(Debug)]
pub(crate) struct Counters {
    sums: Arc<Sums>,
    requests: mpsc::UnboundedSender<oneshot::Sender<()>>,
}

#[derive(Debug)]
struct Sums {
    /// By the non-local part of the channel. Held only to add counts or to take them.
    unwritten: Mutex<HashMap<Box<str>, Counts>>,
    /// Notified when the first count is added.
    added: Notify,
}

/// What one process has counted on one channel and not written.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    sent: u64,
    refused: u64,
    /// Whether the channel has a `?` in its name.
    is_single_use: bool,
}

/// Writes the counters of one server.
struct Writer {
    sums: Arc<Sums>,
    shard: Arc<Shard>,
    keys: Keys,
    /// How long the counters of a `?` channel live: its name is made for one purpose, and counters of such names would pile up.
    single_use_lifetime: Duration,
    /// Why the server refused counts for good, as the log has reported it.
    reported: Reasons,
}

impl Counters {
    /// Returns the counters and the future of their task. After `work_ended` is cancelled, the task writes what is left and ends.
    pub(crate) fn new(
        shard: &Arc<Shard>,
        keys: &Keys,
        list_lifetime: Duration,
        work_ended: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + use<>) {
        let (requests, requested) = mpsc::unbounded_channel();
        let sums = Arc::new(Sums { unwritten: Mutex::default(), added: Notify::new() });
        let writer = Writer {
            sums: sums.clone(),
            shard: shard.clone(),
            keys: keys.clone(),
            single_use_lifetime: list_lifetime.min(CHANNEL_LIFETIME),
            reported: Reasons::default(),
        };
        (Self { sums, requests }, writer.run(requested, work_ended))
    }

    /// Counts the messages of a batch that was written. A refusal counts if no other server is tried.
    pub(crate) fn add<B>(&self, batch: &Batch<B>, pushed: &Pushed) {
        let mut unwritten = self.sums.unwritten.lock();
        let was_empty = unwritten.is_empty();
        for (run, accepted) in batch.runs().iter().zip(pushed.accepted()) {
            let Ok(accepted) = usize::try_from(*accepted) else { continue };
            let refused = if run[0].is_final { run.len().saturating_sub(accepted) } else { 0 };
            if accepted + refused > 0 {
                let channel = &run[0].channel;
                let added = Counts::new(channel, accepted as u64, refused as u64);
                match unwritten.get_mut(channel.non_local()) {
                    Some(counts) => counts.add(added),
                    None => _ = unwritten.insert(channel.non_local().into(), added),
                }
            }
        }
        if was_empty && !unwritten.is_empty() {
            self.sums.added.notify_one();
        }
    }

    /// Writes the counts so far. Those that cannot be written now are written later.
    pub(crate) async fn write(&self) {
        let (written, done) = oneshot::channel();
        // Both fail only if the task has ended.
        let _ = self.requests.send(written);
        let _ = done.await;
    }
}

impl Counts {
    fn new(channel: &ChannelName, sent: u64, refused: u64) -> Self {
        Self { sent, refused, is_single_use: channel.kind() == ChannelKind::SingleReader }
    }

    fn add(&mut self, other: Self) {
        self.sent += other.sent;
        self.refused += other.refused;
    }
}

impl Writer {
    async fn run(mut self, mut requests: mpsc::UnboundedReceiver<oneshot::Sender<()>>, work_ended: CancellationToken) {
        loop {
            let due = async {
                self.sums.added.notified().await;
                tokio::time::sleep(PERIOD).await;
            };
            let request = tokio::select! {
                biased;
                Some(request) = requests.recv() => Some(request),
                () = work_ended.cancelled() => break,
                () = due => None,
            };
            self.write_contained().await;
            drop(request);
        }
        self.write_contained().await;
    }

    async fn write_contained(&mut self) {
        contained("counters", self.write()).await;
    }

    async fn write(&mut self) {
        let mut unwritten: Vec<_> = std::mem::take(&mut *self.sums.unwritten.lock()).into_iter().collect();
        while !unwritten.is_empty() {
            let chunk = unwritten.split_off(unwritten.len().saturating_sub(CHANNELS_PER_WRITE));
            let Err(fault) = self.shard.run_once(&self.command(&chunk)).await else { continue };
            let (may_have_run, transient) = (fault.may_have_run, fault.transient);
            let reason = self.shard.error(fault).to_string();
            if !transient {
                // The counts are dropped: the server may accept sends and refuse counts for as long as the process runs.
                if self.reported.is_new(&reason) {
                    warn!(
                        shard = self.shard.index,
                        reason, "statistics cannot be written, and their counts are dropped"
                    );
                }
                continue;
            }
            // Counts that may have been written are not written again.
            if !may_have_run {
                unwritten.extend(chunk);
            }
            debug!(shard = self.shard.index, reason, "counters could not be written");
            return self.keep_unwritten(unwritten);
        }
    }

    fn command(&self, chunk: &[(Box<str>, Counts)]) -> Cmd {
        let channels = chunk.iter().map(|(channel, _)| self.keys.channel_stats(channel));
        let keys: Vec<_> = channels.chain([self.keys.global_stats()]).collect();
        let mut command = scripts::COUNT.call(&keys);
        let mut total = Counts::default();
        for (_, counts) in chunk {
            let lifetime = if counts.is_single_use { self.single_use_lifetime } else { CHANNEL_LIFETIME };
            command.arg(counts.sent).arg(counts.refused).arg(milliseconds(lifetime));
            total.add(*counts);
        }
        command.arg(total.sent).arg(total.refused).arg(milliseconds(TOTAL_LIFETIME));
        command
    }

    fn keep_unwritten(&self, counts: Vec<(Box<str>, Counts)>) {
        let mut unwritten = self.sums.unwritten.lock();
        for (channel, counts) in counts {
            unwritten.entry(channel).and_modify(|newer| newer.add(counts)).or_insert(counts);
        }
        if !unwritten.is_empty() {
            self.sums.added.notify_one();
        }
    }
}
