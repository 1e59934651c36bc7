//! `FallbackLayer` and its part of the contract.

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
use crate::fallback::failover::Guard;
use crate::health::{Health, RedisStats};
use crate::layer::{ChannelLayer, Delivery, Event, Mode, Modes, Parts, Receiver, ShardStatus, Statistics};
use crate::memory::MemoryLayer;
use crate::message::Message;
use crate::name::{ChannelName, GroupName};
use crate::redis::RedisLayer;

/// Events that a slow listener can be behind before it misses the oldest.
const EVENTS: usize = 256;

/// A layer that uses another one while its servers are there, and a [`MemoryLayer`] of this process while one of them is
/// away: sends and groups then go on between the members of this process, and no call fails for the outage.
///
/// The layer falls back as a whole: with several servers as soon as one is away, since a group and its members may be on
/// different ones. It returns when all have answered for [`return_after`](Config::return_after).
///
/// # What holds when it changes over
///
/// - **Nothing comes twice.** Each message goes to one of the layers. One that the remote layer may have taken when it
///   failed is not sent again; nor is one to a group, some of whose members may have it. It is counted as dropped under
///   the reason `unconfirmed`, and the call succeeds. One that it has certainly not taken stays here.
/// - **Order.** Receivers read both layers, in the order in which one sender's messages came to them: first what stayed here
///   in earlier outages, then what the remote layer has, then what stayed here in the present one. There is one exception:
///   what waited on a server when it went away is there when it returns, behind what was sent meanwhile.
/// - **What stayed here** is not sent on later. Nobody outside of this process gets it; if nobody inside reads its channel
///   it expires, or fills the channel, which `send` says.
/// - **Memberships** are kept in both layers. Those that this process makes or ends in an outage are made or ended
///   remotely before messages go there again, and all that it has made are made again if a server has lost its data; they
///   keep their ends. In an outage a group has those members that this process has added, whoever reads them, and not those
///   that others added. What others discard is discarded here within about 10 s, later where this process has added members
///   to thousands of groups; a member that was discarded later than that before an outage is still one.
/// - **What is known at once.** A call does not wait for a server that is known to be away. Those that were under way when
///   it went wait for the command timeout at the most.
///
/// [`flush`](ChannelLayer::flush) cannot empty a server that is away: it empties this process and returns the error. Figures are those of the layer
/// that is used. [`mode`](ChannelLayer::mode), [`status`](Self::status), [`Event::LocalOnly`] and [`Event::Remote`] with
/// shard 0, metrics and the log tell of every change.
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
pub struct FallbackLayer<L> {
    pub(crate) remote: Arc<L>,
    pub(crate) local: Arc<MemoryLayer>,
    pub(crate) guard: Arc<Guard>,
    events: broadcast::Sender<Event>,
    closing: CancellationToken,
    tasks: TaskTracker,
}

impl FallbackLayer<RedisLayer> {
    /// Falls back from a [`RedisLayer`] with this configuration, of which no server has to be there now.
    ///
    /// # Cancel safety
    ///
    /// When dropped, all connections are closed.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`](crate::Error::InvalidConfig), and
    /// [`Error::UnsupportedServer`](crate::Error::UnsupportedServer) if a server is there and too old; otherwise as
    /// [`RedisLayer::connect_or_wait`].
    pub async fn connect(config: Config) -> Result<Self> {
        // Falling back is the answer to a server that is away, and not waiting for it.
        let remote = config.clone().retry_attempts(0);
        Self::new(RedisLayer::connect_or_wait(remote).await?, &config)
    }
}

impl<L: ChannelLayer> FallbackLayer<L> {
    /// Falls back from `remote`, which it closes with itself. The layer of this process has the expiry, capacities and
    /// message size of `config`, which should be those of `remote`.
    ///
    /// Starts a task, which ends with the layer.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`](crate::Error::InvalidConfig).
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn new(remote: L, config: &Config) -> Result<Self> {
        let epoch = Arc::default();
        let local = Arc::new(MemoryLayer::with_epoch(config, Arc::clone(&epoch))?);
        let remote = Arc::new(remote);
        let (events, _) = broadcast::channel(EVENTS);
        let modes = Modes::new(1, events.clone());
        let guard = Arc::new(Guard::new(local.clone(), epoch, config.return_after, modes));
        guard.look(&*remote);
        let (closing, tasks) = (CancellationToken::new(), TaskTracker::new());
        tasks.spawn(guard.clone().watch(remote.clone(), events.clone(), closing.clone()));
        tasks.close();
        Ok(Self { remote, local, guard, events, closing, tasks })
    }

    /// The layer that is used while its servers are there.
    pub fn remote(&self) -> &L {
        &self.remote
    }

    /// Whether the layer has fallen back, since when and why, and how many messages have stayed in this process.
    pub fn status(&self) -> ShardStatus {
        self.guard.modes.status().remove(0)
    }
}

#[async_trait]
impl<L: ChannelLayer> ChannelLayer for FallbackLayer<L> {
    async fn send(&self, channel: &str, message: Message) -> Result<()> {
        if self.guard.look(&*self.remote) {
            return self.send_local(channel, message).await;
        }
        let result = self.remote.send(channel, message.clone()).await;
        self.settle_send(result, channel, &message).await
    }

