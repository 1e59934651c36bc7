//! `FallbackLayer`: a remote layer with a local layer for its outages.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::journal::Change;
use super::source::FallbackSource;
use crate::config::Config;
use crate::error::Result;
use crate::fallback::failover::FailoverState;
use crate::health::{Health, RedisStats};
use crate::layer::{ChannelLayer, Delivery, Event, Mode, Modes, Parts, Receiver, ShardStatus, Statistics};
use crate::memory::MemoryLayer;
use crate::message::Message;
use crate::name::{ChannelName, GroupName};
use crate::redis::RedisLayer;

/// Number of events that a slow receiver may lag behind before it misses the oldest.
const EVENTS: usize = 256;

/// Wraps a layer and falls back to a [`MemoryLayer`] of this process while one of its servers is unreachable.
///
/// During an outage, sends and groups keep working between the members of this process, and no call fails because of
/// the outage. The layer falls back as a whole: one unreachable server of several is enough, because a group and its
/// members may be on different servers. It returns when all servers have answered for
/// [`return_after`](Config::return_after).
///
/// # Behaviour at a change of mode
///
/// - **No duplicates.** Each message goes to one of the two layers. If the remote layer may have taken a message when
///   it failed, the message is not sent again. It is counted as dropped under the reason `unconfirmed`, and the call
///   succeeds. The same holds for a group message if any member may have it; each part that may be missing is counted.
///   A message that the remote layer has certainly not taken stays in this process.
/// - **Order.** Receivers read both layers in the order in which one sender's messages reached them: first the messages
///   that stayed here in earlier outages, then the messages of the remote layer, then the messages that stayed here in
///   the present outage. There are two exceptions. Messages that waited on a server when it became unreachable arrive
///   after its return, behind the messages that were sent during the outage. With several servers, messages that wait
///   on a server that is still up may arrive behind newer messages that stayed here.
/// - **Messages that stayed here** are not sent on later. No other process gets them. If no reader in this process
///   takes them they expire, or fill the channel; `send` then returns [`ChannelFull`](crate::Error::ChannelFull).
/// - **Memberships** are kept in both layers. Changes that this process makes during an outage are replayed to the
///   remote layer before messages go there again. If a server loses its data, all memberships of this process are added
///   again. Replayed memberships keep their ends. A change that the remote layer refuses, for example because a server
///   lacks memory, is logged and retried until the membership ends. It does not delay the return. During an outage a
///   group consists of the members that this process added, whichever process reads them; members that others added are
///   missing. Members that other processes discard are discarded here within about 10 s, or later if this process has
///   added members to thousands of groups. A member that was discarded less than that time before an outage is still a
///   member during it.
/// - **No waiting.** A call does not wait for a server that is known to be unreachable. Calls in progress when the
///   server became unreachable wait for at most the command timeout.
///
/// During an outage [`flush`](ChannelLayer::flush) empties this process and returns the error of the server. Statistics
/// are those of the layer in use. [`mode`](ChannelLayer::mode), [`status`](Self::status), [`Event::LocalOnly`] and
/// [`Event::Remote`] with shard 0, metrics and the log report every change.
///
/// ```no_run
/// use channel_layer::{ChannelLayer, Config, FallbackLayer, Mode, message};
///
/// # async fn example() -> channel_layer::Result<()> {
/// // Works whether or not there is a server.
/// let layer = FallbackLayer::connect(Config::new().host("redis://10.0.0.1")).await?;
/// layer.send("thumbnails.make", message! { "path": "cat.png" }).await?;
/// if *layer.mode().borrow() == Mode::LocalOnly {
///     println!("only this process will make thumbnails");
/// }
/// # Ok(())
/// # }
/// ```
pub struct FallbackLayer<L: ?Sized> {
    pub(crate) remote: Arc<L>,
    pub(crate) local: Arc<MemoryLayer>,
    pub(crate) state: Arc<FailoverState>,
    events: broadcast::Sender<Event>,
    closing: CancellationToken,
    tasks: TaskTracker,
}

impl FallbackLayer<RedisLayer> {
    /// Wraps a [`RedisLayer`] with this configuration. None of its servers has to be reachable.
    ///
    /// # Cancel safety
    ///
    /// When dropped, all connections are closed.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`](crate::Error::InvalidConfig);
    /// [`Error::UnsupportedServer`](crate::Error::UnsupportedServer) if a reachable server is too old; otherwise as
    /// [`RedisLayer::connect_or_wait`].
    pub async fn connect(config: Config) -> Result<Self> {
        // The layer falls back instead of retrying.
        let remote = config.clone().retry_attempts(0);
        Self::new(RedisLayer::connect_or_wait(remote).await?, &config)
    }
}

