//! Construction of a `PubSubLayer`: its servers, its queues and its tasks.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::inbox::{self, Inbox};
use super::interest::Interest;
use super::layer::PubSubLayer;
use super::managers::Managers;
use super::managers::unserved::Unserved;
use super::publish::Publisher;
use super::topic::{Sharding, Topics};
use super::wire::Wire;
use crate::config::{Config, Fallback, Format};
use crate::error::Result;
use crate::layer::{Event, Modes};
use crate::memory::{Bounds, MemoryLayer};
use crate::redis::closing::Closing;
use crate::redis::node::connection::{ClusterUse, Requirements, Timing, Version};
use crate::redis::node::shard::Shard;
use crate::redis::pubsub::subscribe::manager::{SubscriptionManager, SubscriptionOptions};
use crate::redis::topology::places::Places;
use crate::redis::topology::probe::HealthProbe;
use crate::redis::topology::ring::Ring;
use crate::redis::topology::servers;

/// The first version of Redis that closes the connections of slow subscribers.
const OLDEST_SERVER: Version = Version(5, 0);
/// The first version with `SPUBLISH`.
const OLDEST_SHARDED: Version = Version(7, 0);

impl PubSubLayer {
    /// Connects to the servers of `config`. Unreachable servers are tried again in the background. With
    /// [`Fallback::Local`], the default, no server has to be reachable.
    ///
    /// # Cancel safety
    ///
    /// A dropped future closes all connections.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`](crate::Error::InvalidConfig),
    /// [`Error::UnsupportedServer`](crate::Error::UnsupportedServer) if a server is older than 5.0, or 7.0 for
    /// [`sharded_pubsub`](Config::sharded_pubsub). [`Error::Redis`](crate::Error::Redis) if [`Fallback::Fail`] is set
    /// and no server is reachable, or if sentinels are configured without [`services`](Config::services) and none of
    /// them lists its services.
    pub async fn connect(config: Config) -> Result<Self> {
        let config = config.checked_for(Format::PubSub)?;
        let (events, _) = broadcast::channel(servers::EVENTS);
        let min_version = if config.sharded_pubsub { OLDEST_SHARDED } else { OLDEST_SERVER };
        let mut requirements =
            Requirements { pool_size: 1, writable: false, ..Requirements::new(&config, min_version, &[], None) };
        if !config.cluster && !config.sharded_pubsub {
            requirements.cluster = ClusterUse::AnyNode;
        }
        let fallback = config.fallback.unwrap_or(Fallback::Local);
        let some_needed = fallback == Fallback::Fail;
        let places = if config.cluster && config.sharded_pubsub {
            Box::pin(servers::connect_cluster(&config, &requirements, &events, some_needed)).await?
        } else {
            let (_, shards) = servers::connect(&config, &requirements, &events, some_needed).await?;
            let ring = Ring::crc(shards.len());
            Places::new(shards, ring)
        };
        let layer = Self::start(Arc::new(places), &config, fallback, events)?;
        join_all(layer.inbox.interest.managers().all().map(|manager| manager.wait_until_known())).await;
        Ok(layer)
    }

    /// Creates the layer and starts its tasks.
    fn start(
        places: Arc<Places>,
        config: &Config,
        fallback: Fallback,
        events: broadcast::Sender<Event>,
    ) -> Result<Self> {
        let sharding = match (config.sharded_pubsub, places.cluster()) {
            (false, _) => Sharding::Classic(places.count()),
            (true, None) => Sharding::Sharded(places.count()),
            (true, Some(_)) => Sharding::Partitioned,
        };
        let topics = Arc::new(Topics::new(config.key_prefix(), sharding));
        let wire = Arc::new(Wire::new(config)?);
        let modes = Modes::new(places.count(), events.clone());
        let publish = if config.sharded_pubsub { "SPUBLISH" } else { "PUBLISH" };
        let unserved = Arc::new(Unserved::new(config.command_timeout));
        let timing = Timing::of(config);
        let return_after = config.return_after;
        let options = SubscriptionOptions { timing, fallback, return_after, publish, unserved: unserved.clone() };
        let manager = {
            let (places, modes, events) = (places.clone(), modes.clone(), events.clone());
            move |shard: &Arc<Shard>| {
                let (places, options, modes) = (places.clone(), options.clone(), modes.clone());
                Arc::new(SubscriptionManager::new(shard.clone(), places, options, modes, events.clone()))
            }
        };
        let managers = Arc::new(Managers::new(places.clone(), unserved, manager));
        let bounds = Bounds { overflow: config.overflow, bytes: config.max_queue_size };
        let memory = MemoryLayer::dropping(config, bounds)?;
        let interest = Interest::new(topics.clone(), managers.clone(), config.expiry);
        let closing = Closing::default();
        let inbox = Arc::new(Inbox::new(memory, interest, topics.clone(), wire.clone(), closing.clone()));

        let drained = CancellationToken::new();
        let (work, upkeep) = (TaskTracker::new(), TaskTracker::new());
        places.supervise(&upkeep, &drained);
        let start = {
            let (inbox, upkeep, drained) = (inbox.clone(), upkeep.clone(), drained.clone());
            move |manager: Arc<SubscriptionManager>| {
                let (inbox, shard) = (inbox.clone(), manager.shard.index);
                let deliver = Arc::new(move |topic: &[u8], payload: Bytes| inbox.receive(shard, topic, &payload));
                upkeep.spawn(manager.run(deliver, drained.clone()));
            }
        };
        managers.all().cloned().for_each(&start);
        if places.is_cluster() {
            upkeep.spawn(managers.clone().follow_cluster(modes.clone(), start, drained.clone()));
        }
        upkeep.spawn(inbox::sweep(inbox.clone(), config.expiry, closing.token().clone()));
        let publisher = Publisher::start(topics.places(), &inbox, &modes, &work, closing.token());
        let retrying = places.clone();
        upkeep.spawn(servers::drain(
            move || retrying.cancel_retries(),
            work,
            closing.token().clone(),
            drained.clone(),
            std::future::ready(()),
        ));
        upkeep.close();
        let prefix = config.key_prefix().to_owned();
        let health_probe = HealthProbe::default();
        Ok(Self {
            inbox,
            topics,
            wire,
            prefix,
            publisher,
            places,
            health_probe,
            modes,
            events,
            closing,
            drained,
            upkeep,
        })
    }
}