    async fn send_many(&self, messages: &[(&str, Message)]) -> Vec<Result<()>> {
        let mut results = Vec::with_capacity(messages.len());
        if self.guard.look(&*self.remote) {
            for (channel, message) in messages {
                results.push(self.send_local(channel, message.clone()).await);
            }
            return results;
        }
        let sent = self.remote.send_many(messages).await;
        for (result, (channel, message)) in sent.into_iter().zip(messages) {
            results.push(self.settle_send(result, channel, message).await);
        }
        results
    }

    async fn give_back(&self, messages: &[(&str, Message)]) -> Vec<Result<()>> {
        if self.guard.look(&*self.remote) {
            let given = self.local.give_back(messages).await;
            self.guard.modes.count_local(0, given.iter().filter(|result| result.is_ok()).count());
            return given;
        }
        let given = self.remote.give_back(messages).await;
        let mut results = Vec::with_capacity(given.len());
        for (result, (channel, message)) in given.into_iter().zip(messages) {
            results.push(self.settle_send(result, channel, message).await);
        }
        results
    }

    async fn receive(&self, channels: &[&str]) -> Result<Delivery> {
        if let Some(older) = self.try_receive_older(channels)? {
            return Ok(older);
        }
        let (mut remote, mut local) = (pin!(self.receive_remote(channels)), pin!(self.local.receive(channels)));
        // As for a receiver: what waits in the layer that is not used is older.
        if self.guard.is_local() {
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
        if self.guard.look(&*self.remote) {
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
        Ok(Receiver::new(FallbackSource::new(self.guard.clone(), remote, local)))
    }

    async fn new_channel(&self, pattern: &str) -> Result<ChannelName> {
        if !self.guard.look(&*self.remote) {
            match self.remote.new_channel(pattern).await {
                Err(error) if self.guard.judge(&error) => {}
                result => return result,
            }
        }
        self.local.new_channel(pattern).await
    }

    async fn group_add(&self, group: &str, channel: &str) -> Result<()> {
        let key = (GroupName::parse(group)?, ChannelName::parse_target(channel)?);
        self.change(key, Change::Added).await
    }

    async fn group_discard(&self, group: &str, channel: &str) -> Result<()> {
        let key = (GroupName::parse(group)?, ChannelName::parse_target(channel)?);
        self.change(key, Change::Discarded).await
    }

    async fn group_channels(&self, group: &str) -> Result<Vec<ChannelName>> {
        if !self.guard.look(&*self.remote) {
            match self.remote.group_channels(group).await {
                Err(error) if self.guard.judge(&error) => {}
                result => return result,
            }
        }
        self.local.group_channels(group).await
    }

    /// As the remote layer does; in an outage those of this process alone are known.
    fn lists_all_members(&self) -> bool {
        self.remote.lists_all_members() && !self.guard.is_local()
    }

    async fn group_send(&self, group: &str, message: Message) -> Result<()> {
        if self.guard.look(&*self.remote) {
            return self.group_send_local(group, message).await;
        }
        let result = self.remote.group_send(group, message).await;
        self.forgive(result)
    }

    async fn group_send_many(&self, messages: &[(&str, Message)]) -> Vec<Result<()>> {
        if !self.guard.look(&*self.remote) {
            let sent = self.remote.group_send_many(messages).await;
            return sent.into_iter().map(|result| self.forgive(result)).collect();
        }
        let mut results = Vec::with_capacity(messages.len());
        for (group, message) in messages {
            results.push(self.group_send_local(group, message.clone()).await);
        }
        results
    }

    async fn flush(&self) -> Result<()> {
        let local = self.local.flush().await;
        self.guard.journal.lock().clear();
        Parts::from_iter([local, self.remote.flush().await]).result()
    }

    async fn global_statistics(&self) -> Result<Statistics> {
        if self.guard.look(&*self.remote) {
            return self.local.global_statistics().await;
        }
        self.remote.global_statistics().await
    }

    async fn channel_statistics(&self, channel: &str) -> Result<Statistics> {
        if self.guard.look(&*self.remote) {
            return self.local.channel_statistics(channel).await;
        }
        self.remote.channel_statistics(channel).await
    }

    async fn close(&self) -> Result<()> {
        self.closing.cancel();
        // All begin at once, so that all go on if this is dropped.
        let (local, (), remote) = tokio::join!(self.local.close(), self.tasks.wait(), self.remote.close());
        Parts::from_iter([local, remote]).result()
    }

    /// That of the remote layer, unhealthy in an outage of it.
    async fn health(&self) -> Health {
        let mut health = self.remote.health().await;
        if self.guard.is_local() {
            let reason = self.status().reason;
            for shard in 0..health.shards.len() {
                health.falls_back(shard, reason.clone());
            }
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
        self.guard.modes.watch()
    }

    fn outage(&self) -> Option<usize> {
        self.remote.outage()
    }
}

impl<L> Drop for FallbackLayer<L> {
    fn drop(&mut self) {
        self.closing.cancel();
        // Receivers hold it too, and do not keep the layer open.
        self.local.end();
    }
}

impl<L: std::fmt::Debug> std::fmt::Debug for FallbackLayer<L> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FallbackLayer").field("remote", &self.remote).finish_non_exhaustive()
    }
}
