//! `StatusCollector`: collects the data of the status page in the background. A request for the page does not wait, and
//! sends nothing to Redis.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::history::{History, Sample};
use crate::health::{BlockingConnections, ShardHealth};
use crate::layer::{ChannelLayer, Event, Statistics};
use crate::server::asgi::connections::{Connections, QueueDepths};
use crate::server::counters::{Counters, Totals};
use crate::server::http::PendingRequests;
use crate::server::transport::shutdown::Shutdown;
use crate::supervise::{contain, contained};

/// Interval of the queries to the layer.
const QUERY_INTERVAL: Duration = Duration::from_secs(2);
/// How long the layer is queried after the last view of the page.
const QUERY_AFTER_VIEW: Duration = Duration::from_secs(15);
/// How long the layer may take to answer before it counts as failed.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// The channels that the page shows in addition to the channels of the server itself.
const CHANNELS: [&str; 5] =
    ["websocket.connect", "websocket.receive", "websocket.disconnect", "http.request", "http.disconnect"];

/// The parts of the server that the status page shows.
pub(crate) struct StatusSources {
    pub(crate) layer: Arc<dyn ChannelLayer>,
    pub(crate) connections: Arc<Connections>,
    pub(crate) pending: Arc<PendingRequests>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) shutdown: Shutdown,
}

/// Collects the data of the status page.
pub(crate) struct StatusCollector {
    sources: StatusSources,
    started: Instant,
    /// Held for a copy, never across an await.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    history: History,
    viewed_at: Option<Instant>,
    queried_at: Option<Instant>,
    layer: LayerState,
    shards: BTreeMap<usize, Shard>,
}

/// The last answer of the layer.
#[derive(Clone, Debug, Default)]
pub(crate) struct LayerState {
    pub(crate) health: LayerHealth,
    pub(crate) channels: Vec<(String, Statistics)>,
    /// By server, the connections of this process for blocking reads.
    pub(crate) connections: Vec<(String, BlockingConnections)>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum LayerHealth {
    /// The layer was not queried recently.
    #[default]
    Unknown,
    Answers(Duration),
    Fails,
}

/// State of a shard since the start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shard {
    pub(crate) up: bool,
    pub(crate) since: Instant,
    pub(crate) outages: u32,
    pub(crate) data_losses: u32,
    pub(crate) reads_interrupted: u32,
}

/// All data that the page shows.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) uptime: Duration,
    pub(crate) shutting_down: bool,
    pub(crate) connections: usize,
    pub(crate) requests: usize,
    pub(crate) queues: QueueDepths,
    pub(crate) totals: Totals,
    pub(crate) history: History,
    pub(crate) layer: LayerState,
    pub(crate) shards: BTreeMap<usize, Shard>,
}

impl StatusCollector {
    pub(crate) fn new(sources: StatusSources) -> Self {
        Self { sources, started: Instant::now(), state: Mutex::default() }
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let mut state = self.state.lock();
        state.viewed_at = Some(Instant::now());
        Snapshot {
            uptime: self.started.elapsed(),
            shutting_down: self.sources.shutdown.requested.is_cancelled(),
            connections: self.sources.connections.len(),
            requests: self.sources.pending.len(),
            queues: self.sources.connections.depths(),
            totals: self.sources.counters.totals(),
            history: state.history.clone(),
            layer: state.layer.clone(),
            shards: state.shards.clone(),
        }
    }

    /// Collects data until the future is dropped. A slow layer delays only the data about itself.
    pub(crate) async fn run(&self) {
        tokio::join!(self.sample(), self.query_layer(), self.record_events());
    }

