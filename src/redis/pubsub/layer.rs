//! `PubSubLayer` and its part of the contract.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rand::distr::{Alphanumeric, SampleString};
use tokio::sync::{broadcast, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::inbox::Inbox;
use super::publish::{OutboundMessage, Publisher};
use super::source::PubSubSource;
use super::topic::{Target, Topics};
use super::wire::Wire;
use crate::error::{Error, Result};
use crate::health::{Health, RedisStats};
use crate::layer::{ChannelLayer, Delivery, Event, Mode, Modes, Receiver, ShardStatus, Source, Statistics};
use crate::message::Message;
use crate::name::{ChannelKind, ChannelName, GroupName};
use crate::redis::closing::Closing;
use crate::redis::node::fault::Fault;
use crate::redis::node::shard::Shard;
use crate::redis::topology::probe::{self, HealthProbe};

/// Random characters of a new channel's name.
const NEW_NAME: usize = 12;

/// A channel layer on the publish and subscribe of Redis, in the wire format of the `pubsub` layer of Python's
/// `channels_redis`: quick, and kept nowhere.
///
/// A message goes to the processes that read its channel when it is published, each of which keeps it in a queue of its
/// own until its expiry. Redis holds nothing, so that no message waits for a reader who is not there yet. A channel is
/// *open* in a process while a receiver of it lives and for the expiry after that, and after
/// [`subscribe`](Self::subscribe) or [`new_channel`](ChannelLayer::new_channel) for the expiry. A queue holds as many
/// messages as the channel has [capacity](crate::Config::capacity), 10,000 by default, and as fit into
/// [`max_queue_size`](crate::Config::max_queue_size); above that the oldest go, or the newest, as
/// [`overflow`](crate::Config::overflow) says. `send` never gives [`Error::ChannelFull`].
///
/// - **Normal channels** give each message to every process that reads them, and there to one reader. To share work
///   inside each process put a [`HybridLayer`](crate::HybridLayer) with a [`MemoryLayer`](crate::MemoryLayer) before it.
/// - **Groups** are known only where their members are read: a `!` or `?` channel is added in the process that reads it.
/// - **Several servers** share the Redis channels by the hash that Python uses. The order of messages holds for each
///   server alone, and process-local channels are listened to on all of them.
/// - **Deployments** on one server share its channels, whatever their prefixes and databases; only groups have the prefix.
/// - **Names** of channels that begin with the prefix and `__group__` stand for groups, as they do for Python.
///
/// # Without Redis
///
/// While a server is away, from the start or later, everything goes on between the members of this process, unless
/// [`fallback`](crate::Config::fallback) says that calls shall fail. No call waits for a server that is known to be away; those
/// that were waiting when it went are answered within the command timeout. What the server had not taken then stays
/// here; what it may have taken is not sent twice, and counted as dropped under the reason `unconfirmed`.
///
/// Messages go to the server again when it has answered for [`return_after`](crate::Config::return_after) and everything is
/// subscribed. What stayed here is counted and not sent later. So the order of one sender's messages holds through both
/// changes. Each server of several has its own state: [`status`](Self::status), [`mode`](ChannelLayer::mode),
/// [`Event::LocalOnly`] and [`Event::Remote`], the metrics `channel_layer_local_only` and
/// `channel_layer_stayed_local_total`, and one line in the log for each change.
///
/// ```no_run
/// use channel_layer::{ChannelLayer, Config, PubSubLayer, message};
///
/// # async fn example() -> channel_layer::Result<()> {
/// let layer = PubSubLayer::connect(Config::new().host("redis://127.0.0.1:6379")).await?;
/// let mut receiver = layer.receiver(&["websocket.send.server1!"])?;
/// layer.group_add("room", "websocket.send.server1!ada").await?;
/// layer.group_send("room", message! { "text": "hello" }).await?;
/// assert_eq!(receiver.recv().await?.message.text("text"), Some("hello"));
/// # Ok(())
/// # }
/// ```
pub struct PubSubLayer {
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) topics: Arc<Topics>,
    pub(crate) wire: Arc<Wire>,
    pub(crate) prefix: String,
    pub(crate) publisher: Publisher,
    pub(crate) shards: Vec<Arc<Shard>>,
    pub(crate) health_probe: HealthProbe,
    pub(crate) modes: Arc<Modes>,
    pub(crate) events: broadcast::Sender<Event>,
    pub(crate) closing: Closing,
    /// Cancelled when all lanes have ended after the layer.
    pub(crate) drained: CancellationToken,
    pub(crate) upkeep: TaskTracker,
}

/// What came of a message that was given to a lane.
pub(crate) type Posted = (usize, oneshot::Receiver<Result<()>>);

