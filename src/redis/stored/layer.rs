//! `StoredLayer`: the trait over the send path, the receive path and the groups of a stored format.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::{join_all, try_join, try_join_all};
use rand::distr::{Alphanumeric, SampleString};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::drops::CountedIfUnread;
use crate::error::{Error, Result};
use crate::health::{Health, RedisStats};
use crate::layer::{ChannelLayer, Delivery, Event, GroupSendOutcomes, Receiver, Statistics};
use crate::message::Message;
use crate::name::{ChannelName, GroupName};
use crate::redis::closing::Closing;
use crate::redis::node::connection::Requirements;
use crate::redis::node::fault::Fault;
use crate::redis::receive::Readers;
use crate::redis::send::{PendingSend, SendOutcome, Sender};
use crate::redis::stored::format::{AtOnce, Background, Started, StoredFormat};
use crate::redis::stored::groups::StoredGroups;
use crate::redis::stored::scan;
use crate::redis::topology::places::Places;
use crate::redis::topology::probe::{self, HealthProbe};
use crate::redis::topology::servers;

/// The number of random characters in the name of a new channel, and the most names that are tried.
const NEW_NAME: usize = 12;
const NEW_NAMES: usize = 10;

/// A channel layer that stores its messages in Redis, in the format `F`.
///
/// Use it by the name of its format: [`RedisLayer`](crate::RedisLayer),
/// [`ChannelsRedisLayer`](crate::django::ChannelsRedisLayer) or [`AsgiRedisLayer`](crate::django::AsgiRedisLayer).
///
/// Call [`close`](ChannelLayer::close) before the runtime ends. It puts messages that were read and not received back.
/// Dropping the layer puts them back in the background. The layer works on the runtime that connected it: when that
/// runtime has ended, calls from another one return [`Error::RuntimeEnded`].
pub struct StoredLayer<F: StoredFormat> {
    pub(crate) format: Arc<F>,
    pub(crate) places: Arc<Places>,
    pub(super) sender: Sender<F>,
    readers: Readers,
    health_probe: HealthProbe,
    events: broadcast::Sender<Event>,
    pub(crate) closing: Closing,
    /// Cancelled when readers and senders have ended after the layer was closed.
    drained: CancellationToken,
    upkeep: TaskTracker,
}

impl<F: StoredFormat> StoredLayer<F> {
    /// Connects to the servers of `config`.
    ///
    /// At least one server has to be reachable. The others are tried again in the background.
    ///
    /// # Cancel safety
    ///
    /// When dropped, all connections are closed.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`], [`Error::UnsupportedServer`] if a server is too old for the format, [`Error::Redis`]
    /// if no server can be reached.
    pub async fn connect(config: Config) -> Result<Self> {
        Self::connect_to(config, true).await
    }

    /// Connects as [`connect`](Self::connect) does, but succeeds without a reachable server. Calls fail until one is
    /// reachable.
    ///
    /// # Cancel safety
    ///
    /// When dropped, all connections are closed.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`], [`Error::UnsupportedServer`] if a server is too old for the format; [`Error::Redis`]
    /// if sentinels are configured without [`services`](Config::services) and no sentinel can list them.
    pub async fn connect_or_wait(config: Config) -> Result<Self> {
        Self::connect_to(config, false).await
    }

    pub(crate) async fn connect_to(config: Config, some_needed: bool) -> Result<Self> {
        let config = config.checked_for(F::FORMAT)?;
        let (events, _) = broadcast::channel(servers::EVENTS);
        let needs = Requirements::new(&config, F::OLDEST_SERVER, F::SCRIPTS, Some(F::epoch_key(&config)));
        let places = if config.cluster {
            Box::pin(servers::connect_cluster(&config, &needs, &events, some_needed)).await?
        } else {
            let (identities, shards) = servers::connect(&config, &needs, &events, some_needed).await?;
            Places::new(shards, F::ring(&identities))
        };
        Self::start(&config, Arc::new(places), events)
    }

