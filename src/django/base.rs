//! The servers of a layer and its life: connected, working, closing, drained.

use std::sync::Arc;

use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::keys;
use crate::config::Config;
use crate::error::Result;
use crate::layer::Event;
use crate::redis::closing::Closing;
use crate::redis::connection::{Needs, Version};
use crate::redis::ring::Ring;
use crate::redis::script::Script;
use crate::redis::servers;
use crate::redis::topology::Places;

/// `BZPOPMIN`, and what scripts do here, came with Redis 5.0; the `TYPE` of a `SCAN` with 6.0.
const OLDEST_SERVER: Version = Version(6, 0);

/// What every layer has that is kept in Redis.
pub(super) struct Base {
    pub(super) places: Arc<Places>,
    pub(super) events: broadcast::Sender<Event>,
    pub(super) closing: Closing,
    /// Readers and lanes.
    pub(super) work: TaskTracker,
    /// Supervisors of the servers, which end when all work has.
    upkeep: TaskTracker,
}

impl Base {
    /// Connects to the servers of `config`, which is valid; the site's keys begin with `prefix`.
    pub(super) async fn connect(config: &Config, prefix: &str, scripts: &'static [&'static Script]) -> Result<Self> {
        let (events, _) = broadcast::channel(servers::EVENTS);
        let needs = Needs::new(config, OLDEST_SERVER, scripts, Some(keys::epoch(prefix)));
        let (_, shards) = servers::connect(config, &needs, &events, true).await?;
        let (closing, drained) = (Closing::default(), CancellationToken::new());
        let (work, upkeep) = (TaskTracker::new(), TaskTracker::new());
        for shard in &shards {
            upkeep.spawn(shard.clone().supervise(drained.clone()));
        }
        upkeep.spawn(servers::drain(
            shards.clone(),
            work.clone(),
            closing.token().clone(),
            drained,
            std::future::ready(()),
        ));
        upkeep.close();
        let places = Arc::new(Places::new(shards.clone(), Ring::crc(shards.len())));
        Ok(Self { places, events, closing, work, upkeep })
    }

    pub(super) fn check_open(&self) -> Result<()> {
        self.closing.check()
    }

    /// Ends all work and waits for it.
    pub(super) async fn close(&self) {
        self.closing.close();
        self.upkeep.wait().await;
    }
}

impl Drop for Base {
    fn drop(&mut self) {
        self.closing.close();
    }
}