impl PubSubLayer {
    /// Opens `channels` in this process: messages that are sent from now on wait here to be read, for the expiry. A
    /// reader needs no such call, unless a message may be sent before it is there.
    ///
    /// # Cancel safety
    ///
    /// When dropped, the channels are opened all the same.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidName`] for a bad name or an empty list, [`Error::Redis`], [`Error::Closed`].
    pub async fn subscribe(&self, channels: &[&str]) -> Result<()> {
        self.check_open()?;
        for channel in ChannelName::parse_sources(channels)? {
            // The channel stays open here, whatever the server says.
            self.open(&channel).await.map_err(Error::of_a_part)?;
        }
        Ok(())
    }

    /// A new channel as Python's `channels_redis.pubsub` makes them for its consumers, open in this process: the prefix
    /// of the layer, then `prefix`, then 32 hexadecimal digits. Django accepts such a name where it refuses those of
    /// [`new_channel`](ChannelLayer::new_channel), which have a `?`.
    ///
    /// # Cancel safety
    ///
    /// When dropped, the channel closes after a while.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidName`] if the whole is no name of a normal channel, [`Error::Redis`], [`Error::Closed`].
    pub async fn new_specific_channel(&self, prefix: &str) -> Result<ChannelName> {
        let name = format!("{}{prefix}{:032x}", self.prefix, rand::random::<u128>());
        let channel = ChannelName::parse_source(&name)?;
        self.check_open()?;
        self.open(&channel).await?;
        Ok(channel)
    }

    /// How each server is used now, in the order of the configured hosts.
    pub fn status(&self) -> Vec<ShardStatus> {
        self.modes.status()
    }

    fn check_open(&self) -> Result<()> {
        self.closing.check()
    }

    /// Opens `channel`, which has no local part, for the expiry; waits until its server has confirmed that.
    async fn open(&self, channel: &ChannelName) -> Result<()> {
        let wished = self.inbox.interest.keep(channel);
        self.inbox.interest.granted(&wished).await
    }

    /// Has `message` published for `target`, and `kept` delivered in its place if it stays in this process.
    pub(crate) fn post(&self, target: Target, message: &Message, kept: Message) -> Result<Posted> {
        let address = self.topics.address(&target);
        let named = match &target {
            Target::Channel(channel) if address.shared => Some(channel.as_str()),
            _ => None,
        };
        let payload = self.wire.seal(message, named)?;
        let (done, posted) = oneshot::channel();
        let letter = OutboundMessage { target, topic: address.topic, payload, message: kept, done };
        self.publisher.post(address.shard, letter);
        Ok((address.shard, posted))
    }

    fn post_to_channel(&self, channel: &str, message: &Message) -> Result<Posted> {
        self.check_open()?;
        self.post(Target::Channel(ChannelName::parse_target(channel)?), message, message.clone())
    }

    fn post_to_group(&self, group: &str, message: &Message) -> Result<Posted> {
        self.check_open()?;
        self.post(Target::Group(GroupName::parse(group)?), message, message.clone())
    }

    /// Waits until what was posted has been published or kept.
    pub(crate) async fn outcome(&self, (shard, posted): Posted) -> Result<()> {
        match posted.await {
            Ok(result) => result,
            Err(_) if self.closing.has_ended() => Err(self.closing.error()),
            Err(_) => Err(self.shards[shard].error(Fault::panicked())),
        }
    }

    /// All are queued before the first is waited for, so that they travel together.
    async fn outcomes(&self, posted: Vec<Result<Posted>>) -> Vec<Result<()>> {
        let mut results = Vec::with_capacity(posted.len());
        for posted in posted {
            results.push(match posted {
                Ok(posted) => self.outcome(posted).await,
                Err(error) => Err(error),
            });
        }
        results
    }

    fn source(&self, channels: &[&str]) -> Result<PubSubSource> {
        self.check_open()?;
        PubSubSource::new(self.inbox.clone(), ChannelName::parse_sources(channels)?)
    }
}

#[async_trait]
impl ChannelLayer for PubSubLayer {
    async fn send(&self, channel: &str, message: Message) -> Result<()> {
        self.outcome(self.post_to_channel(channel, &message)?).await
    }

    async fn send_many(&self, messages: &[(&str, Message)]) -> Vec<Result<()>> {
        let post = |(channel, message): &(&str, Message)| self.post_to_channel(channel, message);
        self.outcomes(messages.iter().map(post).collect()).await
    }

    async fn receive(&self, channels: &[&str]) -> Result<Delivery> {
        let mut source = self.source(channels)?;
        let mut taken = None;
        std::future::poll_fn(|cx| source.poll_recv_many(cx, &mut |delivery| taken = Some(delivery), 1)).await?;
        Ok(taken.expect("a source that is ready has handed over a delivery"))
    }

