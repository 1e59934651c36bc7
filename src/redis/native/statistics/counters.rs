//! `Counters`: how many messages were sent and refused. They are summed in the process and written to each server, or
//! to a cluster, at most once a second.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join;
use futures_util::stream::{self, StreamExt};
use parking_lot::Mutex;
use redis::Cmd;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::layer::Reasons;
use crate::name::{ChannelKind, ChannelName};
use crate::redis::native::scripts;
use crate::redis::native::topology::Topology;
use crate::redis::node::clock::milliseconds;
use crate::redis::node::fault::Fault;
use crate::redis::node::shard::Shard;
use crate::redis::send::{Batch, Pushed};
use crate::redis::topology::places::Failure;
use crate::supervise::contained;

/// How long counts are summed before they are written.
const PERIOD: Duration = Duration::from_secs(1);
/// The most channels of one call.
const CHANNELS_PER_WRITE: usize = 200;
/// How long the counters of a channel, and the counters of all channels, outlive the last send.
const CHANNEL_LIFETIME: Duration = Duration::from_hours(1);
const TOTAL_LIFETIME: Duration = Duration::from_hours(24);

/// The counters of the channels on one server, or in a cluster.
#[derive(Debug)]
pub(crate) struct Counters {
    sums: Arc<Sums>,
    requests: mpsc::UnboundedSender<oneshot::Sender<()>>,
}

#[derive(Debug)]
struct Sums {
    /// Held only to add counts or to take them.
    unwritten: Mutex<Unwritten>,
    /// Notified when the first count is added.
    added: Notify,
}

/// Counts that have not been written.
#[derive(Debug, Default)]
struct Unwritten {
    /// By the non-local part of the channel.
    channels: HashMap<Box<str>, Counts>,
    /// For the hash of all channels. A cluster has it in a slot of its own, so it may have been written without a
    /// channel, or the other way round.
    total: Counts,
}

/// What one process has counted on one channel and not written.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    sent: u64,
    refused: u64,
    /// Whether the channel has a `?` in its name.
    is_single_use: bool,
}

/// Writes the counters of one server, or of a cluster.
struct Writer {
    sums: Arc<Sums>,
    /// The server. Not used in a cluster.
    shard: Arc<Shard>,
    topology: Arc<Topology>,
    /// How long the counters of a `?` channel live: its name is made for one purpose, and counters of such names would
    /// pile up.
    single_use_lifetime: Duration,
    /// Why counts have been refused for good since all were last accepted, as the log has reported it.
    reported: Reasons,
    /// Whether a part of the present write has failed.
    has_failed: bool,
}

