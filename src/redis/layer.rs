//! The layer on Redis: the trait over the way out, the way in and the groups.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rand::distr::{Alphanumeric, SampleString};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::batch::Outcome;
use super::calls::Sends;
use super::checkup::{self, Checkup};
use super::closing::Closing;
use super::connection::{Needs, Version};
use super::envelope::Envelope;
use super::fault::Fault;
use super::group::Groups;
use super::keys::Keys;
use super::letter::{Letter, Recipient};
use super::quarantine::Quarantine;
use super::receive::{Native, QuarantineWriter, Readers};
use super::ring::Ring;
use super::routes::Routes;
use super::script;
use super::send::{Posted, Sender};
use super::servers;
use super::statistics;
use super::topology::Topology;
use crate::config::{Config, Format};
use crate::error::{Error, Result};
use crate::health::{Health, RedisStats};
use crate::layer::{ChannelLayer, Delivery, Event, Receiver, Statistics};
use crate::message::Message;
use crate::name::{ChannelName, GroupName};

/// `BLMPOP` came with Redis 7.0; Valkey began after it and reports such a version too.
const OLDEST_SERVER: Version = Version(7, 0);
/// Random characters of a new channel's name, and how many names are tried.
const NEW_NAME: usize = 12;
const NEW_NAMES: usize = 10;

/// A channel layer on one or more Redis servers, version 7.0 or later.
///
/// Messages are kept in lists and group memberships in sorted sets. All guarantees of [`ChannelLayer`] hold between
/// any number of processes. `!` and `?` channels and groups each live on one server; normal channels are spread over
/// all that are up, each holding its share of their capacity.
///
/// [`close`](ChannelLayer::close) it before the runtime ends, so that what has been read and not handed over goes back;
/// dropping it does so in the background. It works on the runtime that connected it: when that has ended, calls from
/// another give [`Error::RuntimeEnded`].
///
/// ```no_run
/// use channel_layer::{ChannelLayer, Config, RedisLayer, message};
///
/// # async fn example() -> channel_layer::Result<()> {
/// let layer = RedisLayer::connect(Config::new().host("redis://127.0.0.1:6379/0")).await?;
/// layer.send("thumbnails.make", message! { "path": "cat.png" }).await?;
/// let delivery = layer.receive(&["thumbnails.make"]).await?;
/// assert_eq!(delivery.message.text("path"), Some("cat.png"));
/// # Ok(())
/// # }
/// ```
pub struct RedisLayer {
    topology: Arc<Topology>,
    envelope: Arc<Envelope>,
    groups: Arc<Groups>,
    sender: Sender,
    readers: Readers,
    checkup: Checkup,
    events: broadcast::Sender<Event>,
    closing: Closing,
    /// Cancelled when readers and lanes have ended after the layer.
    drained: CancellationToken,
    upkeep: TaskTracker,
}

impl RedisLayer {
    /// Connects to the servers of `config`.
    ///
    /// Servers that cannot be reached are tried again in the background, as long as one can be reached now.
    ///
    /// # Cancel safety
    ///
    /// When dropped, all connections are closed.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`], [`Error::UnsupportedServer`] if a server is older than 7.0, [`Error::Redis`] if none
    /// can be reached.
    pub async fn connect(config: Config) -> Result<Self> {
        Self::connect_to(config, true).await
    }

    /// As [`connect`](Self::connect), but no server has to be there: calls fail until one is.
    ///
    /// # Cancel safety
    ///
    /// When dropped, all connections are closed.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`], [`Error::UnsupportedServer`] if a server is older than 7.0; [`Error::Redis`] if sentinels
    /// are named and no [`services`](Config::services), and none of them tells which there are.
    pub async fn connect_or_wait(config: Config) -> Result<Self> {
        Self::connect_to(config, false).await
    }