impl<L: ChannelLayer + ?Sized> FallbackLayer<L> {
    /// Wraps `remote`, which is closed together with this layer. The local layer takes expiry, capacities and message
    /// size from `config`; they should equal those of `remote`.
    ///
    /// `remote` is given by value or in an [`Arc`], which may hold a `dyn ChannelLayer`. Starts a task that ends with
    /// the layer.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`](crate::Error::InvalidConfig).
    ///
    /// # Panics
    ///
    /// If called outside of a tokio runtime.
    pub fn new(remote: impl Into<Arc<L>>, config: &Config) -> Result<Self> {
        let epoch = Arc::default();
        let local = Arc::new(MemoryLayer::with_epoch(config, Arc::clone(&epoch))?);
        let remote = remote.into();
        let (events, _) = broadcast::channel(EVENTS);
        let modes = Modes::new(1, events.clone());
        let state = Arc::new(FailoverState::new(local.clone(), epoch, config.return_after, modes));
        state.check_outage(&*remote);
        let (closing, tasks) = (CancellationToken::new(), TaskTracker::new());
        let watching = state.clone().watch(remote.clone(), remote.events(), events.clone(), closing.clone());
        tasks.spawn(watching);
        tasks.close();
        Ok(Self { remote, local, state, events, closing, tasks })
    }

    /// The wrapped layer.
    pub fn remote(&self) -> &L {
        &self.remote
    }

    /// Reports whether the layer has fallen back, since when and why, and how many messages have stayed in this
    /// process.
    pub fn status(&self) -> ShardStatus {
        self.state.modes.status().remove(0)
    }
}

#[async_trait]
impl<L: ChannelLayer + ?Sized> ChannelLayer for FallbackLayer<L> {
    async fn send(&self, channel: &str, message: Message) -> Result<()> {
        if self.state.check_outage(&*self.remote) {
            return self.send_local(channel, message).await;
        }
        let result = self.remote.send(channel, message.clone()).await;
        self.finish_send(result, channel, &message).await
    }

    async fn send_many(&self, messages: &[(&str, Message)]) -> Vec<Result<()>> {
        let mut results = Vec::with_capacity(messages.len());
        if self.state.check_outage(&*self.remote) {
            for (channel, message) in messages {
                results.push(self.send_local(channel, message.clone()).await);
            }
            return results;
        }
        let sent = self.remote.send_many(messages).await;
        for (result, (channel, message)) in sent.into_iter().zip(messages) {
            results.push(self.finish_send(result, channel, message).await);
        }
        results
    }

    async fn requeue(&self, messages: &[(&str, Message)]) -> Vec<Result<()>> {
        if self.state.check_outage(&*self.remote) {
            return self.requeue_local(messages).await;
        }
        self.finish_requeue(self.remote.requeue(messages).await, messages).await
    }

    async fn receive(&self, channels: &[&str]) -> Result<Delivery> {
        if let Some(older) = self.try_receive_older(channels)? {
            return Ok(older);
        }
        let (mut remote, mut local) = (pin!(self.receive_remote(channels)), pin!(self.local.receive(channels)));
        // As in `FallbackSource`: messages in the layer that is not in use are older.
        if self.state.is_local() {
            tokio::select! {
                biased;
                delivery = &mut remote => delivery,
                delivery = &mut local => delivery,
            }
        } else {
            tokio::select! {
                biased;
                delivery = &mut local => delivery,
                delivery = &mut remote => delivery,
            }
        }
    }

    async fn try_receive(&self, channels: &[&str]) -> Result<Option<Delivery>> {
        if self.state.check_outage(&*self.remote) {
            if let Some(older) = self.try_receive_older(channels)? {
                return Ok(Some(older));
            }
            return match self.try_receive_remote(channels).await? {
                None => self.local.try_receive(channels).await,
                some => Ok(some),
            };
        }
        match self.local.try_receive(channels).await? {
            None => self.try_receive_remote(channels).await,
            some => Ok(some),
        }
    }

    fn receiver(&self, channels: &[&str]) -> Result<Receiver> {
        let (remote, local) = (self.remote.receiver(channels)?, self.local.source(channels)?);
        Ok(Receiver::new(FallbackSource::new(self.state.clone(), remote, local)))
    }