impl Counters {
    /// Returns the counters and the future of their task. After `work_ended` is cancelled, the task writes what is left
    /// and ends.
    pub(crate) fn new(
        shard: &Arc<Shard>,
        topology: &Arc<Topology>,
        list_lifetime: Duration,
        work_ended: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + use<>) {
        let (requests, requested) = mpsc::unbounded_channel();
        let sums = Arc::new(Sums { unwritten: Mutex::default(), added: Notify::new() });
        let writer = Writer {
            sums: sums.clone(),
            shard: shard.clone(),
            topology: topology.clone(),
            single_use_lifetime: list_lifetime.min(CHANNEL_LIFETIME),
            reported: Reasons::default(),
            has_failed: false,
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
                unwritten.add(channel.non_local(), Counts::new(channel, accepted as u64, refused as u64));
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

/// Counts that are to be added to one hash.
struct Hash {
    key: String,
    counts: Counts,
    lifetime: Duration,
}

impl Sums {
    fn take(&self) -> Unwritten {
        std::mem::take(&mut *self.unwritten.lock())
    }

    /// Adds counts that could not be written for channels, or for the total.
    fn keep(&self, channels: impl IntoIterator<Item = (Box<str>, Counts)>, total: Counts) {
        let mut unwritten = self.unwritten.lock();
        unwritten.total = unwritten.total.plus(total);
        for (channel, counts) in channels {
            unwritten.add_to_channel(&channel, counts);
        }
        if !unwritten.is_empty() {
            self.added.notify_one();
        }
    }
}

impl Unwritten {
    fn is_empty(&self) -> bool {
        self.channels.is_empty() && self.total.is_zero()
    }

    fn add(&mut self, channel: &str, added: Counts) {
        self.total = self.total.plus(added);
        self.add_to_channel(channel, added);
    }

    fn add_to_channel(&mut self, channel: &str, added: Counts) {
        match self.channels.get_mut(channel) {
            Some(counts) => *counts = counts.plus(added),
            None => _ = self.channels.insert(channel.into(), added),
        }
    }
}

impl Counts {
    fn new(channel: &ChannelName, sent: u64, refused: u64) -> Self {
        Self { sent, refused, is_single_use: channel.kind() == ChannelKind::SingleReader }
    }

    fn is_zero(self) -> bool {
        self.sent == 0 && self.refused == 0
    }

    /// The sum. The kind of channel is that of `self`.
    fn plus(self, other: Self) -> Self {
        Self { sent: self.sent + other.sent, refused: self.refused + other.refused, ..self }
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
        let unwritten = self.sums.take();
        if unwritten.channels.is_empty() && unwritten.total.is_zero() {
            return;
        }
        self.has_failed = false;
        if self.topology.is_cluster() {
            self.write_to_cluster(unwritten).await;
        } else {
            self.write_to_server(unwritten).await;
        }
        if !self.has_failed {
            self.reported = Reasons::default();
        }
    }

    async fn write_to_server(&mut self, unwritten: Unwritten) {
        let mut channels: Vec<_> = unwritten.channels.into_iter().collect();
        while !channels.is_empty() {
            let chunk = channels.split_off(channels.len().saturating_sub(CHANNELS_PER_WRITE));
            let hashes = chunk.iter().map(|(channel, counts)| self.hash(channel, *counts));
            let hashes: Vec<_> = hashes.chain([self.total_hash(total_of(&chunk))]).collect();
            let Err(fault) = self.shard.run_once(&command(&hashes)).await else { continue };
            let transient = fault.transient;
            if !self.settles((self.shard.index, fault)) {
                channels.extend(chunk);
            }
            if transient {
                let total = total_of(&channels);
                return self.sums.keep(channels, total);
            }
        }
    }

    /// Writes each hash with a call of its own, because they are in different slots. All calls together wait for one
    /// command timeout while the cluster does not serve their slots.
    async fn write_to_cluster(&mut self, Unwritten { channels, total }: Unwritten) {
        let (writer, deadline) = (&*self, Instant::now() + self.shard.command_timeout());
        let writing_channels = stream::iter(channels).map(|(channel, counts)| async move {
            let written = writer.write_hash(writer.hash(&channel, counts), deadline).await;
            written.err().map(|failure| (channel, counts, failure))
        });
        let writing_channels = writing_channels.buffer_unordered(CHANNELS_PER_WRITE).collect::<Vec<_>>();
        let writing_total = async {
            if total.is_zero() { Ok(()) } else { writer.write_hash(writer.total_hash(total), deadline).await }
        };
        let (failed, written) = join(writing_channels, writing_total).await;
        let total =
            if written.map_or_else(|failure| self.settles(failure), |()| true) { Counts::default() } else { total };
        let kept = failed
            .into_iter()
            .flatten()
            .filter_map(|(channel, counts, failure)| (!self.settles(failure)).then_some((channel, counts)));
        let kept: Vec<_> = kept.collect();
        self.sums.keep(kept, total);
    }

    /// Writes one hash to a cluster. Waits until `deadline` for a server of its slot.
    async fn write_hash(&self, hash: Hash, deadline: Instant) -> Result<(), Failure> {
        let command = command(std::slice::from_ref(&hash));
        let routing = self.topology.routing(&self.shard, &hash.key).until(deadline);
        routing.run_once(&command).await.map(|_| ())
    }

    /// Reports a failed write. Returns whether its counts are not written again: they may have been written, or the
    /// server refuses them for good. It may accept sends and refuse counts for as long as the process runs.
    fn settles(&mut self, (shard, fault): Failure) -> bool {
        self.has_failed = true;
        let Fault { may_have_run, transient, .. } = fault;
        let reason = self.topology.error(shard, fault).to_string();
        if transient {
            debug!(shard, reason, "counters could not be written");
        } else if self.reported.is_new(&reason) {
            warn!(shard, reason, "statistics cannot be written, and their counts are dropped");
        }
        may_have_run || !transient
    }

    fn hash(&self, channel: &str, counts: Counts) -> Hash {
        let lifetime = if counts.is_single_use { self.single_use_lifetime } else { CHANNEL_LIFETIME };
        Hash { key: self.topology.keys.channel_stats(channel), counts, lifetime }
    }

    fn total_hash(&self, counts: Counts) -> Hash {
        Hash { key: self.topology.keys.global_stats(), counts, lifetime: TOTAL_LIFETIME }
    }
}

fn total_of(channels: &[(Box<str>, Counts)]) -> Counts {
    channels.iter().fold(Counts::default(), |total, (_, counts)| total.plus(*counts))
}

/// The call of `count.lua` for these hashes.
fn command(hashes: &[Hash]) -> Cmd {
    let mut command = scripts::COUNT.call(&hashes.iter().map(|hash| &*hash.key).collect::<Vec<_>>());
    for Hash { counts, lifetime, .. } in hashes {
        command.arg(counts.sent).arg(counts.refused).arg(milliseconds(*lifetime));
    }
    command
}
