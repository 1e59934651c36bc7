//! `MemoryLayer` and its implementation of `ChannelLayer`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use rand::distr::{Alphanumeric, SampleString};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::channel::{Bounds, Channel, Shared};
use super::group::Group;
use super::queue::Recipients;
use super::receive::MemorySource;
use super::registry::Registry;
use super::sweep::Sweeper;
use crate::capacity::Capacity;
use crate::codec;
use crate::config::{Config, PUBSUB_CAPACITY};
use crate::drops::{self, DropReason, Drops};
use crate::error::{Error, Result};
use crate::layer::{ChannelLayer, Delivery, Receiver, Source, Statistics};
use crate::message::Message;
use crate::name::{ChannelKind, ChannelName, GroupName};

/// Number of random characters after the pattern of a new channel: 62^12 names, too many to guess.
const SUFFIX_LENGTH: usize = 12;

/// A channel layer inside one process. It fulfils the whole contract of [`ChannelLayer`] without a server.
///
/// Messages are lost when the layer is dropped or closed. Expired messages and memberships are freed by background
/// tasks, which start with the first message or membership inside a tokio runtime and end with the layer. Receivers do
/// not keep the layer open.
///
/// Statistics of a channel are kept for an hour after its last message, and statistics of a single-reader channel for
/// the message expiry.
///
/// # Examples
///
/// ```
/// use channel_layer::{ChannelLayer, MemoryLayer, message};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> channel_layer::Result<()> {
/// let layer = MemoryLayer::new();
/// layer.group_add("room", "websocket.send.proc!ada").await?;
/// layer.group_send("room", message! { "text": "hi" }).await?;
///
/// let delivery = layer.receive(&["websocket.send.proc!"]).await?;
/// assert_eq!(delivery.channel, "websocket.send.proc!ada");
/// assert_eq!(delivery.message.text("text"), Some("hi"));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct MemoryLayer {
    pub(super) inner: Arc<Inner>,
}

/// State shared by the layer and its receivers.
#[derive(Debug)]
pub(super) struct Inner {
    capacity: Capacity,
    group_expiry: Duration,
    max_message_size: usize,
    shared: Arc<Shared>,
    pub(super) channels: Registry<ChannelName, Channel>,
    pub(super) groups: Registry<GroupName, Group>,
    /// Counts reads, so that successive reads of the same channels start with different ones.
    turn: AtomicUsize,
    closed: CancellationToken,
    channel_sweeper: Sweeper,
    group_sweeper: Sweeper,
}

impl MemoryLayer {
    /// Creates a layer with the defaults of [`Config`].
    ///
    /// # Panics
    ///
    /// Never: the defaults are valid.
    pub fn new() -> Self {
        Self::with_config(&Config::default()).expect("the default configuration is valid")
    }

    /// Creates a layer with the expiry, group expiry, capacities and message size of `config`. Hosts and keys are
    /// ignored.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] as [`Config::validate`].
    pub fn with_config(config: &Config) -> Result<Self> {
        Self::build(config, config.capacities()?, None, Arc::default())
    }

    /// Creates a layer that never refuses a message for lack of room. It drops messages and counts them.
    pub(crate) fn dropping(config: &Config, bounds: Bounds) -> Result<Self> {
        Self::build(config, config.capacities_or(PUBSUB_CAPACITY)?, Some(bounds), Arc::default())
    }

    /// Creates a layer that remembers for each message in which `epoch` it was sent.
    pub(crate) fn with_epoch(config: &Config, epoch: Arc<AtomicU64>) -> Result<Self> {
        Self::build(config, config.capacities()?, None, epoch)
    }

    /// Closes the layer, as [`close`](ChannelLayer::close) does, without waiting.
    pub(crate) fn end(&self) {
        self.inner.close();
    }