    /// Starts the background work.
    fn start(config: &Config, places: Arc<Places>, events: broadcast::Sender<Event>) -> Result<Self> {
        let (closing, drained) = (Closing::default(), CancellationToken::new());
        let (work, upkeep) = (TaskTracker::new(), TaskTracker::new());
        let background = Background { events: &events, upkeep: &upkeep };
        let Started { format, reading, drain } = F::start(config, &places, &background)?;
        places.supervise(&upkeep, &drained);
        let sender = Sender::start(places.clone(), format.clone(), &work, closing.token());
        let readers = Readers::new(places.clone(), reading, events.clone(), &work, &closing);
        let ending = closing.token().clone();
        let retrying = places.clone();
        let cancel_retries = move || retrying.cancel_retries();
        upkeep.spawn(servers::drain(cancel_retries, work, ending, drained.clone(), drain));
        upkeep.close();
        let health_probe = HealthProbe::default();
        Ok(Self { format, places, sender, readers, health_probe, events, closing, drained, upkeep })
    }

    fn enqueue(
        &self,
        channel: &str,
        message: &Message,
        past_capacity: bool,
    ) -> Result<(ChannelName, PendingSend<F::Body>)> {
        self.closing.check_not_closed()?;
        let channel = ChannelName::parse_target(channel)?;
        let mut message = self.format.message(channel.clone(), message)?;
        if past_capacity {
            message.capacity = usize::MAX;
        }
        Ok((channel, self.sender.enqueue(message)))
    }

    async fn send_all(&self, messages: &[(&str, Message)], past_capacity: bool) -> Vec<Result<()>> {
        let _call = self.sender.call();
        let enqueue = |(channel, message): &(&str, Message)| self.enqueue(channel, message, past_capacity);
        // All are queued before the first is flushed, so that they travel together.
        let pending: Vec<_> = messages.iter().map(enqueue).collect();
        pending.iter().flatten().for_each(|(_, pending)| self.sender.flush(pending));
        // At once, because a message may go on to another shard while an earlier one waits for its own.
        let outcomes = pending.into_iter().map(|pending| async {
            let (channel, pending) = pending?;
            Ok((channel, self.sender.outcome(pending).await))
        });
        let outcomes: Vec<Result<_>> = join_in_parts(outcomes).await;
        // No await follows, so the caller gets all results.
        let result = |(channel, outcome): (_, CountedIfUnread<_>)| self.result(channel, outcome.read());
        outcomes.into_iter().map(|outcome| outcome.and_then(result)).collect()
    }

    /// The result of sending a message to `channel`.
    pub(super) fn result(&self, channel: ChannelName, outcome: SendOutcome) -> Result<()> {
        match outcome {
            SendOutcome::Sent => Ok(()),
            SendOutcome::Full => Err(Error::ChannelFull { channel }),
            SendOutcome::Failed { fault, .. } if !fault.may_have_run && self.closing.has_ended() => {
                Err(self.closing.error())
            }
            SendOutcome::Failed { shard, fault } => Err(self.places.error(shard, fault)),
            SendOutcome::Closed => Err(self.closing.error()),
        }
    }

    fn sources(&self, channels: &[&str]) -> Result<Vec<ChannelName>> {
        self.closing.check()?;
        ChannelName::parse_sources(channels).map_err(Error::from)
    }
}

/// Like [`join_all`], which puts more than 30 futures into a heap. With 1000 futures that are ready together this takes
/// a third of the time.
pub(super) async fn join_in_parts<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let (mut futures, mut parts) = (futures.into_iter().peekable(), Vec::new());
    while futures.peek().is_some() {
        parts.push(join_all(futures.by_ref().take(30)));
    }
    join_all(parts).await.into_iter().flatten().collect()
}

#[async_trait]
impl<F: StoredFormat> ChannelLayer for StoredLayer<F> {
    async fn send(&self, channel: &str, message: Message) -> Result<()> {
        let (channel, pending) = self.enqueue(channel, &message, false)?;
        self.sender.flush(&pending);
        self.result(channel, self.sender.outcome(pending).await.read())
    }

