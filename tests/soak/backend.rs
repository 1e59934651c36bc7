//! The kinds of layers, how a process starts each, and what each promises.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use channel_layer::django::{AsgiRedisLayer, ChannelsRedisLayer};
use channel_layer::{
    CapacityRule, ChannelLayer, Config, Event, FallbackLayer, Host, HybridLayer, MemoryLayer, PubSubLayer, RedisLayer,
    Result,
};
use tokio::sync::broadcast;

use super::hub;
use super::oracle::{Copies, Order, Rules};
use super::plan::{PROCESSES, Plan};
use crate::support::{Cluster, slot_of};

/// A layer, and the servers below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    Memory,
    Native,
    NativeSharded,
    NativeEncrypted,
    NativeCluster,
    AsgiRedis,
    ChannelsRedis,
    HybridMemory,
    HybridRedis,
    PubSub,
    PubSubCluster,
    Fallback,
    /// Hubs on [`Native`](Self::Native).
    Hub,
}

/// What a process needs to start its layer.
pub struct Start<'p> {
    pub plan: &'p Plan,
    pub slot: usize,
    /// The URLs of the servers, as this process reaches them.
    pub servers: &'p [String],
    /// The layer that all processes share, where the layer is in memory.
    pub memory: Arc<MemoryLayer>,
}

/// The layer of a process, and where it announces what happens to its servers.
pub struct Started {
    pub layer: Arc<dyn ChannelLayer>,
    pub events: Vec<broadcast::Receiver<Event>>,
}

