//! The trait over either of Python's formats.

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::{join_all, try_join_all};
use rand::distr::{Alphanumeric, SampleString};
use tokio::sync::broadcast;
use tracing::warn;

use super::base::Base;
use super::groups::Groups;
use super::send::{Posted, Sender};
use super::wire::Wire;
use crate::error::{Error, Result};
use crate::health::{Health, RedisStats};
use crate::layer::{ChannelLayer, Delivery, Event, Receiver, Statistics};
use crate::message::Message;
use crate::name::{ChannelKind, ChannelName, GroupName};
use crate::redis::batch::Outcome;
use crate::redis::calls::Sends;
use crate::redis::checkup::{self, Checkup};
use crate::redis::fault::Fault;
use crate::redis::receive::{Format, Readers};
use crate::redis::statistics::{self, Scan};

/// Random characters of a new channel's name, and how many names are tried.
const NEW_NAME: usize = 12;
const NEW_NAMES: usize = 10;

/// A layer in one of Python's formats: [`ChannelsRedisLayer`](super::ChannelsRedisLayer) or
/// [`AsgiRedisLayer`](super::AsgiRedisLayer).
pub struct DjangoLayer<F> {
    base: Base,
    wire: Arc<dyn Wire>,
    groups: Groups,
    sender: Sender,
    readers: Readers,
    checkup: Checkup,
    max_message_size: usize,
    /// Whether a consumer of Django Channels would fail at messages without a type.
    wants_type: bool,
    /// Whether that has been said.
    warned: AtomicBool,
    format: PhantomData<fn() -> F>,
}

impl<F> DjangoLayer<F> {
    pub(super) fn start(
        base: Base,
        wire: Arc<dyn Wire>,
        format: Box<dyn Format>,
        group_expiry: Duration,
        wants_type: bool,
    ) -> Self {
        let groups = Groups { places: base.places.clone(), keys: wire.keys().clone(), expiry: group_expiry };
        let sender = Sender::start(base.places.clone(), &wire, &base.work, base.closing.token());
        let max_message_size = wire.max_message_size();
        let readers = Readers::new(base.places.clone(), format, base.events.clone(), &base.work, &base.closing);
        let checkup = Checkup::new(base.places.shards.len());
        Self {
            checkup,
            base,
            wire,
            groups,
            sender,
            readers,
            max_message_size,
            wants_type,
            warned: AtomicBool::new(false),
            format: PhantomData,
        }
    }

    /// The time by the clock of a server that is there.
    fn now(&self) -> Duration {
        let told = self.base.places.shards.iter().find_map(|shard| shard.clock.now_ms());
        Duration::from_millis(told.unwrap_or(0))
    }

    fn check_type(&self, message: &Message) {
        if self.wants_type && message.text("type").is_none() && !self.warned.swap(true, Ordering::Relaxed) {
            warn!("a message without a text as its type was sent; consumers of Django Channels fail at such messages");
        }
    }

    fn post(&self, channel: &str, message: &Message, past_capacity: bool) -> Result<(ChannelName, Posted)> {
        self.base.check_open()?;
        let channel = ChannelName::parse_target(channel)?;
        // What has a `?` in its name is not for Python.
        if channel.kind() != ChannelKind::SingleReader {
            self.check_type(message);
        }
        let mut letter = self.wire.letter(&channel, message, self.now())?;
        if past_capacity {
            letter.capacity = usize::MAX;
        }
        Ok((channel, self.sender.post(letter)))
    }

    async fn send_all(&self, messages: &[(&str, Message)], past_capacity: bool) -> Vec<Result<()>> {
        // All are queued before the first is waited for, so that they travel together.
        let post = |(channel, message): &(&str, Message)| self.post(channel, message, past_capacity);
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
            Outcome::Failed { shard, fault } => Err(self.base.places.error(shard, fault)),
            Outcome::Closed => Err(self.base.closing.error()),
        }
    }

    /// Who gets a message to `group`.
    async fn recipients(&self, group: &str, message: &Message) -> Result<Vec<ChannelName>> {
        self.base.check_open()?;
        let group = GroupName::parse(group)?;
        self.check_type(message);
        // What cannot be sent fails whether or not there is anybody to get it.
        self.wire.check(message)?;
        self.groups.members(&group).await
    }

    fn post_to_members(&self, members: &[ChannelName], message: &Message) -> Result<Vec<Posted>> {
        let letters = self.wire.group_letters(members, message, self.now())?;
        Ok(letters.into_iter().map(|letter| self.sender.post(letter)).collect())
    }

    /// Waits for all of `posted`.
    async fn finish_group(&self, posted: Vec<Posted>) -> Result<()> {
        let mut sends = Sends::default();
        for posted in posted {
            sends.add(&self.base.places, self.sender.outcome(posted).await);
        }
        sends.result().map_err(|error| self.base.closing.explain(error))
    }

    fn sources(&self, channels: &[&str]) -> Result<Vec<ChannelName>> {
        self.base.check_open()?;
        ChannelName::parse_sources(channels).map_err(Error::from)
    }

    /// A name that no key of a server has.
    async fn new_single_reader_channel(&self, pattern: &str) -> Result<ChannelName> {
        // That a name is taken is as good as impossible; a server that says so every time is at fault.
        let mut shard = 0;
        for _ in 0..NEW_NAMES {
            let suffix = Alphanumeric.sample_string(&mut rand::rng(), NEW_NAME);
            let channel = ChannelName::from_pattern(pattern, &suffix)?;
            let home = self.base.places.shard_of_channel(&channel);
            shard = home.index;
            let mut command = redis::cmd("EXISTS");
            command.arg(self.wire.keys().channel(channel.as_str()));
            if home.run(&command).await.map_err(|fault| home.error(fault))? == redis::Value::Int(0) {
                return Ok(channel);
            }
        }
        Err(self.base.places.error(shard, Fault::unexpected("all new names are taken")))
    }
}