    fn build(config: &Config, capacity: Capacity, bounds: Option<Bounds>, epoch: Arc<AtomicU64>) -> Result<Self> {
        config.validate()?;
        let shared = Shared::new(config.expiry, bounds, epoch);
        let group_expiry = config.group_expiry;
        let closed = CancellationToken::new();
        let inner = Inner {
            capacity,
            group_expiry,
            max_message_size: config.max_message_size,
            channel_sweeper: Sweeper::new(shared.expiry, closed.clone()),
            group_sweeper: Sweeper::new(group_expiry, closed.clone()),
            shared: Arc::new(shared),
            channels: Registry::new(),
            groups: Registry::new(),
            turn: AtomicUsize::new(0),
            closed,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Puts `message` into the queue of `channel`, whatever its size. Returns whether there was room.
    pub(crate) fn deliver(&self, channel: &str, message: Message) -> Result<bool> {
        let (queue, recipients) = self.inner.target(channel)?;
        self.inner.push(&queue, message, recipients, false)
    }

    /// Puts `message` into the queues of all members of `group`, whatever its size.
    pub(crate) fn deliver_to_group(&self, group: &str, message: &Message) -> Result<()> {
        let Some(group) = self.inner.groups.get(group) else {
            GroupName::parse(group)?;
            return Ok(());
        };
        let mut some_sent = false;
        for (name, recipients) in group.routes() {
            match self.inner.push(&self.inner.channel(&name), message.clone(), recipients, false) {
                Ok(true) => some_sent = true,
                Ok(false) => drops::count(DropReason::Full, 1),
                // The layer was closed meanwhile. Closing also drops the messages that were already pushed.
                Err(_) if some_sent => drops::count(DropReason::Closed, 1),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whether `group` has a member, or had one that expired a moment ago.
    pub(crate) fn has_members(&self, group: &str) -> bool {
        self.inner.groups.get(group).is_some_and(|group| !group.is_empty())
    }

    /// Returns a source that reads `channels`, for layers that wrap this one.
    pub(crate) fn source(&self, channels: &[&str]) -> Result<MemorySource> {
        self.inner.check_open()?;
        let names = ChannelName::parse_sources(channels)?;
        let channels = names.into_iter().map(|name| self.inner.channel(&name)).collect();
        Ok(MemorySource::new(Arc::clone(&self.inner), channels, self.inner.next_turn()))
    }
}

impl Inner {
    pub(super) fn check_open(&self) -> Result<()> {
        self.shared.check_open()
    }

    fn check_size(&self, message: &Message) -> Result<()> {
        let size = codec::encoded_size(message)?;
        let limit = self.max_message_size;
        if size > limit { Err(Error::MessageTooLarge { size, limit }) } else { Ok(()) }
    }

    /// Returns the channel with the non-local part `name`.
    fn channel(&self, name: &ChannelName) -> Arc<Channel> {
        self.channels
            .get_or_insert(name, || Channel::new(name.clone(), self.capacity.of(name), Arc::clone(&self.shared)))
    }

    /// Returns the queue of the channel `name`, and the recipient of a message to it.
    fn target(&self, name: &str) -> Result<(Arc<Channel>, Recipients)> {
        // A name with a queue was checked when the queue was created. Only process-local names are longer than the name
        // of their queue.
        if ChannelKind::of(name) != ChannelKind::ProcessLocal
            && let Some(channel) = self.channels.get(name)
        {
            return Ok((channel, Recipients::Channel));
        }
        let name = ChannelName::parse_target(name)?;
        if name.local().is_none() {
            return Ok((self.channel(&name), Recipients::Channel));
        }
        let channel = self.channels.get(name.non_local());
        Ok((channel.unwrap_or_else(|| self.channel(&name.to_non_local())), Recipients::Local(name)))
    }

    /// Pushes `message` as [`Channel::push`] does, and schedules the removal of expired messages.
    fn push(
        self: &Arc<Self>,
        channel: &Channel,
        message: Message,
        recipients: Recipients,
        ignore_capacity: bool,
    ) -> Result<bool> {
        let fits = channel.push(message, recipients, ignore_capacity)?;
        if fits {
            self.channel_sweeper.schedule(self, Self::sweep_channels);
        }
        Ok(fits)
    }

    /// Drops a handle of a channel. Removes the channel if it is empty and no other handle exists.
    pub(super) fn release(&self, channel: Arc<Channel>) {
        if channel.is_unused() {
            let name = channel.name().clone();
            drop(channel);
            self.channels.remove_if(name.as_str(), Channel::is_unused);
        }
    }

    pub(super) fn turn(&self) -> usize {
        self.turn.load(Ordering::Relaxed)
    }

    pub(super) fn next_turn(&self) -> usize {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }

    fn sweep_channels(&self, now: Instant) -> Option<Instant> {
        let (mut next, mut drops): (Option<Instant>, _) = (None, Drops::default());
        // The registry is locked meanwhile.
        self.channels.remove_unused(|channel| {
            let due = channel.sweep(now, &mut drops);
            next = next.into_iter().chain(due).min();
            due.is_none()
        });
        drops.count();
        next.or_else(|| self.shared.expire_idle_counts(now))
    }

    /// Schedules the removal of expired memberships.
    pub(super) fn schedule_group_sweep(self: &Arc<Self>) {
        self.group_sweeper.schedule(self, Self::sweep_groups);
    }

    fn sweep_groups(&self, now: Instant) -> Option<Instant> {
        let mut next: Option<Instant> = None;
        self.groups.remove_unused(|group| {
            let due = group.sweep(now);
            next = next.into_iter().chain(due).min();
            due.is_none()
        });
        next
    }

    fn close(&self) {
        if self.shared.closed.swap(true, Ordering::SeqCst) {
            return;
        }
        self.closed.cancel();
        self.channels.values().iter().for_each(|channel| channel.close());
    }
}

impl Default for MemoryLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for MemoryLayer {
    fn drop(&mut self) {
        self.inner.close();
    }
}

#[async_trait]
impl ChannelLayer for MemoryLayer {
    async fn send(&self, channel: &str, message: Message) -> Result<()> {
        self.inner.check_open()?;
        self.inner.check_size(&message)?;
        if self.deliver(channel, message)? {
            return Ok(());
        }
        Err(Error::ChannelFull { channel: ChannelName::parse(channel)? })
    }

    async fn requeue(&self, messages: &[(&str, Message)]) -> Vec<Result<()>> {
        let requeue = |(channel, message): &(&str, Message)| {
            self.inner.check_open()?;
            self.inner.check_size(message)?;
            let (queue, recipients) = self.inner.target(channel)?;
            self.inner.push(&queue, message.clone(), recipients, true).map(|_| ())
        };
        messages.iter().map(requeue).collect()
    }

    async fn receive(&self, channels: &[&str]) -> Result<Delivery> {
        let mut source = self.source(channels)?;
        let mut taken = None;
        std::future::poll_fn(|cx| source.poll_recv_many(cx, &mut |delivery| taken = Some(delivery), 1)).await?;
        Ok(taken.expect("a source that is ready has handed over a delivery"))
    }

    async fn try_receive(&self, channels: &[&str]) -> Result<Option<Delivery>> {
        self.try_receive_older(channels, u64::MAX)
    }

    fn receiver(&self, channels: &[&str]) -> Result<Receiver> {
        self.source(channels).map(Receiver::new)
    }

    async fn new_channel(&self, pattern: &str) -> Result<ChannelName> {
        self.inner.check_open()?;
        loop {
            let suffix = Alphanumeric.sample_string(&mut rand::rng(), SUFFIX_LENGTH);
            let name = ChannelName::from_pattern(pattern, &suffix)?;
            if self.inner.channels.get(name.as_str()).is_none() {
                return Ok(name);
            }
        }
    }

    async fn group_add(&self, group: &str, channel: &str) -> Result<()> {
        self.group_add_for(group, channel, self.inner.group_expiry).await
    }

    async fn group_add_for(&self, group: &str, channel: &str, lasts: Duration) -> Result<()> {
        self.inner.check_open()?;
        let until = Instant::now() + lasts.min(self.inner.group_expiry);
        self.add_member(&GroupName::parse(group)?, ChannelName::parse_target(channel)?, until)
    }

    async fn group_discard(&self, group: &str, channel: &str) -> Result<()> {
        self.inner.check_open()?;
        self.remove_member(&GroupName::parse(group)?, &ChannelName::parse_target(channel)?)
    }

    async fn group_channels(&self, group: &str) -> Result<Vec<ChannelName>> {
        self.inner.check_open()?;
        let members = self.members(&GroupName::parse(group)?);
        Ok(members.into_iter().map(|(channel, _)| channel).collect())
    }

    async fn group_send(&self, group: &str, message: Message) -> Result<()> {
        self.inner.check_open()?;
        self.inner.check_size(&message)?;
        self.deliver_to_group(group, &message)
    }

    async fn flush(&self) -> Result<()> {
        self.inner.check_open()?;
        self.inner.groups.clear();
        self.inner.channels.values().iter().for_each(|channel| channel.flush());
        self.inner.channels.remove_unused(Channel::is_unused);
        self.inner.shared.reset_idle_counts();
        Ok(())
    }

    async fn global_statistics(&self) -> Result<Statistics> {
        self.inner.check_open()?;
        let now = Instant::now();
        let channels = self.inner.channels.values();
        let mut total =
            channels.iter().map(|channel| channel.statistics(now)).fold(Statistics::default(), Statistics::merge);
        self.inner.shared.add_idle_counts(&mut total);
        Ok(total)
    }

    async fn channel_statistics(&self, channel: &str) -> Result<Statistics> {
        self.inner.check_open()?;
        let name = ChannelName::parse(channel)?;
        let queue = self.inner.channels.get(name.non_local());
        Ok(queue.map_or_else(Statistics::default, |queue| queue.statistics(Instant::now())))
    }

    async fn close(&self) -> Result<()> {
        self.end();
        Ok(())
    }

    fn group_expiry(&self) -> Duration {
        self.inner.group_expiry
    }

    fn max_message_size(&self) -> usize {
        self.inner.max_message_size
    }
}