    /// The entries that no reader could read, on all servers: to look at them, to restore them or to delete them.
    pub fn quarantine(&self) -> Quarantine<'_> {
        Quarantine::new(&self.topology, &self.envelope, &self.closing)
    }

    async fn connect_to(config: Config, some_needed: bool) -> Result<Self> {
        let config = config.checked_for(Format::Native)?;
        let keys = Keys::new(config.key_prefix(), config.stats_key_prefix());
        let (events, _) = broadcast::channel(servers::EVENTS);
        let needs = Needs::new(&config, OLDEST_SERVER, &script::NATIVE, Some(keys.epoch()));
        let (identities, shards) = servers::connect(&config, &needs, &events, some_needed).await?;
        let ring = Ring::new(identities.iter().map(String::as_str));
        let envelope = Envelope::new(config.key_ring()?, config.max_message_size, config.expiry);
        let topology = Topology::new(shards, ring, keys);
        Self::start(topology, envelope, &config, events)
    }

    /// Starts everything that works in the background.
    fn start(
        topology: Topology,
        envelope: Envelope,
        config: &Config,
        events: broadcast::Sender<Event>,
    ) -> Result<Self> {
        let (topology, envelope) = (Arc::new(topology), Arc::new(envelope));
        let groups = Arc::new(Groups::new(topology.clone(), config.group_expiry, config.expiry));
        let (closing, drained) = (Closing::default(), CancellationToken::new());
        let (work, upkeep) = (TaskTracker::new(), TaskTracker::new());
        for shard in &topology.shards {
            upkeep.spawn(shard.clone().supervise(drained.clone()));
        }
        let capacity = config.capacities()?;
        let sender = Sender::start(topology.clone(), envelope.clone(), capacity, &work, closing.token());
        let read = CancellationToken::new();
        let (quarantine, writing) = QuarantineWriter::new(&topology.keys, events.clone(), read.clone());
        let writing = upkeep.spawn(writing);
        let quarantined = async move {
            read.cancel();
            // An error would be that of its runtime.
            let _ = writing.await;
        };
        let native = Native::new(topology.clone(), envelope.clone(), groups.clone(), quarantine);
        let readers = Readers::new(topology.places.clone(), Box::new(native), events.clone(), &work, &closing);
        upkeep.spawn(servers::drain(
            topology.shards.clone(),
            work,
            closing.token().clone(),
            drained.clone(),
            quarantined,
        ));
        upkeep.close();
        let checkup = Checkup::new(topology.shards.len());
        Ok(Self { topology, envelope, groups, sender, readers, checkup, events, closing, drained, upkeep })
    }

    fn encode(&self, message: &Message) -> Result<Arc<[u8]>> {
        let mut plain = Vec::with_capacity(256);
        self.envelope.encode(message, &mut plain)?;
        Ok(plain.into())
    }

    fn post(&self, channel: &str, message: &Message, past_capacity: bool) -> Result<(ChannelName, Posted)> {
        let (channel, plain) = (ChannelName::parse_target(channel)?, self.encode(message)?);
        let letter = Letter { channel: channel.clone(), to: Recipient::Channel, plain, past_capacity };
        Ok((channel, self.sender.post(letter)))
    }

    async fn send_all(&self, messages: &[(&str, Message)], past_capacity: bool) -> Vec<Result<()>> {
        let post = |(channel, message): &(&str, Message)| {
            self.closing.check_not_closed()?;
            self.post(channel, message, past_capacity)
        };
        // All are queued before the first is waited for, so that they travel together.
        let posted: Vec<_> = messages.iter().map(post).collect();
        posted.iter().flatten().for_each(|(_, posted)| self.sender.go(posted));
        let mut results = Vec::with_capacity(posted.len());
        for posted in posted {
            results.push(match posted {
                Ok(posted) => self.finish(posted).await,
                Err(error) => Err(error),
            });
        }
        results
    }

    async fn finish(&self, (channel, posted): (ChannelName, Posted)) -> Result<()> {
        match self.sender.outcome(posted).await {
            Outcome::Sent => Ok(()),
            Outcome::Full => Err(Error::ChannelFull { channel }),
            Outcome::Failed { fault, .. } if !fault.may_have_run && self.closing.has_ended() => {
                Err(self.closing.error())
            }
            Outcome::Failed { shard, fault } => Err(self.topology.error(shard, fault)),
            Outcome::Closed => Err(self.closing.error()),
        }
    }

    fn post_to_routes(&self, group: &GroupName, plain: &Arc<[u8]>, routes: &Routes) -> Vec<Posted> {
        Sender::letters(group, plain, &routes.list).map(|letter| self.sender.post(letter)).collect()
    }

    /// Sends to the routes that a group probably has, in one call that finds out whether it has them. If it has not, or
    /// it cannot be done in one call, nothing is sent; then the result may be the routes that it has.
    async fn send_to_guess(&self, group: &GroupName, plain: &Arc<[u8]>) -> Result<Vec<Posted>, Option<Routes>> {
        let shard = self.topology.shard_of_group(group);
        let condition = self.groups.guess(group).ok_or(None)?;
        if !self.sender.fits_one_call(&condition.routes.list, plain.len(), shard) {
            return Err(None);
        }
        let sent = self.sender.send_if(&condition, plain, shard).await;
        let told = |answer| self.groups.note_routes(group, &answer).ok().filter(|routes| self.groups.suffices(routes));
        sent.map_err(|answer| answer.and_then(told))
    }

    /// Waits for all of `posted`.
    async fn finish_routes(&self, posted: Vec<Posted>) -> Result<()> {
        let mut sends = Sends::default();
        for posted in posted {
            sends.add(&self.topology, self.sender.outcome(posted).await);
        }
        sends.result().map_err(|error| self.closing.explain(error))
    }

    fn sources(&self, channels: &[&str]) -> Result<Vec<ChannelName>> {
        self.closing.check()?;
        ChannelName::parse_sources(channels).map_err(Error::from)
    }
}

