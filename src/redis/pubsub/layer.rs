//! `PubSubLayer` and its implementation of `ChannelLayer`.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::{self, StreamExt};
use rand::distr::{Alphanumeric, SampleString};
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::inbox::Inbox;
use super::publish::{OutboundMessage, Publisher};
use super::source::PubSubSource;
use super::topic::{Target, Topics};
use super::wire::Wire;
use crate::drops::{self, CountedIfUnread, OutcomeReceiver, OutcomeSender};
use crate::error::{Error, Result};
use crate::health::{Health, RedisStats};
use crate::layer::{
    ChannelLayer, Delivery, Event, GroupSendOutcomes, Mode, Modes, Receiver, ShardStatus, Source, Statistics,
};
use crate::message::Message;
use crate::name::{ChannelKind, ChannelName, GroupName};
use crate::redis::closing::Closing;
use crate::redis::node::fault::Fault;
use crate::redis::topology::places::Places;
use crate::redis::topology::probe::{self, HealthProbe};

/// The number of random characters in the name of a new channel.
const SUFFIX: usize = 12;

/// A channel layer on Redis pub/sub, in the wire format of the `pubsub` layer of Python's `channels_redis`. It is fast,
/// and Redis stores no messages.
///
/// A message goes to the processes that read its channel when it is published. Each of them keeps the message in a
/// queue until its expiry. Redis holds nothing, so no message waits for a later reader. A channel is *open* in a
/// process while it has a receiver and for the expiry after that. [`subscribe`](Self::subscribe) and
/// [`new_channel`](ChannelLayer::new_channel) open it for the expiry. A queue holds as many messages as the channel has
/// [capacity](crate::Config::capacity), 10,000 by default, and at most
/// [`max_queue_size`](crate::Config::max_queue_size) bytes. Above that the oldest or the newest messages are dropped,
/// according to [`overflow`](crate::Config::overflow). `send` never returns [`Error::ChannelFull`].
///
/// - **Normal channels** deliver each message to one reader in every process that reads them. To share work inside each
///   process put a [`HybridLayer`](crate::HybridLayer) with a [`MemoryLayer`](crate::MemoryLayer) before this layer.
/// - **Groups** are local to each process: a `!` or `?` channel has to be added in the process that reads it.
/// - **Several servers** share the Redis channels by the hash that Python uses. The order of messages holds for each
///   server alone. Process-local channels are subscribed on all servers.
/// - **Deployments** on one server share its channels, even with different prefixes and databases. Only groups have the
///   prefix.
/// - **Names** of channels that begin with the prefix and `__group__` stand for groups, as they do for Python.
///
/// # Without Redis
///
/// While a server is unreachable, from the start or later, messages between the members of this process are still
/// delivered, unless [`fallback`](crate::Config::fallback) is set to fail calls. No call waits for a server that is
/// known to be unreachable. Calls that wait when the outage begins return within the command timeout. Messages that the
/// server has not accepted then stay in this process. Messages that it may have accepted are not sent twice, and are
/// counted as dropped under the reason `unconfirmed`.
///
/// Messages go to the server again when it has answered for [`return_after`](crate::Config::return_after) and all
/// subscriptions are restored. Messages that stayed in this process are counted and not sent later. So the order of one
/// sender's messages holds through both changes. Each server has its own state: [`status`](Self::status),
/// [`mode`](ChannelLayer::mode), [`Event::LocalOnly`] and [`Event::Remote`], the metrics `channel_layer_local_only` and
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
    pub(crate) places: Arc<Places>,
    pub(crate) health_probe: HealthProbe,
    pub(crate) modes: Arc<Modes>,
    pub(crate) events: broadcast::Sender<Event>,
    pub(crate) closing: Closing,
    /// Cancelled when all queues have ended after the layer.
    pub(crate) drained: CancellationToken,
    pub(crate) upkeep: TaskTracker,
}

/// The place and the outcome of a queued message.
pub(crate) type Publication = (usize, OutcomeReceiver<Result<()>>);

