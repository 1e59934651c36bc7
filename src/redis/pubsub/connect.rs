//! Making a layer: its servers, its queues, and everything that works in the background.

use std::sync::Arc;

use futures_util::future::join_all;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::inbox::{self, Inbox};
use super::interest::Interest;
use super::layer::PubSubLayer;
use super::publish::Publisher;
use super::topic::Topics;
use super::wire::Wire;
use crate::config::{Config, Fallback, Format};
use crate::error::Result;
use crate::layer::{Event, Modes};
use crate::memory::{Bounds, MemoryLayer};
use crate::redis::closing::Closing;
use crate::redis::node::connection::{Requirements, Timing, Version};
use crate::redis::node::shard::Shard;
use crate::redis::pubsub::subscribe::manager::{Behaviour, SubscriptionManager};
use crate::redis::topology::probe::HealthProbe;
use crate::redis::topology::servers;

/// The first version of Redis that closes connections which fall behind by more than they should.
const OLDEST_SERVER: Version = Version(5, 0);
/// The first version with `SPUBLISH`.
const OLDEST_SHARDED: Version = Version(7, 0);
impl PubSubLayer {
    /// Connects to the servers of `config`. Those that cannot be reached are tried again in the background; with
    /// [`Fallback::Local`], the default, none needs to be there.
    ///
    /// # Cancel safety
    ///
    /// When dropped, all connections are closed.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`](crate::Error::InvalidConfig),
    /// [`Error::UnsupportedServer`](crate::Error::UnsupportedServer) if a server is older than 5.0, or 7.0 for
    /// [`sharded_pubsub`](Config::sharded_pubsub); with [`Fallback::Fail`] [`Error::Redis`](crate::Error::Redis) if none can be reached, and
    /// always if sentinels are named and no [`services`](Config::services), and none of them tells which there are.
    pub async fn connect(config: Config) -> Result<Self> {
        let config = config.checked_for(Format::PubSub)?;
        let (events, _) = broadcast::channel(servers::EVENTS);
        let min_version = if config.sharded_pubsub { OLDEST_SHARDED } else { OLDEST_SERVER };
        let on_cluster = !config.sharded_pubsub;
        let needs = Requirements {
            pool_size: 1,
            writable: false,
            on_cluster,
            ..Requirements::new(&config, min_version, &[], None)
        };
        let fallback = config.fallback.unwrap_or(Fallback::Local);
        let (_, shards) = servers::connect(&config, &needs, &events, fallback == Fallback::Fail).await?;
        let layer = Self::start(shards, &config, fallback, events)?;
        join_all(layer.inbox.interest.stations().iter().map(|station| station.settled())).await;
        Ok(layer)
    }

    /// Starts everything that works in the background.
    fn start(
        shards: Vec<Arc<Shard>>,
        config: &Config,
        fallback: Fallback,
        events: broadcast::Sender<Event>,
    ) -> Result<Self> {
        let topics = Arc::new(Topics::new(config.key_prefix(), config.sharded_pubsub, shards.len()));
        let wire = Arc::new(Wire::new(config)?);
        let modes = Modes::new(shards.len(), events.clone());
        let publish = if config.sharded_pubsub { "SPUBLISH" } else { "PUBLISH" };
        let behaviour = Behaviour { fallback, return_after: config.return_after, publish };
        let station = |shard: &Arc<Shard>| {
            Arc::new(SubscriptionManager::new(
                shard.clone(),
                Timing::of(config),
                behaviour,
                modes.clone(),
                events.clone(),
            ))
        };
        let stations: Vec<_> = shards.iter().map(station).collect();
        let bounds = Bounds { overflow: config.overflow, bytes: config.max_queue_size };
        let memory = MemoryLayer::dropping(config, bounds)?;
        let interest = Interest::new(topics.clone(), stations.clone(), config.expiry);
        let closing = Closing::default();
        let inbox = Arc::new(Inbox::new(memory, interest, topics.clone(), wire.clone(), closing.clone()));

        let drained = CancellationToken::new();
        let (work, upkeep) = (TaskTracker::new(), TaskTracker::new());
        for (shard, station) in shards.iter().zip(&stations) {
            upkeep.spawn(shard.clone().supervise(drained.clone()));
            upkeep.spawn(station.clone().run(inbox.clone(), drained.clone()));
        }
        upkeep.spawn(inbox::sweep(inbox.clone(), config.expiry, closing.token().clone()));
        let publisher = Publisher::start(&stations, &inbox, &modes, &work, closing.token());
        upkeep.spawn(servers::drain(
            shards.clone(),
            work,
            closing.token().clone(),
            drained.clone(),
            std::future::ready(()),
        ));
        upkeep.close();
        let prefix = config.key_prefix().to_owned();
        let health_probe = HealthProbe::new(shards.len());
        Ok(Self {
            inbox,
            topics,
            wire,
            prefix,
            publisher,
            shards,
            health_probe,
            modes,
            events,
            closing,
            drained,
            upkeep,
        })
    }
}