#[async_trait]
impl<F: 'static> ChannelLayer for DjangoLayer<F> {
    async fn send(&self, channel: &str, message: Message) -> Result<()> {
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
        self.base.check_open()?;
        if !pattern.ends_with('?')
            && let Some(channel) = self.wire.new_local_channel(pattern)
        {
            return channel;
        }
        self.new_single_reader_channel(pattern).await
    }

    async fn group_add(&self, group: &str, channel: &str) -> Result<()> {
        self.base.check_open()?;
        self.groups.add(&GroupName::parse(group)?, &ChannelName::parse_target(channel)?).await
    }

    async fn group_discard(&self, group: &str, channel: &str) -> Result<()> {
        self.base.check_open()?;
        self.groups.discard(&GroupName::parse(group)?, &ChannelName::parse_target(channel)?).await
    }

    async fn group_channels(&self, group: &str) -> Result<Vec<ChannelName>> {
        self.base.check_open()?;
        self.groups.members(&GroupName::parse(group)?).await
    }

    async fn group_send(&self, group: &str, message: Message) -> Result<()> {
        let _under_way = self.sender.call();
        let members = self.recipients(group, &message).await?;
        let posted = self.post_to_members(&members, &message)?;
        for posted in &posted {
            self.sender.go(posted);
        }
        self.finish_group(posted).await
    }

    async fn group_send_many(&self, messages: &[(&str, Message)]) -> Vec<Result<()>> {
        let _under_way = self.sender.call();
        let members = join_all(messages.iter().map(|(group, message)| self.recipients(group, message))).await;
        let post =
            |((_, message), members): (&(&str, Message), Result<Vec<_>>)| self.post_to_members(&members?, message);
        let posted: Vec<_> = messages.iter().zip(members).map(post).collect();
        posted.iter().flatten().flatten().for_each(|posted| self.sender.go(posted));
        let mut results = Vec::with_capacity(posted.len());
        for posted in posted {
            results.push(match posted {
                Ok(posted) => self.finish_group(posted).await,
                Err(error) => Err(error),
            });
        }
        results
    }

    async fn flush(&self) -> Result<()> {
        self.base.check_open()?;
        let mut scans = Vec::new();
        for shard in &self.base.places.shards {
            let kinds = self.wire.flushed().into_iter();
            scans.extend(kinds.map(|(prefix, kind)| Scan::of_kind(shard, prefix, kind)));
        }
        let is_ours = |key: &str, kind: Option<&str>| kind.is_some_and(|kind| self.wire.owns(key, kind));
        statistics::delete(scans, &is_ours).await
    }

    async fn global_statistics(&self) -> Result<Statistics> {
        self.base.check_open()?;
        let parts =
            self.base.places.shards.iter().map(|shard| async move {
                self.wire.global_statistics(shard).await.map_err(|fault| shard.error(fault))
            });
        Ok(try_join_all(parts).await?.into_iter().fold(Statistics::default(), Statistics::merge))
    }

    async fn channel_statistics(&self, channel: &str) -> Result<Statistics> {
        self.base.check_open()?;
        let channel = &ChannelName::parse(channel)?;
        let parts = self.base.places.shards_of_channel(channel).iter().map(|shard| async move {
            let statistics = self.wire.channel_statistics(shard, channel.non_local()).await;
            statistics.map_err(|fault| shard.error(fault))
        });
        Ok(try_join_all(parts).await?.into_iter().fold(Statistics::default(), Statistics::merge))
    }

    async fn close(&self) -> Result<()> {
        self.base.close().await;
        match self.readers.lost() {
            Some((shard, fault)) => Err(self.base.places.error(shard, fault)),
            None => Ok(()),
        }
    }

    async fn health(&self) -> Health {
        let place = |channel: &ChannelName| {
            let key = self.wire.keys().channel(channel.non_local());
            (key, self.base.places.shard_of_channel(channel).index)
        };
        self.checkup.health(&self.base.places.shards, |shard| checkup::travel(self, shard, place)).await
    }

    async fn redis_stats(&self) -> Result<Vec<RedisStats>> {
        self.base.check_open()?;
        checkup::stats(&self.base.places.shards).await
    }

    fn group_expiry(&self) -> Duration {
        self.groups.expiry
    }

    fn max_message_size(&self) -> usize {
        self.max_message_size
    }

    fn events(&self) -> broadcast::Receiver<Event> {
        self.base.events.subscribe()
    }

    fn outage(&self) -> Option<usize> {
        self.base.places.shards.iter().position(|shard| !shard.is_up())
    }
}

impl<F> std::fmt::Debug for DjangoLayer<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DjangoLayer").field("shards", &self.base.places.shards).finish_non_exhaustive()
    }
}
