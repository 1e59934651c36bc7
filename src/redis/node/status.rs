//! `ServerStatus`: the last known state of a server, for health reports.

use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::health::{BlockingConnections, SettingDifference, ShardHealth, ShardState};
use crate::redis::node::connection::Greeting;

/// The last known state of a server.
#[derive(Debug)]
pub(crate) struct ServerStatus {
    /// Held only to read or change it.
    seen: Mutex<Seen>,
}

#[derive(Clone, Debug)]
struct Seen {
    state: ShardState,
    since: SystemTime,
    /// When the connection was lost; `None` while there is one.
    down_since: Option<Instant>,
    server: Option<String>,
    version: Option<String>,
    role: Option<String>,
    latency: Option<Duration>,
    /// The differences from the settings of other processes, at the last comparison.
    differences: Vec<SettingDifference>,
}

impl ServerStatus {
    /// The status of a server that has not been reached yet.
    pub(crate) fn new() -> Self {
        let (state, since) = (ShardState::Down, SystemTime::now());
        let (server, version, role, latency, differences) = (None, None, None, None, Vec::new());
        let down_since = Some(Instant::now());
        Self { seen: Mutex::new(Seen { state, since, down_since, server, version, role, latency, differences }) }
    }

    /// Records that the server was reached at the address `server`.
    pub(crate) fn record_up(&self, server: String, greeting: &Greeting) {
        let mut seen = self.seen.lock();
        seen.state = ShardState::Up;
        seen.since = SystemTime::now();
        seen.down_since = None;
        seen.server = Some(server);
        seen.version = Some(greeting.version.clone());
        seen.role = Some(greeting.role.clone());
    }

    /// Whether the server has ever been reached.
    pub(crate) fn has_been_reached(&self) -> bool {
        self.seen.lock().server.is_some()
    }

    /// Records that the connection was lost.
    pub(crate) fn record_down(&self) {
        let mut seen = self.seen.lock();
        seen.state = ShardState::Down;
        seen.since = SystemTime::now();
        seen.down_since = Some(Instant::now());
        seen.latency = None;
    }

    /// How long there has been no connection.
    pub(crate) fn down_for(&self) -> Duration {
        self.seen.lock().down_since.map(|since| since.elapsed()).unwrap_or_default()
    }

    /// Records that the server answered a probe after `latency`.
    pub(crate) fn record_latency(&self, latency: Duration) {
        self.seen.lock().latency = Some(latency);
    }

    /// Records how the settings of other processes differ. Returns the new differences.
    pub(crate) fn record_differences(&self, differences: Vec<SettingDifference>) -> Vec<SettingDifference> {
        let mut seen = self.seen.lock();
        let before = std::mem::replace(&mut seen.differences, differences);
        seen.differences.iter().filter(|difference| !before.contains(difference)).cloned().collect()
    }

    /// The status as a health report, with facts that the shard holds.
    pub(crate) fn report(
        &self,
        shard: usize,
        host: &str,
        reason: Option<String>,
        epoch: Option<String>,
        clock_offset_seconds: Option<f64>,
        blocking_connections: Option<BlockingConnections>,
    ) -> ShardHealth {
        let Seen { state, since, server, version, role, latency, differences, .. } = self.seen.lock().clone();
        let host = host.to_owned();
        let fallback_mode = false;
        ShardHealth {
            shard,
            host,
            state,
            since,
            reason,
            server,
            latency,
            version,
            role,
            clock_offset_seconds,
            epoch,
            fallback_mode,
            probe: None,
            blocking_connections,
            setting_differences: differences,
        }
    }
}