impl Backend {
    /// The name of its test.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Native => "native",
            Self::NativeSharded => "native_sharded",
            Self::NativeEncrypted => "native_encrypted",
            Self::NativeCluster => "native_cluster",
            Self::AsgiRedis => "asgi_redis",
            Self::ChannelsRedis => "channels_redis",
            Self::HybridMemory => "hybrid_memory",
            Self::HybridRedis => "hybrid_redis",
            Self::PubSub => "pubsub",
            Self::PubSubCluster => "pubsub_cluster",
            Self::Fallback => "fallback",
            Self::Hub => "hub",
        }
    }

    /// How many servers it needs.
    pub fn servers(self) -> usize {
        match self {
            Self::Memory => 0,
            Self::NativeSharded => 3,
            Self::NativeCluster | Self::PubSubCluster => 2 * Cluster::MASTERS,
            // The second one is that of normal channels.
            Self::HybridRedis => 2,
            _ => 1,
        }
    }

    /// Whether its servers are the nodes of a cluster: masters, and a replica of each.
    pub fn is_cluster(self) -> bool {
        matches!(self, Self::NativeCluster | Self::PubSubCluster)
    }

    /// Whether it publishes messages, so that each process gets them, and stores nothing.
    pub fn is_pubsub(self) -> bool {
        matches!(self, Self::PubSub | Self::PubSubCluster)
    }

    /// The slots of a cluster that its messages and its groups use, except for new channels.
    pub fn slots(self) -> Vec<u16> {
        if self.is_pubsub() {
            // Those of the partitions.
            return (0..128).map(|partition| partition * 128 + 64).collect();
        }
        // Some names share a slot.
        let slots: BTreeSet<_> = Plan::names().iter().map(|name| slot_of(name)).collect();
        slots.into_iter().collect()
    }

    /// Whether processes of the system run its layers. Those in memory share one, and the clients of a site are in the
    /// process of the test.
    pub fn has_children(self) -> bool {
        !matches!(self, Self::Memory | Self::Hub)
    }

    /// Whether processes may have different expiries, of messages and of memberships: where each message and each
    /// membership carries its own.
    pub fn mixes_expiries(self) -> (bool, bool) {
        match self {
            Self::Memory | Self::ChannelsRedis | Self::PubSub | Self::PubSubCluster | Self::Hub => (false, false),
            Self::AsgiRedis => (true, false),
            _ => (true, true),
        }
    }

    /// Starts the layer of a process.
    pub async fn start(self, start: &Start<'_>) -> Result<Started> {
        let Start { plan, slot, servers, memory } = start;
        let config = |servers: &[String]| config(plan, *slot, servers);
        let all = config(servers);
        let layer: Arc<dyn ChannelLayer> = match self {
            Self::Memory => Arc::clone(memory) as Arc<_>,
            Self::Native | Self::NativeSharded | Self::NativeCluster | Self::Hub => {
                Arc::new(RedisLayer::connect(all).await?)
            }
            Self::NativeEncrypted => {
                Arc::new(RedisLayer::connect(all.symmetric_encryption_keys(["the key of this round"])).await?)
            }
            Self::AsgiRedis => Arc::new(AsgiRedisLayer::connect(all).await?),
            Self::ChannelsRedis => Arc::new(ChannelsRedisLayer::connect(all).await?),
            Self::HybridMemory => {
                let local = MemoryLayer::with_config(&config(&[]))?;
                Arc::new(HybridLayer::new(local, RedisLayer::connect(all).await?))
            }
            Self::HybridRedis => {
                let (remote, local) = servers.split_at(1);
                let local = RedisLayer::connect(config(local)).await?;
                let layer = HybridLayer::new(local, RedisLayer::connect(config(remote)).await?);
                // The layer announces what happens to its remote part alone.
                let events = vec![layer.events(), layer.local().events()];
                return Ok(Started { layer: Arc::new(layer), events });
            }
            Self::PubSub | Self::PubSubCluster => Arc::new(PubSubLayer::connect(all).await?),
            Self::Fallback => Arc::new(FallbackLayer::connect(all).await?),
        };
        let events = vec![layer.events()];
        Ok(Started { layer, events })
    }

    /// The layer in memory that all processes of a round share.
    pub fn memory(plan: &Plan) -> MemoryLayer {
        MemoryLayer::with_config(&config(plan, 0, &[])).unwrap()
    }

    /// What it promises in a round.
    pub fn rules(self, plan: &Plan) -> Rules {
        if self == Self::Hub {
            return hub::rules(plan);
        }
        let falls_back = self.is_pubsub() || self == Self::Fallback;
        let silent = (0..PROCESSES).map(|process| (Plan::silent_route(process), plan.silent_capacity));
        Rules {
            copies: if self.is_pubsub() { Copies::OneInEachProcess } else { Copies::One },
            order: match self {
                Self::Fallback => Order::UnlessCutOff,
                // Channels and groups have partitions of their own.
                Self::PubSubCluster => Order::Group,
                _ => Order::Route,
            },
            passes_groups_after: matches!(self, Self::NativeSharded | Self::NativeCluster)
                .then_some(Duration::from_secs(5)),
            orders_by_clock: self == Self::ChannelsRedis,
            // A process misses what others publish while its subscriptions move, and nobody can count that.
            losses_are_told: self != Self::PubSubCluster,
            cancels_calls: plan.settings.iter().any(|settings| settings.cancelled > 0),
            calls_succeed: self.is_cluster() && plan.is_planned(),
            goes_on_alone: falls_back,
            reaches_others: true,
            joins_at_arrival: false,
            counts_members: self == Self::AsgiRedis,
            silent: (0..PROCESSES).map(Plan::silent_route).collect(),
            capacities: if falls_back { [].into() } else { silent.collect() },
            steady_clock: !plan.steps_clock,
        }
    }
}

/// The options of a process on `servers`.
fn config(plan: &Plan, slot: usize, servers: &[String]) -> Config {
    let settings = &plan.settings[slot];
    // Processes reach a server by different addresses, and its name says that it is the same one.
    let named = servers.iter().enumerate().map(|(at, url)| {
        let host = Host::new(url.clone());
        if plan.backend.is_cluster() { host } else { host.name(format!("server {at}")) }
    });
    let config = Config::new()
        .prefix(PREFIX)
        .stats_prefix(STATS_PREFIX)
        .expiry(settings.expiry)
        .group_expiry(settings.group_expiry)
        .capacity(settings.capacity)
        .channel_capacity(CapacityRule::glob("full.*", plan.silent_capacity))
        .channel_capacity(CapacityRule::glob("hub.*", 100_000))
        .command_timeout(settings.command_timeout)
        .blocking_timeout(settings.blocking_timeout)
        .retry_attempts(settings.retry_attempts)
        .cluster(plan.backend.is_cluster())
        .sharded_pubsub(plan.backend == Backend::PubSubCluster);
    if servers.is_empty() { config } else { config.hosts(named) }
}

/// What all keys begin with.
pub const PREFIX: &str = "soak";
pub const STATS_PREFIX: &str = "soak-meta:";