impl PubSubLayer {
    /// Opens `channels` in this process for the expiry: messages that are sent from now on wait in their queues. A
    /// receiver opens its channels itself, so this is needed only if a message may be sent before the receiver exists.
    ///
    /// # Cancel safety
    ///
    /// A dropped future still opens the channels.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidName`] for a bad name or an empty list, [`Error::Redis`], [`Error::Closed`].
    pub async fn subscribe(&self, channels: &[&str]) -> Result<()> {
        self.check_open()?;
        for channel in ChannelName::parse_sources(channels)? {
            // The channel stays open here even if the server refuses.
            self.open(&channel).await.map_err(Error::of_a_part)?;
        }
        Ok(())
    }

    /// A new channel, open in this process, with a name as Python's `channels_redis.pubsub` makes it for its consumers:
    /// the prefix of the layer, then `prefix`, then 32 hexadecimal digits. Django accepts such a name, and refuses the
    /// names of [`new_channel`](ChannelLayer::new_channel), which have a `?`.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the channel closes after the expiry.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidName`] if the result is not the name of a normal channel, [`Error::Redis`], [`Error::Closed`].
    pub async fn new_specific_channel(&self, prefix: &str) -> Result<ChannelName> {
        let name = format!("{}{prefix}{:032x}", self.prefix, rand::random::<u128>());
        let channel = ChannelName::parse_source(&name)?;
        self.check_open()?;
        self.open(&channel).await?;
        Ok(channel)
    }

    /// Whether this process reads `channel`: it has a receiver, or [`new_specific_channel`](Self::new_specific_channel)
    /// made it here.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidName`]
    pub fn reads(&self, channel: &str) -> Result<bool> {
        Ok(self.inbox.interest.is_open(&ChannelName::parse_target(channel)?))
    }

    /// The mode of each server, in the order of the configured hosts or of the numbers of the shards of a cluster.
    pub fn status(&self) -> Vec<ShardStatus> {
        self.modes.status()
    }

    fn check_open(&self) -> Result<()> {
        self.closing.check()
    }

    /// Opens `channel`, which has no local part, for the expiry, and waits until its server has confirmed that.
    async fn open(&self, channel: &ChannelName) -> Result<()> {
        let requested = self.inbox.interest.hold_open(channel);
        self.inbox.interest.confirmed(&requested).await
    }

    /// Queues `message` to be published for `target`. `local_copy` is delivered in its place if it stays in this
    /// process.
    pub(crate) fn enqueue(&self, target: Target, message: &Message, local_copy: Message) -> Result<Publication> {
        let address = self.topics.address(&target);
        let named = match &target {
            Target::Channel(channel) if address.shared => Some(channel.as_str()),
            _ => None,
        };
        let payload = self.wire.seal(message, named)?;
        let (done, outcome) = OutcomeSender::new();
        let outbound = OutboundMessage { target, topic: address.topic, payload, local_copy, done };
        self.publisher.enqueue(address.place, outbound);
        Ok((address.place, outcome))
    }

    fn enqueue_for_channel(&self, channel: &str, message: &Message) -> Result<Publication> {
        self.check_open()?;
        self.enqueue(Target::Channel(ChannelName::parse_target(channel)?), message, message.clone())
    }

    fn enqueue_for_group(&self, group: &str, message: &Message) -> Result<Publication> {
        self.check_open()?;
        self.enqueue(Target::Group(GroupName::parse(group)?), message, message.clone())
    }

    /// Waits until the message has been published or delivered in this process.
    pub(crate) async fn outcome(&self, (place, outcome): Publication) -> CountedIfUnread<Result<()>> {
        let outcome = outcome.await.ok().and_then(CountedIfUnread::into_option).unwrap_or_else(|| {
            let error = self.closing.has_ended().then(|| self.closing.error());
            let error = error.unwrap_or_else(|| self.inbox.interest.managers().error(place, Fault::panicked()));
            CountedIfUnread::of_send(Err(error))
        });
        outcome.map(|result| result.map_err(|error| self.closing.explain(error)))
    }

