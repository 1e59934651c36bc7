//! `Mode`: whether a layer carries messages through its servers, and the status of each server.

use std::sync::{Arc, LazyLock};
use std::time::SystemTime;

use parking_lot::Mutex;
use tokio::sync::{broadcast, watch};
use tracing::{info, warn};

use super::{Event, Reasons};
use crate::supervise::update_metric;

/// How a layer carries messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Mode {
    /// Between processes, through its servers.
    #[default]
    Remote,
    /// Within this process only, because a server is unreachable.
    LocalOnly,
    /// Not at all, because a server is unreachable and the layer is configured to fail.
    Down,
}

/// Current use of one server of a layer.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ShardStatus {
    /// How messages for names on this server are carried.
    pub mode: Mode,
    /// Start of this mode.
    pub since: SystemTime,
    /// Why the server is unreachable; `None` if it is reachable.
    pub reason: Option<String>,
    /// Number of messages that stayed in this process since the layer was created.
    pub stayed_local: u64,
}

/// Returns the events of a layer without servers: a stream that yields nothing and does not end.
pub(super) fn no_events() -> broadcast::Receiver<Event> {
    static EVENTS: LazyLock<broadcast::Sender<Event>> = LazyLock::new(|| broadcast::Sender::new(1));
    EVENTS.subscribe()
}

/// Returns the mode of a layer that never changes it.
pub(super) fn always_remote() -> watch::Receiver<Mode> {
    static MODE: LazyLock<watch::Sender<Mode>> = LazyLock::new(watch::Sender::default);
    MODE.subscribe()
}

/// The modes of all servers of a layer. Reports each change to watchers and as an event.
#[derive(Debug)]
pub(crate) struct Modes {
    /// The status of each server, with the reasons of its outage. The lock is held to change one status or to copy all.
    shards: Mutex<Vec<(ShardStatus, Reasons)>>,
    /// The worst mode of all servers.
    overall: watch::Sender<Mode>,
    events: broadcast::Sender<Event>,
}

impl Modes {
    /// Starts with `shards` servers in [`Mode::Remote`].
    pub(crate) fn new(shards: usize, events: broadcast::Sender<Event>) -> Arc<Self> {
        let status = ShardStatus { mode: Mode::Remote, since: SystemTime::now(), reason: None, stayed_local: 0 };
        for shard in 0..shards {
            set_gauge(shard, Mode::Remote);
        }
        let shards = Mutex::new(vec![(status, Reasons::default()); shards]);
        Arc::new(Self { shards, overall: watch::Sender::new(Mode::Remote), events })
    }

    /// Marks `shard` as unreachable for `reason`. Until [`mark_remote`](Self::mark_remote), it has the given `mode`,
    /// which is not [`Mode::Remote`]. Each new reason of an outage is reported once.
    pub(crate) fn mark_unreachable(&self, shard: usize, mode: Mode, reason: &str) {
        let is_new_outage = self.set(shard, mode, Some(reason.to_owned()));
        let is_new_reason = self.record_reason(shard, reason);
        if mode == Mode::LocalOnly && is_new_reason {
            let text =
                if is_new_outage { "messages stay in this process" } else { "messages still stay in this process" };
            warn!(shard, reason, "{text}");
            let _ = self.events.send(Event::LocalOnly { shard, reason: reason.to_owned() });
        }
    }

    /// Stores the reason of an outage. Returns whether it is new.
    fn record_reason(&self, shard: usize, reason: &str) -> bool {
        let (status, reasons) = &mut self.shards.lock()[shard];
        status.reason = Some(reason.to_owned());
        reasons.is_new(reason)
    }

    /// Marks `shard` as used again: its messages go to the server.
    pub(crate) fn mark_remote(&self, shard: usize) {
        let was_local = self.shards.lock()[shard].0.mode == Mode::LocalOnly;
        if self.set(shard, Mode::Remote, None) && was_local {
            let stayed_local = self.shards.lock()[shard].0.stayed_local;
            info!(shard, stayed_local, "messages are sent to the server again");
            let _ = self.events.send(Event::Remote { shard });
        }
    }

    /// Counts messages that stayed in this process.
    pub(crate) fn count_local(&self, shard: usize, messages: usize) {
        self.shards.lock()[shard].0.stayed_local += messages as u64;
        update_metric(|| metrics::counter!("channel_layer_stayed_local_total").increment(messages as u64));
    }

    /// Returns the status of each server.
    pub(crate) fn status(&self) -> Vec<ShardStatus> {
        self.shards.lock().iter().map(|(status, _)| status.clone()).collect()
    }

    /// Returns the worst mode of all servers, and notifies of changes.
    pub(crate) fn watch(&self) -> watch::Receiver<Mode> {
        self.overall.subscribe()
    }

    /// Changes the status of a server. Returns `false` if it had this mode already.
    fn set(&self, shard: usize, mode: Mode, reason: Option<String>) -> bool {
        let mut shards = self.shards.lock();
        let (status, reasons) = &mut shards[shard];
        if status.mode == mode {
            return false;
        }
        *reasons = Reasons::default();
        *status = ShardStatus { mode, since: SystemTime::now(), reason, stayed_local: status.stayed_local };
        // Sent under the lock, as the metric is, so that the later of two changes stays.
        let worst = shards.iter().map(|(status, _)| status.mode).max().unwrap_or_default();
        self.overall.send_if_modified(|overall| std::mem::replace(overall, worst) != worst);
        set_gauge(shard, mode);
        true
    }
}

fn set_gauge(shard: usize, mode: Mode) {
    let local = f64::from(u8::from(mode == Mode::LocalOnly));
    update_metric(|| metrics::gauge!("channel_layer_local_only", "shard" => shard.to_string()).set(local));
}
