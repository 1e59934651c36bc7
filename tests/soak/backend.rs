//! The kinds of layers, how a process starts each, and what each promises.

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

/// A layer, and the servers below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    Memory,
    Native,
    NativeSharded,
    NativeEncrypted,
    AsgiRedis,
    ChannelsRedis,
    HybridMemory,
    HybridRedis,
    PubSub,
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
            Self::AsgiRedis => "asgi_redis",
            Self::ChannelsRedis => "channels_redis",
            Self::HybridMemory => "hybrid_memory",
            Self::HybridRedis => "hybrid_redis",
            Self::PubSub => "pubsub",
            Self::Fallback => "fallback",
            Self::Hub => "hub",
        }
    }

    /// How many servers it needs.
    pub fn servers(self) -> usize {
        match self {
            Self::Memory => 0,
            Self::NativeSharded => 3,
            // The second one is that of normal channels.
            Self::HybridRedis => 2,
            _ => 1,
        }
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
            Self::Memory | Self::ChannelsRedis | Self::PubSub | Self::Hub => (false, false),
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
            Self::Native | Self::NativeSharded | Self::Hub => Arc::new(RedisLayer::connect(all).await?),
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
            Self::PubSub => Arc::new(PubSubLayer::connect(all).await?),
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
        let falls_back = matches!(self, Self::PubSub | Self::Fallback);
        let silent = (0..PROCESSES).map(|process| (Plan::silent_route(process), plan.silent_capacity));
        Rules {
            copies: if self == Self::PubSub { Copies::OneInEachProcess } else { Copies::One },
            order: if self == Self::Fallback { Order::UnlessCutOff } else { Order::Route },
            passes_groups_after: (self == Self::NativeSharded).then_some(Duration::from_secs(5)),
            orders_by_clock: self == Self::ChannelsRedis,
            losses_are_told: true,
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
    let named = servers.iter().enumerate().map(|(at, url)| Host::new(url.clone()).name(format!("server {at}")));
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
        .retry_attempts(settings.retry_attempts);
    if servers.is_empty() { config } else { config.hosts(named) }
}

/// What all keys begin with.
pub const PREFIX: &str = "soak";
pub const STATS_PREFIX: &str = "soak-meta:";