    /// Waits for the outcomes of messages that have all been queued before, so that they travel together.
    async fn outcomes(&self, publications: Vec<Result<Publication>>) -> Vec<Result<()>> {
        let outcomes = stream::iter(publications).then(|publication| async { Ok(self.outcome(publication?).await) });
        let outcomes: Vec<Result<_>> = outcomes.collect().await;
        // No await follows, so the caller gets all results.
        outcomes.into_iter().map(|outcome| outcome.and_then(CountedIfUnread::read)).collect()
    }

    fn source(&self, channels: &[&str]) -> Result<PubSubSource> {
        self.check_open()?;
        PubSubSource::new(self.inbox.clone(), ChannelName::parse_sources(channels)?)
    }
}

/// The result of a group send, which has one part.
fn group_result(result: Result<()>) -> Result<()> {
    let mut parts = GroupSendOutcomes::default();
    parts.add(CountedIfUnread::of_send(result));
    parts.result()
}

#[async_trait]
impl ChannelLayer for PubSubLayer {
    async fn send(&self, channel: &str, message: Message) -> Result<()> {
        self.outcome(self.enqueue_for_channel(channel, &message)?).await.read()
    }

    async fn send_many(&self, messages: &[(&str, Message)]) -> Vec<Result<()>> {
        let enqueue = |(channel, message): &(&str, Message)| self.enqueue_for_channel(channel, message);
        self.outcomes(messages.iter().map(enqueue).collect()).await
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
        let mut delivery = self.inbox.memory.try_receive(channels).await?;
        if delivery.is_none() {
            self.inbox.interest.catch_up().await;
            delivery = self.inbox.memory.try_receive(channels).await?;
        }
        drops::count_received(usize::from(delivery.is_some()));
        Ok(delivery)
    }

    fn receiver(&self, channels: &[&str]) -> Result<Receiver> {
        Ok(Receiver::new(self.source(channels)?))
    }

    async fn new_channel(&self, pattern: &str) -> Result<ChannelName> {
        let suffix = Alphanumeric.sample_string(&mut rand::rng(), SUFFIX);
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
            // Its messages would be queued here without a reader.
            return Err(Error::Unsupported { operation: "adding a channel to a group where nobody reads it" });
        }
        // Earlier messages to the group are delivered to the members before this one is added.
        self.inbox.interest.catch_up_group(&name).await;
        self.inbox.memory.group_add_for(group, channel, lasts).await?;
        let requested = self.inbox.interest.add_group(&name);
        // The channel is a member here even if the server refuses.
        self.inbox.interest.confirmed(&requested).await.map_err(Error::of_a_part)
    }

    async fn group_discard(&self, group: &str, channel: &str) -> Result<()> {
        self.check_open()?;
        let name = GroupName::parse(group)?;
        self.inbox.interest.catch_up_group(&name).await;
        self.inbox.memory.group_discard(group, channel).await?;
        self.inbox.interest.remove_group(&name, || self.inbox.memory.has_members(group));
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
        let result = self.outcome(self.enqueue_for_group(group, &message)?).await.read();
        group_result(result)
    }

    async fn group_send_many(&self, messages: &[(&str, Message)]) -> Vec<Result<()>> {
        let enqueue = |(group, message): &(&str, Message)| self.enqueue_for_group(group, message);
        self.outcomes(messages.iter().map(enqueue).collect()).await.into_iter().map(group_result).collect()
    }

    async fn flush(&self) -> Result<()> {
        self.check_open()?;
        self.inbox.interest.catch_up().await;
        self.inbox.memory.flush().await?;
        self.inbox.sweep();
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
        self.places.disconnect().await;
        Ok(())
    }

    async fn health(&self) -> Health {
        self.examine().await
    }

    async fn redis_stats(&self) -> Result<Vec<RedisStats>> {
        self.check_open()?;
        probe::stats(self.places.shards()).await
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
        self.places.shards().find(|shard| shard.outage().is_some()).map(|shard| shard.index)
    }
}

impl Drop for PubSubLayer {
    fn drop(&mut self) {
        self.closing.close();
        // Receivers hold the memory layer too, and do not keep this layer open.
        self.inbox.memory.end();
    }
}

impl std::fmt::Debug for PubSubLayer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PubSubLayer").field("places", &self.places).finish_non_exhaustive()
    }
}