    async fn send_many(&self, messages: &[(&str, Message)]) -> Vec<Result<()>> {
        self.send_all(messages, false).await
    }

    async fn requeue(&self, messages: &[(&str, Message)]) -> Vec<Result<()>> {
        self.send_all(messages, true).await
    }

    async fn receive(&self, channels: &[&str]) -> Result<Delivery> {
        self.readers.shared(self.sources(channels)?).recv().await
    }

    async fn try_receive(&self, channels: &[&str]) -> Result<Option<Delivery>> {
        self.readers.shared(self.sources(channels)?).try_recv().await
    }

    fn receiver(&self, channels: &[&str]) -> Result<Receiver> {
        Ok(Receiver::new(self.readers.own(self.sources(channels)?)))
    }

    async fn new_channel(&self, pattern: &str) -> Result<ChannelName> {
        self.closing.check()?;
        if !pattern.ends_with('?')
            && let Some(channel) = self.format.new_local_channel(pattern)
        {
            return channel;
        }
        // A random name is practically never taken. A server that reports each name as taken is at fault.
        let mut shard = 0;
        for _ in 0..NEW_NAMES {
            let suffix = Alphanumeric.sample_string(&mut rand::rng(), NEW_NAME);
            let channel = ChannelName::from_pattern(pattern, &suffix)?;
            shard = self.places.shard_of_channel(&channel).index;
            let mut command = redis::cmd("EXISTS");
            command.arg(self.format.channel_key(channel.as_str()));
            let exists = self.places.query(channel.as_str(), &command).await;
            if exists.map_err(|(shard, fault)| self.places.error(shard, fault))? == redis::Value::Int(0) {
                return Ok(channel);
            }
        }
        Err(self.places.error(shard, Fault::unexpected("all new names are taken")))
    }

    async fn group_add(&self, group: &str, channel: &str) -> Result<()> {
        self.group_add_for(group, channel, self.format.groups().expiry()).await
    }

    async fn group_add_for(&self, group: &str, channel: &str, lasts: Duration) -> Result<()> {
        self.closing.check()?;
        let (group, channel) = (GroupName::parse(group)?, ChannelName::parse_target(channel)?);
        self.format.groups().add(&group, &channel, lasts).await
    }

    async fn group_discard(&self, group: &str, channel: &str) -> Result<()> {
        self.closing.check()?;
        self.format.groups().discard(&GroupName::parse(group)?, &ChannelName::parse_target(channel)?).await
    }

    async fn group_channels(&self, group: &str) -> Result<Vec<ChannelName>> {
        self.closing.check()?;
        self.format.groups().channels(&GroupName::parse(group)?).await
    }

    async fn group_send(&self, group: &str, message: Message) -> Result<()> {
        let _call = self.sender.call();
        self.closing.check()?;
        let group = GroupName::parse(group)?;
        let message = self.format.group_message(&message)?;
        let pending = match self.format.send_at_once(&self.sender, &group, &message).await {
            AtOnce::Sent(pending) => pending,
            AtOnce::Unsent(Some(destinations)) => self.enqueue_to(&group, &message, &destinations)?,
            AtOnce::Unsent(None) => {
                let destinations = self.destinations(std::slice::from_ref(&group), 1).await.pop();
                let destinations = destinations.expect("a format answers for every group");
                let destinations = destinations.map_err(|(shard, fault)| self.places.error(shard, fault))?;
                self.enqueue_to(&group, &message, &destinations)?
            }
        };
        for pending in &pending {
            self.sender.flush(pending);
        }
        self.finish_group(pending).await.result()
    }