    async fn try_receive(&self, channels: &[&str]) -> Result<Option<Delivery>> {
        self.check_open()?;
        let names = ChannelName::parse_sources(channels)?;
        for channel in &names {
            self.open(channel).await?;
        }
        if let Some(delivery) = self.inbox.memory.try_receive(channels).await? {
            metrics::counter!("channel_layer_received_total").increment(1);
            return Ok(Some(delivery));
        }
        self.inbox.interest.catch_up().await;
        let delivery = self.inbox.memory.try_receive(channels).await?;
        metrics::counter!("channel_layer_received_total").increment(u64::from(delivery.is_some()));
        Ok(delivery)
    }

    fn receiver(&self, channels: &[&str]) -> Result<Receiver> {
        Ok(Receiver::new(self.source(channels)?))
    }

    async fn new_channel(&self, pattern: &str) -> Result<ChannelName> {
        let suffix = Alphanumeric.sample_string(&mut rand::rng(), NEW_NAME);
        let channel = ChannelName::from_pattern(pattern, &suffix)?;
        self.check_open()?;
        self.open(&channel).await?;
        Ok(channel)
    }

    async fn group_add(&self, group: &str, channel: &str) -> Result<()> {
        self.group_add_for(group, channel, self.group_expiry()).await
    }

    async fn group_add_for(&self, group: &str, channel: &str, lasts: Duration) -> Result<()> {
        self.check_open()?;
        let (name, member) = (GroupName::parse(group)?, ChannelName::parse_target(channel)?);
        if member.kind() != ChannelKind::Normal && !self.inbox.interest.is_open(&member) {
            // Its messages would wait here for nobody.
            return Err(Error::Unsupported { operation: "adding a channel to a group where nobody reads it" });
        }
        // What was sent to the group before is for those who were members then.
        self.inbox.interest.catch_up_group(&name).await;
        self.inbox.memory.group_add_for(group, channel, lasts).await?;
        let wished = self.inbox.interest.join(&name);
        // It is a member here, whatever the server says.
        self.inbox.interest.granted(&wished).await.map_err(Error::of_a_part)
    }

    async fn group_discard(&self, group: &str, channel: &str) -> Result<()> {
        self.check_open()?;
        let name = GroupName::parse(group)?;
        self.inbox.interest.catch_up_group(&name).await;
        self.inbox.memory.group_discard(group, channel).await?;
        self.inbox.interest.part(&name, || self.inbox.memory.has_members(group));
        Ok(())
    }

    async fn group_channels(&self, group: &str) -> Result<Vec<ChannelName>> {
        self.check_open()?;
        self.inbox.memory.group_channels(group).await
    }

    fn lists_all_members(&self) -> bool {
        false
    }

    async fn group_send(&self, group: &str, message: Message) -> Result<()> {
        self.outcome(self.post_to_group(group, &message)?).await
    }

    async fn group_send_many(&self, messages: &[(&str, Message)]) -> Vec<Result<()>> {
        let post = |(group, message): &(&str, Message)| self.post_to_group(group, message);
        self.outcomes(messages.iter().map(post).collect()).await
    }

    async fn flush(&self) -> Result<()> {
        self.check_open()?;
        self.inbox.interest.catch_up().await;
        self.inbox.memory.flush().await?;
        self.inbox.interest.clear();
        Ok(())
    }

    async fn global_statistics(&self) -> Result<Statistics> {
        self.check_open()?;
        self.inbox.memory.global_statistics().await
    }

    async fn channel_statistics(&self, channel: &str) -> Result<Statistics> {
        self.check_open()?;
        self.inbox.memory.channel_statistics(channel).await
    }

    async fn close(&self) -> Result<()> {
        self.closing.close();
        self.inbox.memory.close().await?;
        self.drained.cancelled().await;
        self.upkeep.wait().await;
        Ok(())
    }

    async fn health(&self) -> Health {
        self.examine().await
    }

    async fn redis_stats(&self) -> Result<Vec<RedisStats>> {
        self.check_open()?;
        probe::stats(&self.shards).await
    }

    fn group_expiry(&self) -> Duration {
        self.inbox.memory.group_expiry()
    }

    fn max_message_size(&self) -> usize {
        self.wire.max_message_size()
    }

    fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    fn mode(&self) -> watch::Receiver<Mode> {
        self.modes.watch()
    }

    fn outage(&self) -> Option<usize> {
        self.shards.iter().position(|shard| !shard.is_up())
    }
}

impl Drop for PubSubLayer {
    fn drop(&mut self) {
        self.closing.close();
        // Receivers hold it too, and do not keep the layer open.
        self.inbox.memory.end();
    }
}

impl std::fmt::Debug for PubSubLayer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PubSubLayer").field("shards", &self.shards).finish_non_exhaustive()
    }
}