    async fn new_channel(&self, pattern: &str) -> Result<ChannelName> {
        if !self.state.check_outage(&*self.remote) {
            match self.remote.new_channel(pattern).await {
                Err(error) if self.state.check_error(&error) => {}
                result => return result,
            }
        }
        self.local.new_channel(pattern).await
    }

    async fn group_add(&self, group: &str, channel: &str) -> Result<()> {
        self.group_add_for(group, channel, self.local.group_expiry()).await
    }

    async fn group_add_for(&self, group: &str, channel: &str, lasts: Duration) -> Result<()> {
        let key = (GroupName::parse(group)?, ChannelName::parse_target(channel)?);
        self.change(key, Change::Added, lasts.min(self.local.group_expiry())).await
    }

    async fn group_discard(&self, group: &str, channel: &str) -> Result<()> {
        let key = (GroupName::parse(group)?, ChannelName::parse_target(channel)?);
        self.change(key, Change::Discarded, self.local.group_expiry()).await
    }

    async fn group_channels(&self, group: &str) -> Result<Vec<ChannelName>> {
        if !self.state.check_outage(&*self.remote) {
            match self.remote.group_channels(group).await {
                Err(error) if self.state.check_error(&error) => {}
                result => return result,
            }
        }
        self.local.group_channels(group).await
    }

    /// As the remote layer. During an outage only the members that this process added are known.
    fn lists_all_members(&self) -> bool {
        self.remote.lists_all_members() && !self.state.is_local()
    }

    async fn group_send(&self, group: &str, message: Message) -> Result<()> {
        if self.state.check_outage(&*self.remote) {
            return self.group_send_local(group, message).await;
        }
        let result = self.remote.group_send(group, message.clone()).await;
        self.finish_group_send(result, group, &message).await
    }

    async fn group_send_many(&self, messages: &[(&str, Message)]) -> Vec<Result<()>> {
        let mut results = Vec::with_capacity(messages.len());
        if self.state.check_outage(&*self.remote) {
            for (group, message) in messages {
                results.push(self.group_send_local(group, message.clone()).await);
            }
            return results;
        }
        let sent = self.remote.group_send_many(messages).await;
        for (result, (group, message)) in sent.into_iter().zip(messages) {
            results.push(self.finish_group_send(result, group, message).await);
        }
        results
    }

    async fn flush(&self) -> Result<()> {
        let local = self.local.flush().await;
        self.state.journal.lock().clear();
        Parts::from_iter([local, self.remote.flush().await]).result()
    }

    async fn global_statistics(&self) -> Result<Statistics> {
        if !self.state.check_outage(&*self.remote) {
            match self.remote.global_statistics().await {
                Err(error) if self.state.check_error(&error) => {}
                result => return result,
            }
        }
        self.local.global_statistics().await
    }

    async fn channel_statistics(&self, channel: &str) -> Result<Statistics> {
        if !self.state.check_outage(&*self.remote) {
            match self.remote.channel_statistics(channel).await {
                Err(error) if self.state.check_error(&error) => {}
                result => return result,
            }
        }
        self.local.channel_statistics(channel).await
    }

    async fn close(&self) -> Result<()> {
        self.closing.cancel();
        // All three start at once, so that all continue if this future is dropped.
        let (local, (), remote) = tokio::join!(self.local.close(), self.tasks.wait(), self.remote.close());
        Parts::from_iter([local, remote]).result()
    }

    /// Returns the health of the remote layer. It is unhealthy while the layer has fallen back.
    async fn health(&self) -> Health {
        let mut health = self.remote.health().await;
        if self.state.is_local() {
            health.falls_back_everywhere(self.status().reason.as_deref());
        }
        health
    }

    async fn redis_stats(&self) -> Result<Vec<RedisStats>> {
        self.remote.redis_stats().await
    }

    fn group_expiry(&self) -> Duration {
        self.remote.group_expiry()
    }

    fn max_message_size(&self) -> usize {
        self.local.max_message_size().min(self.remote.max_message_size())
    }

    fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    fn mode(&self) -> watch::Receiver<Mode> {
        self.state.modes.watch()
    }

    fn outage(&self) -> Option<usize> {
        self.remote.outage()
    }
}

impl<L: ?Sized> Drop for FallbackLayer<L> {
    fn drop(&mut self) {
        self.closing.cancel();
        // Receivers hold the local layer too, and must not keep it open.
        self.local.end();
    }
}

impl<L: std::fmt::Debug + ?Sized> std::fmt::Debug for FallbackLayer<L> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FallbackLayer").field("remote", &&*self.remote).finish_non_exhaustive()
    }
}