    async fn group_send_many(&self, messages: &[(&str, Message)]) -> Vec<Result<()>> {
        let _call = self.sender.call();
        let prepare = |(group, message): &(&str, Message)| {
            self.closing.check()?;
            Ok((GroupName::parse(group)?, self.format.group_message(message)?))
        };
        let prepared: Vec<Result<_>> = messages.iter().map(prepare).collect();
        let mut groups: Vec<_> = prepared.iter().flatten().map(|(group, _)| group.clone()).collect();
        groups.sort();
        groups.dedup();
        let destinations = self.destinations(&groups, prepared.iter().flatten().count()).await;
        let enqueue = |prepared: Result<(GroupName, F::GroupMessage)>| {
            let (group, message) = prepared?;
            let place = groups.binary_search(&group).expect("every group that parsed is in the list");
            match &destinations[place] {
                Ok(destinations) => self.enqueue_to(&group, &message, destinations),
                Err((shard, fault)) => Err(self.places.error(*shard, fault.clone())),
            }
        };
        // The errors of some messages wait for the outcomes of the others.
        let refused = |error| CountedIfUnread::of_send(Err(error));
        let pending: Vec<_> = prepared.into_iter().map(|prepared| enqueue(prepared).map_err(refused)).collect();
        pending.iter().flatten().flatten().for_each(|pending| self.sender.flush(pending));
        let results =
            join_all(pending.into_iter().map(|pending| async { Ok(self.finish_group(pending?).await) })).await;
        // No await follows, so the caller gets all results.
        let result = |result: Result<GroupSendOutcomes, CountedIfUnread<_>>| match result {
            Ok(result) => result.result(),
            Err(refused) => refused.read(),
        };
        results.into_iter().map(result).collect()
    }

    async fn flush(&self) -> Result<()> {
        self.closing.check()?;
        // The flush deletes the statistics too, so those of this process are written before it.
        self.format.write_statistics().await;
        scan::delete_all(&self.places, |shard| self.format.scans(shard)).await
    }

    async fn global_statistics(&self) -> Result<Statistics> {
        self.closing.check()?;
        self.format.write_statistics().await;
        let parts = self.places.shards().map(|shard| async move {
            self.format.global_statistics(shard).await.map_err(|fault| (shard.index, fault))
        });
        let parts = try_join(try_join_all(parts), self.format.cluster_statistics()).await;
        let (parts, of_cluster) = parts.map_err(|(shard, fault)| self.places.error(shard, fault))?;
        Ok(parts.into_iter().fold(of_cluster, Statistics::merge))
    }

    async fn channel_statistics(&self, channel: &str) -> Result<Statistics> {
        self.closing.check()?;
        let channel = &ChannelName::parse(channel)?;
        self.format.write_statistics().await;
        let parts = self.places.lists(channel).map(|(list, shard)| async move {
            let statistics = self.format.channel_statistics(shard, channel, &list).await;
            statistics.map_err(|fault| shard.error(fault))
        });
        Ok(try_join_all(parts).await?.into_iter().fold(Statistics::default(), Statistics::merge))
    }

    async fn close(&self) -> Result<()> {
        self.closing.close();
        self.drained.cancelled().await;
        self.upkeep.wait().await;
        self.places.disconnect().await;
        match self.readers.lost() {
            Some((shard, fault)) => Err(self.places.error(shard, fault)),
            None => Ok(()),
        }
    }

    async fn health(&self) -> Health {
        let key = |channel: &ChannelName| self.format.channel_key(channel.non_local());
        let send_through = |shard| probe::send_through(self, &self.places, shard, key);
        self.health_probe.health(self.places.shards(), send_through).await
    }

    async fn redis_stats(&self) -> Result<Vec<RedisStats>> {
        self.closing.check()?;
        probe::stats(self.places.shards()).await
    }

    fn group_expiry(&self) -> Duration {
        self.format.groups().expiry()
    }

    fn max_message_size(&self) -> usize {
        self.format.max_message_size()
    }

    fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    fn outage(&self) -> Option<usize> {
        self.places.shards().find(|shard| shard.outage().is_some()).map(|shard| shard.index)
    }
}

impl<F: StoredFormat> Drop for StoredLayer<F> {
    fn drop(&mut self) {
        self.closing.close();
    }
}

impl<F: StoredFormat> std::fmt::Debug for StoredLayer<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoredLayer").field("format", &F::FORMAT).field("places", &self.places).finish_non_exhaustive()
    }
}
