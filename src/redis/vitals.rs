//! What is known of a server's state, for those who ask how it is.

use std::time::{Duration, SystemTime};

use parking_lot::Mutex;

use super::connection::Greeting;
use crate::health::{ShardHealth, ShardState};

/// What was last seen of a server.
#[derive(Debug)]
pub(crate) struct Vitals {
    /// Held only to read or change it.
    seen: Mutex<Seen>,
}

#[derive(Clone, Debug)]
struct Seen {
    state: ShardState,
    since: SystemTime,
    server: Option<String>,
    version: Option<String>,
    role: Option<String>,
    latency: Option<Duration>,
}

impl Vitals {
    /// Of a server that has not been reached yet.
    pub(crate) fn new() -> Self {
        let (state, since) = (ShardState::Down, SystemTime::now());
        Self { seen: Mutex::new(Seen { state, since, server: None, version: None, role: None, latency: None }) }
    }

    /// It was reached at the address `server`.
    pub(crate) fn came_up(&self, server: String, greeting: &Greeting) {
        let mut seen = self.seen.lock();
        seen.state = ShardState::Up;
        seen.since = SystemTime::now();
        seen.server = Some(server);
        seen.version = Some(greeting.version.clone());
        seen.role = Some(greeting.role.clone());
    }

    /// Whether it has ever been reached.
    pub(crate) fn was_reached(&self) -> bool {
        self.seen.lock().server.is_some()
    }

    /// It was lost.
    pub(crate) fn went_down(&self) {
        let mut seen = self.seen.lock();
        seen.state = ShardState::Down;
        seen.since = SystemTime::now();
        seen.latency = None;
    }

    /// It answered in this time.
    pub(crate) fn answered(&self, latency: Duration) {
        self.seen.lock().latency = Some(latency);
    }

    /// All of it, with what others know.
    pub(crate) fn report(
        &self,
        shard: usize,
        host: &str,
        reason: Option<String>,
        epoch: Option<String>,
        clock_offset_seconds: Option<f64>,
    ) -> ShardHealth {
        let Seen { state, since, server, version, role, latency } = self.seen.lock().clone();
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
        }
    }
}