#[async_trait]
impl ChannelLayer for RedisLayer {
    async fn send(&self, channel: &str, message: Message) -> Result<()> {
        self.closing.check_not_closed()?;
        let posted = self.post(channel, &message, false)?;
        self.sender.go(&posted.1);
        self.finish(posted).await
    }

    async fn send_many(&self, messages: &[(&str, Message)]) -> Vec<Result<()>> {
        self.send_all(messages, false).await
    }

    async fn give_back(&self, messages: &[(&str, Message)]) -> Vec<Result<()>> {
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
        // That a name is taken is as good as impossible; a server that says so every time is at fault.
        let mut shard = 0;
        for _ in 0..NEW_NAMES {
            let suffix = Alphanumeric.sample_string(&mut rand::rng(), NEW_NAME);
            let channel = ChannelName::from_pattern(pattern, &suffix)?;
            let home = self.topology.shard_of_channel(&channel);
            shard = home.index;
            let mut command = redis::cmd("EXISTS");
            command.arg(self.topology.keys.channel(channel.as_str()));
            if home.run(&command).await.map_err(|fault| home.error(fault))? == redis::Value::Int(0) {
                return Ok(channel);
            }
        }
        Err(self.topology.error(shard, Fault::unexpected("all new names are taken")))
    }

    async fn group_add(&self, group: &str, channel: &str) -> Result<()> {
        self.group_add_for(group, channel, self.groups.expiry()).await
    }

    async fn group_add_for(&self, group: &str, channel: &str, lasts: Duration) -> Result<()> {
        self.closing.check()?;
        self.groups.add(&GroupName::parse(group)?, &ChannelName::parse_target(channel)?, lasts).await
    }

    async fn group_discard(&self, group: &str, channel: &str) -> Result<()> {
        self.closing.check()?;
        self.groups.discard(&GroupName::parse(group)?, &ChannelName::parse_target(channel)?).await
    }