    async fn sample(&self) {
        let mut ticks = interval(Duration::from_secs(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            contain("history of the status page", || {
                let sample =
                    Sample { totals: self.sources.counters.totals(), connections: self.sources.connections.len() };
                self.state.lock().history.add(sample);
            });
        }
    }

    async fn query_layer(&self) {
        let mut ticks = interval(Duration::from_secs(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if self.is_due()
                && let Some(layer) = contained("layer of the status page", query(&self.sources)).await
            {
                self.state.lock().layer = layer;
            }
        }
    }

    async fn record_events(&self) {
        let mut events = self.sources.layer.events();
        loop {
            match events.recv().await {
                Ok(event) => drop(contain("events of the status page", || self.record(&event))),
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            }
        }
    }

    fn is_due(&self) -> bool {
        let mut state = self.state.lock();
        let is_viewed = state.viewed_at.is_some_and(|viewed_at| viewed_at.elapsed() < QUERY_AFTER_VIEW);
        let is_due = state.queried_at.is_none_or(|queried_at| queried_at.elapsed() >= QUERY_INTERVAL);
        if is_viewed && is_due {
            state.queried_at = Some(Instant::now());
        } else if !is_viewed {
            state.layer.health = LayerHealth::Unknown;
        }
        is_viewed && is_due
    }

    fn record(&self, event: &Event) {
        let (shard, change) = match event {
            Event::ShardDown { shard, .. } | Event::SubscriptionLost { shard, .. } | Event::LocalOnly { shard, .. } => {
                (shard, ShardChange::Down)
            }
            Event::ShardUp { shard } | Event::SubscriptionRestored { shard } | Event::Remote { shard } => {
                (shard, ShardChange::Up)
            }
            Event::DataLost { shard } => (shard, ShardChange::DataLost),
            Event::ReadInterrupted { shard, .. } => (shard, ShardChange::ReadInterrupted),
            Event::ShardRemoved { shard } => {
                self.state.lock().shards.remove(shard);
                return;
            }
            Event::Quarantined { .. } => return,
        };
        let now = Instant::now();
        let mut state = self.state.lock();
        let entry = state.shards.entry(*shard).or_insert(Shard {
            up: true,
            since: now,
            outages: 0,
            data_losses: 0,
            reads_interrupted: 0,
        });
        match change {
            ShardChange::Down if entry.up => {
                *entry = Shard { up: false, since: now, outages: entry.outages + 1, ..*entry }
            }
            ShardChange::Up if !entry.up => *entry = Shard { up: true, since: now, ..*entry },
            ShardChange::Down | ShardChange::Up => {}
            ShardChange::DataLost => entry.data_losses += 1,
            ShardChange::ReadInterrupted => entry.reads_interrupted += 1,
        }
    }
}

/// Change of a shard that an event reports.
enum ShardChange {
    Down,
    Up,
    DataLost,
    ReadInterrupted,
}

/// The connections for blocking reads by the address of their server; none if the health is not known in time.
async fn connections(sources: &StatusSources) -> Vec<(String, BlockingConnections)> {
    let shards =
        timeout(ANSWER_TIMEOUT, sources.layer.health()).await.map_or_else(|_| Vec::new(), |health| health.shards);
    let connections = |shard: ShardHealth| Some((shard.server.unwrap_or(shard.host), shard.blocking_connections?));
    shards.into_iter().filter_map(connections).collect()
}

async fn query(sources: &StatusSources) -> LayerState {
    let own = [sources.connections.channel(), sources.pending.channel()];
    let names = CHANNELS.into_iter().chain(own.iter().map(|channel| channel.as_str()));
    let started = Instant::now();
    let mut channels = Vec::new();
    for name in names {
        match timeout(ANSWER_TIMEOUT, sources.layer.channel_statistics(name)).await {
            Ok(Ok(statistics)) => channels.push((name.to_owned(), statistics)),
            Ok(Err(_)) | Err(_) => return LayerState { health: LayerHealth::Fails, channels, ..LayerState::default() },
        }
    }
    let each = started.elapsed() / u32::try_from(channels.len()).unwrap_or(1).max(1);
    LayerState { health: LayerHealth::Answers(each), channels, connections: connections(sources).await }
}
