//! `Mode`: whether a layer carries messages through its servers, and the status of each server.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, LazyLock};
use std::time::SystemTime;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{broadcast, watch};
use tracing::{info, warn};

use super::{Event, Reasons};
use crate::supervise::{contain, update_metric};

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
    /// Position of the server in the configured hosts, or its number in a cluster.
    pub shard: usize,
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

/// The modes of all servers of a layer. A caller that marks a server then [reports](Self::report) the change.
#[derive(Debug)]
pub(crate) struct Modes {
    /// The lock is held to change one status or to copy all, and not while a change is reported.
    state: Mutex<State>,
    /// The worst mode of all servers.
    overall: watch::Sender<Mode>,
    events: broadcast::Sender<Event>,
}

#[derive(Debug)]
struct State {
    /// The status of each server by its shard, with the reasons of its outage.
    shards: BTreeMap<usize, (ShardStatus, Reasons)>,
    unreported: VecDeque<Change>,
    /// Whether a call of [`Modes::report`] is under way.
    is_reporting: bool,
}

/// A change of the status of a server.
#[derive(Debug)]
enum Change {
    /// The server is unreachable for a new reason.
    Unreachable { shard: usize, mode: Mode, reason: String, is_new_outage: bool },
    /// The server is used again. `stayed_local` is `None` if its messages did not stay in this process.
    Remote { shard: usize, stayed_local: Option<u64> },
    /// The server serves nothing any more.
    Forgotten { shard: usize },
}

impl Modes {
    /// Starts with `shards` servers in [`Mode::Remote`]. Others are added when they are marked.
    pub(crate) fn new(shards: usize, events: broadcast::Sender<Event>) -> Arc<Self> {
        for shard in 0..shards {
            set_gauge(shard, Mode::Remote);
        }
        let shards = (0..shards).map(|shard| (shard, remote(shard))).collect();
        let state = Mutex::new(State { shards, unreported: VecDeque::new(), is_reporting: false });
        Arc::new(Self { state, overall: watch::Sender::new(Mode::Remote), events })
    }

    /// Marks `shard` as unreachable for `reason`. Until [`mark_remote`](Self::mark_remote), it has the given `mode`,
    /// which is not [`Mode::Remote`]. Each new reason of an outage is reported once.
    pub(crate) fn mark_unreachable(&self, shard: usize, mode: Mode, reason: &str) {
        let mut state = self.state.lock();
        let is_new_outage = state.set(shard, mode);
        let (status, reasons) = state.shard(shard);
        status.reason = Some(reason.to_owned());
        if reasons.is_new(reason) {
            let change = Change::Unreachable { shard, mode, reason: reason.to_owned(), is_new_outage };
            state.unreported.push_back(change);
        }
    }

    /// Marks `shard` as used again: its messages go to the server.
    pub(crate) fn mark_remote(&self, shard: usize) {
        let mut state = self.state.lock();
        let status = &state.shard(shard).0;
        let stayed_local = (status.mode == Mode::LocalOnly).then_some(status.stayed_local);
        if state.set(shard, Mode::Remote) {
            state.unreported.push_back(Change::Remote { shard, stayed_local });
        }
    }

    /// Adds `shard`, which is used from now on, unless it is known.
    pub(crate) fn add(&self, shard: usize) {
        self.state.lock().shard(shard);
    }

    /// Forgets `shard`, which serves nothing any more.
    pub(crate) fn forget(&self, shard: usize) {
        let mut state = self.state.lock();
        if state.shards.remove(&shard).is_some() {
            state.unreported.push_back(Change::Forgotten { shard });
        }
    }

    /// Reports all changes so far, in their order: to watchers, as events, in the log and as metrics. All of these run
    /// code of the application, which may call the layer, so the caller holds no lock. If another call is reporting,
    /// that call reports the changes.
    pub(crate) fn report(&self) {
        let mut state = self.state.lock();
        if std::mem::replace(&mut state.is_reporting, true) {
            return;
        }
        while let Some(change) = state.unreported.pop_front() {
            MutexGuard::unlocked(&mut state, || contain("reports of modes", || self.report_one(&change)));
        }
        state.is_reporting = false;
    }

    fn report_one(&self, change: &Change) {
        self.overall.send_if_modified(|overall| {
            let worst = self.state.lock().worst();
            std::mem::replace(overall, worst) != worst
        });
        match change {
            Change::Unreachable { shard, mode, reason, is_new_outage } => {
                let shard = *shard;
                set_gauge(shard, *mode);
                if *mode == Mode::LocalOnly {
                    let _ = self.events.send(Event::LocalOnly { shard, reason: reason.clone() });
                    let text = if *is_new_outage {
                        "messages stay in this process"
                    } else {
                        "messages still stay in this process"
                    };
                    warn!(shard, reason, "{text}");
                }
            }
            Change::Forgotten { shard } => set_gauge(*shard, Mode::Remote),
            Change::Remote { shard, stayed_local } => {
                let shard = *shard;
                set_gauge(shard, Mode::Remote);
                if let Some(stayed_local) = stayed_local {
                    let _ = self.events.send(Event::Remote { shard });
                    info!(shard, stayed_local, "messages are sent to the server again");
                }
            }
        }
    }

    /// Counts messages that stayed in this process.
    pub(crate) fn count_local(&self, shard: usize, messages: usize) {
        self.state.lock().shard(shard).0.stayed_local += messages as u64;
        update_metric(|| metrics::counter!("channel_layer_stayed_local_total").increment(messages as u64));
    }

    /// Returns the status of each server, by shard.
    pub(crate) fn status(&self) -> Vec<ShardStatus> {
        self.state.lock().shards.values().map(|(status, _)| status.clone()).collect()
    }

    /// Returns the worst mode of all servers, and notifies of changes.
    pub(crate) fn watch(&self) -> watch::Receiver<Mode> {
        self.overall.subscribe()
    }
}

impl State {
    fn shard(&mut self, shard: usize) -> &mut (ShardStatus, Reasons) {
        self.shards.entry(shard).or_insert_with(|| remote(shard))
    }

    /// Changes the mode of a server. Returns `false` if it had this mode already.
    fn set(&mut self, shard: usize, mode: Mode) -> bool {
        let (status, reasons) = self.shard(shard);
        if status.mode == mode {
            return false;
        }
        *reasons = Reasons::default();
        *status =
            ShardStatus { shard, mode, since: SystemTime::now(), reason: None, stayed_local: status.stayed_local };
        true
    }

    fn worst(&self) -> Mode {
        self.shards.values().map(|(status, _)| status.mode).max().unwrap_or_default()
    }
}

/// The status of a server that is used from now on.
fn remote(shard: usize) -> (ShardStatus, Reasons) {
    let status = ShardStatus { shard, mode: Mode::Remote, since: SystemTime::now(), reason: None, stayed_local: 0 };
    (status, Reasons::default())
}

fn set_gauge(shard: usize, mode: Mode) {
    let local = f64::from(u8::from(mode == Mode::LocalOnly));
    update_metric(|| metrics::gauge!("channel_layer_local_only", "shard" => shard.to_string()).set(local));
}