    async fn group_channels(&self, group: &str) -> Result<Vec<ChannelName>> {
        self.closing.check()?;
        self.groups.channels(&GroupName::parse(group)?).await
    }

    async fn group_send(&self, group: &str, message: Message) -> Result<()> {
        let _under_way = self.sender.call();
        self.closing.check()?;
        let group = GroupName::parse(group)?;
        let plain = self.encode(&message)?;
        let posted = match self.send_to_guess(&group, &plain).await {
            Ok(posted) => posted,
            Err(Some(routes)) => self.post_to_routes(&group, &plain, &routes),
            Err(None) => self.post_to_routes(&group, &plain, &self.groups.routes(&group).await?),
        };
        for posted in &posted {
            self.sender.go(posted);
        }
        self.finish_routes(posted).await
    }

    async fn group_send_many(&self, messages: &[(&str, Message)]) -> Vec<Result<()>> {
        let _under_way = self.sender.call();
        let prepare = |(group, message): &(&str, Message)| {
            self.closing.check()?;
            Ok((GroupName::parse(group)?, self.encode(message)?))
        };
        let prepared: Vec<Result<_>> = messages.iter().map(prepare).collect();
        let mut groups: Vec<_> = prepared.iter().flatten().map(|(group, _)| group.clone()).collect();
        groups.sort();
        groups.dedup();
        let routes = self.groups.routes_of_all(&groups).await;
        let mut posted = Vec::with_capacity(prepared.len());
        for prepared in prepared {
            posted.push(prepared.and_then(|(group, plain)| {
                let place = groups.binary_search(&group).expect("every group that parsed is in the list");
                match &routes[place] {
                    Ok(routes) => Ok(self.post_to_routes(&group, &plain, routes)),
                    Err((shard, fault)) => Err(self.topology.error(*shard, fault.clone())),
                }
            }));
        }
        posted.iter().flatten().flatten().for_each(|posted| self.sender.go(posted));
        let mut results = Vec::with_capacity(posted.len());
        for posted in posted {
            results.push(match posted {
                Ok(posted) => self.finish_routes(posted).await,
                Err(error) => Err(error),
            });
        }
        results
    }

    async fn flush(&self) -> Result<()> {
        self.closing.check()?;
        statistics::flush(&self.topology).await
    }

    async fn global_statistics(&self) -> Result<Statistics> {
        self.closing.check()?;
        statistics::global(&self.topology).await
    }

    async fn channel_statistics(&self, channel: &str) -> Result<Statistics> {
        self.closing.check()?;
        statistics::of_channel(&self.topology, &ChannelName::parse(channel)?).await
    }

    async fn close(&self) -> Result<()> {
        self.closing.close();
        self.drained.cancelled().await;
        self.upkeep.wait().await;
        match self.readers.lost() {
            Some((shard, fault)) => Err(self.topology.error(shard, fault)),
            None => Ok(()),
        }
    }

    async fn health(&self) -> Health {
        let place = |channel: &ChannelName| {
            let key = self.topology.keys.channel(channel.non_local());
            (key, self.topology.shard_of_channel(channel).index)
        };
        self.checkup.health(&self.topology.shards, |shard| checkup::travel(self, shard, place)).await
    }

    async fn redis_stats(&self) -> Result<Vec<RedisStats>> {
        self.closing.check()?;
        checkup::stats(&self.topology.shards).await
    }

    fn group_expiry(&self) -> Duration {
        self.groups.expiry()
    }

    fn max_message_size(&self) -> usize {
        self.envelope.max_message_size()
    }

    fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    fn outage(&self) -> Option<usize> {
        self.topology.shards.iter().position(|shard| !shard.is_up())
    }
}

impl Drop for RedisLayer {
    fn drop(&mut self) {
        self.closing.close();
    }
}

impl std::fmt::Debug for RedisLayer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisLayer").field("shards", &self.topology.shards).finish_non_exhaustive()
    }
}
