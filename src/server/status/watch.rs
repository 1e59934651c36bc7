//! What the status page shows, gathered beside the page: a view of it waits for nothing, and costs Redis nothing more.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::history::{History, Sample};
use crate::layer::{ChannelLayer, Event, Statistics};
use crate::server::asgi::connections::QueueDepths;
use crate::server::interface::shared::Shared;
use crate::server::status::counters::Totals;
use crate::supervise::{contain, contained};

/// How often the layer is asked, and for how long after a view.
const ASK_EVERY: Duration = Duration::from_secs(2);
const ASK_AFTER_A_VIEW: Duration = Duration::from_secs(15);
/// How long the layer may take before it counts as silent.
const ANSWER: Duration = Duration::from_secs(3);

/// The channels of which the page shows the depth, beside the server's own.
const CHANNELS: [&str; 5] =
    ["websocket.connect", "websocket.receive", "websocket.disconnect", "http.request", "http.disconnect"];

#[derive(Debug)]
pub(crate) struct Watch {
    begun: Instant,
    /// Held for a copy, never across an await.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    history: History,
    viewed: Option<Instant>,
    asked: Option<Instant>,
    layer: LayerState,
    shards: BTreeMap<usize, Shard>,
}

/// What the layer has answered last.
#[derive(Clone, Debug, Default)]
pub(crate) struct LayerState {
    pub(crate) health: Health,
    pub(crate) channels: Vec<(String, Statistics)>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Health {
    /// It has not been asked lately.
    #[default]
    Unknown,
    Answers(Duration),
    Fails,
}

/// What became of a server of the layer since the start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shard {
    pub(crate) up: bool,
    pub(crate) since: Instant,
    pub(crate) outages: u32,
    pub(crate) data_losses: u32,
    pub(crate) reads_interrupted: u32,
}

/// All that the page shows.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) uptime: Duration,
    pub(crate) leaving: bool,
    pub(crate) connections: usize,
    pub(crate) requests: usize,
    pub(crate) queues: QueueDepths,
    pub(crate) totals: Totals,
    pub(crate) history: History,
    pub(crate) layer: LayerState,
    pub(crate) shards: BTreeMap<usize, Shard>,
}

impl Watch {
    pub(crate) fn new() -> Self {
        Self { begun: Instant::now(), state: Mutex::default() }
    }

    pub(crate) fn look(&self, shared: &Shared) -> View {
        let mut state = self.state.lock();
        state.viewed = Some(Instant::now());
        View {
            uptime: self.begun.elapsed(),
            leaving: shared.leaving.is_cancelled(),
            connections: shared.connections.len(),
            requests: shared.exchanges.len(),
            queues: shared.connections.depths(),
            totals: shared.tally.totals(),
            history: state.history.clone(),
            layer: state.layer.clone(),
            shards: state.shards.clone(),
        }
    }

    /// Gathers until it is dropped. A layer that takes its time holds up nothing but its own figures.
    pub(crate) async fn run(&self, shared: &Shared) {
        tokio::join!(self.sample(shared), self.ask(shared), self.listen(shared));
    }

    async fn sample(&self, shared: &Shared) {
        let mut second = interval(Duration::from_secs(1));
        second.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            second.tick().await;
            contain("history of the status page", || {
                let sample = Sample { totals: shared.tally.totals(), connections: shared.connections.len() };
                self.state.lock().history.add(sample);
            });
        }
    }

    async fn ask(&self, shared: &Shared) {
        let mut second = interval(Duration::from_secs(1));
        second.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            second.tick().await;
            if self.is_asked_for()
                && let Some(layer) = contained("layer of the status page", ask(&*shared.layer, shared)).await
            {
                self.state.lock().layer = layer;
            }
        }
    }

    async fn listen(&self, shared: &Shared) {
        let mut events = shared.layer.events();
        loop {
            match events.recv().await {
                Ok(event) => drop(contain("events of the status page", || self.note(&event))),
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            }
        }
    }

    fn is_asked_for(&self) -> bool {
        let mut state = self.state.lock();
        let viewed = state.viewed.is_some_and(|viewed| viewed.elapsed() < ASK_AFTER_A_VIEW);
        let due = state.asked.is_none_or(|asked| asked.elapsed() >= ASK_EVERY);
        if viewed && due {
            state.asked = Some(Instant::now());
        } else if !viewed {
            state.layer.health = Health::Unknown;
        }
        viewed && due
    }

    fn note(&self, event: &Event) {
        let (shard, news) = match event {
            Event::ShardDown { shard, .. } | Event::SubscriptionLost { shard, .. } | Event::LocalOnly { shard, .. } => {
                (shard, News::Down)
            }
            Event::ShardUp { shard } | Event::SubscriptionRestored { shard } | Event::Remote { shard } => {
                (shard, News::Up)
            }
            Event::DataLost { shard } => (shard, News::DataLost),
            Event::ReadInterrupted { shard, .. } => (shard, News::ReadInterrupted),
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
        match news {
            News::Down if entry.up => *entry = Shard { up: false, since: now, outages: entry.outages + 1, ..*entry },
            News::Up if !entry.up => *entry = Shard { up: true, since: now, ..*entry },
            News::Down | News::Up => {}
            News::DataLost => entry.data_losses += 1,
            News::ReadInterrupted => entry.reads_interrupted += 1,
        }
    }
}

/// What an event says about a shard.
enum News {
    Down,
    Up,
    DataLost,
    ReadInterrupted,
}

async fn ask(layer: &dyn ChannelLayer, shared: &Shared) -> LayerState {
    let own = [shared.connections.channel(), shared.exchanges.channel()];
    let names = CHANNELS.into_iter().chain(own.iter().map(|channel| channel.as_str()));
    let begun = Instant::now();
    let mut channels = Vec::new();
    for name in names {
        match timeout(ANSWER, layer.channel_statistics(name)).await {
            Ok(Ok(statistics)) => channels.push((name.to_owned(), statistics)),
            Ok(Err(_)) | Err(_) => return LayerState { health: Health::Fails, channels },
        }
    }
    let each = begun.elapsed() / u32::try_from(channels.len()).unwrap_or(1).max(1);
    LayerState { health: Health::Answers(each), channels }
}
