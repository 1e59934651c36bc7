//! `HybridLayer` and its part of the contract.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{broadcast, watch};

use super::source::HybridSource;
use crate::crypto;
use crate::drops::{self, DropReason};
use crate::error::{Error, Result};
use crate::health::{Health, RedisStats};
use crate::layer::{ChannelLayer, Delivery, Event, Mode, Parts, Receiver, Statistics};
use crate::message::Message;
use crate::name::{ChannelKind, ChannelName, GroupName};

/// What the names of the groups begin with that hold members on normal channels. A digest of the name of the group that
/// they belong to follows, because the name itself may be as long as a name can be.
const LOCAL_GROUP: &str = "__hybrid__.";

/// Two layers as one: `L` carries normal channels, `R` carries `!` and `?` channels and knows the members of groups.
///
/// Work that any worker of one machine or process can do stays there, while answers find the client's process wherever
/// it is.
///
/// Members of groups on normal channels are served by the local layer of the sender. They are known everywhere: the
/// remote layer keeps them in a group of its own, named `__hybrid__.` and 32 hexadecimal digits of the SHA-256 digest
/// of the group's name, into which nobody else should put anything. Over a remote layer that does not
/// [list all members](ChannelLayer::lists_all_members), as a [`PubSubLayer`](crate::PubSubLayer), a send serves only those
/// of its own process.
///
/// Both layers should accept messages of the same size: a group message is refused as a whole only by the remote one.
///
/// # Examples
///
/// ```
/// use channel_layer::{ChannelLayer, HybridLayer, MemoryLayer, message};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> channel_layer::Result<()> {
/// // The remote one would be a `RedisLayer`.
/// let layer = HybridLayer::new(MemoryLayer::new(), MemoryLayer::new());
/// layer.send("http.request", message! { "path": "/" }).await?;
/// layer.send("http.response.proc!7", message! { "status": 200 }).await?;
///
/// assert_eq!(layer.local().global_statistics().await?.messages_count, 1);
/// assert_eq!(layer.remote().global_statistics().await?.messages_count, 1);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct HybridLayer<L, R> {
    local: L,
    remote: R,
    /// Whether the next read of both layers asks the remote one first.
    remote_first: AtomicBool,
}

impl<L: ChannelLayer, R: ChannelLayer> HybridLayer<L, R> {
    /// Puts two layers together, which it closes and flushes with itself.
    pub fn new(local: L, remote: R) -> Self {
        Self { local, remote, remote_first: AtomicBool::new(true) }
    }

    /// The layer of normal channels.
    pub fn local(&self) -> &L {
        &self.local
    }

    /// The layer of single-reader and process-local channels and of groups.
    pub fn remote(&self) -> &R {
        &self.remote
    }

    fn layer_of(&self, channel: &str) -> &dyn ChannelLayer {
        if is_local(channel) { &self.local } else { &self.remote }
    }

    /// The two layers as the next read should ask them, each with its part of `channels`. Who is second this time is
    /// first the next.
    fn in_turn<'c>(&self, channels: &[&'c str]) -> Result<[Part<'_, 'c>; 2]> {
        ChannelName::parse_sources(channels)?;
        let (local, remote) = channels.iter().copied().partition(|channel| is_local(channel));
        let local = Part { layer: &self.local, channels: local };
        let remote = Part { layer: &self.remote, channels: remote };
        let both = !local.channels.is_empty() && !remote.channels.is_empty();
        let remote_first = both && self.remote_first.fetch_xor(true, Ordering::Relaxed);
        Ok(if remote_first { [remote, local] } else { [local, remote] })
    }

    /// For each of `groups` its members on normal channels, from one question per group.
    async fn local_members<'g>(&self, groups: impl Iterator<Item = &'g str> + Send) -> Vec<Result<Arc<[ChannelName]>>> {
        let mut known: HashMap<&str, Arc<[ChannelName]>> = HashMap::new();
        let mut answers = Vec::new();
        for group in groups {
            if let Some(members) = known.get(group) {
                answers.push(Ok(Arc::clone(members)));
                continue;
            }
            let members = self.local_members_of(group).await;
            answers.push(members.map(|members| Arc::clone(known.entry(group).or_insert(members.into()))));
        }
        answers
    }

    async fn local_members_of(&self, group: &str) -> Result<Vec<ChannelName>> {
        self.remote.group_channels(&local_group(group)?).await
    }

    /// Sends to members on normal channels; each message has the position of its call in `calls`, which take the results.
    async fn send_to_members(&self, sends: &[(usize, ChannelName, Message)], calls: &mut [Parts]) {
        let messages: Vec<_> = sends.iter().map(|(_, channel, message)| (channel.as_str(), message.clone())).collect();
        for ((at, ..), result) in sends.iter().zip(self.local.send_many(&messages).await) {
            match result {
                Err(Error::ChannelFull { .. }) => drops::count(DropReason::Full, 1),
                result => calls[*at].add(result),
            }
        }
    }
}

/// One of the layers, with the channels of a read that are its own.
struct Part<'l, 'c> {
    layer: &'l dyn ChannelLayer,
    channels: Vec<&'c str>,
}

impl Part<'_, '_> {
    async fn receive(&self) -> Result<Delivery> {
        self.layer.receive(&self.channels).await
    }

    async fn try_receive(&self) -> Result<Option<Delivery>> {
        if self.channels.is_empty() { Ok(None) } else { self.layer.try_receive(&self.channels).await }
    }

    /// What is at hand here in place of what the other layer failed to give; its error if there is nothing.
    async fn or_else_at_hand(&self, error: Error) -> Result<Delivery> {
        match self.try_receive().await {
            Ok(Some(delivery)) => Ok(delivery),
            _ => Err(error),
        }
    }
}

/// The results of both layers, as the messages stand.
fn in_their_order(messages: &[(&str, Message)], local: Vec<Result<()>>, remote: Vec<Result<()>>) -> Vec<Result<()>> {
    let (mut local, mut remote) = (local.into_iter(), remote.into_iter());
    let next = |(channel, _): &(&str, Message)| if is_local(channel) { local.next() } else { remote.next() };
    messages.iter().filter_map(next).collect()
}

fn is_local(channel: &str) -> bool {
    ChannelKind::of(channel) == ChannelKind::Normal
}

/// The group of the remote layer that holds the members of `group` on normal channels.
fn local_group(group: &str) -> Result<String> {
    let group = GroupName::parse(group)?;
    Ok(format!("{LOCAL_GROUP}{:032x}", crypto::digest(group.as_str().as_bytes())))
}

#[async_trait]
impl<L: ChannelLayer, R: ChannelLayer> ChannelLayer for HybridLayer<L, R> {
    async fn send(&self, channel: &str, message: Message) -> Result<()> {
        self.layer_of(channel).send(channel, message).await
    }

    async fn send_many(&self, messages: &[(&str, Message)]) -> Vec<Result<()>> {
        let (local, remote): (Vec<_>, Vec<_>) = messages.iter().cloned().partition(|(channel, _)| is_local(channel));
        let (local, remote) = tokio::join!(self.local.send_many(&local), self.remote.send_many(&remote));
        in_their_order(messages, local, remote)
    }

    async fn give_back(&self, messages: &[(&str, Message)]) -> Vec<Result<()>> {
        let (local, remote): (Vec<_>, Vec<_>) = messages.iter().cloned().partition(|(channel, _)| is_local(channel));
        let (local, remote) = tokio::join!(self.local.give_back(&local), self.remote.give_back(&remote));
        in_their_order(messages, local, remote)
    }

    async fn receive(&self, channels: &[&str]) -> Result<Delivery> {
        let [first, second] = self.in_turn(channels)?;
        if first.channels.is_empty() {
            return second.receive().await;
        }
        if second.channels.is_empty() {
            return first.receive().await;
        }
        // A layer whose answer has a way to come would never be in time where the other always has one at hand. An outage
        // is told by the call that waits: one that does not wait would be told of it every time.
        if let Ok(Some(delivery)) = first.try_receive().await {
            return Ok(delivery);
        }
        let (received, other) = tokio::select! {
            received = first.receive() => (received, &second),
            received = second.receive() => (received, &first),
        };
        match received {
            Ok(delivery) => Ok(delivery),
            Err(error) => other.or_else_at_hand(error).await,
        }
    }

    async fn try_receive(&self, channels: &[&str]) -> Result<Option<Delivery>> {
        let [first, second] = self.in_turn(channels)?;
        let first = first.try_receive().await;
        if let Ok(Some(_)) = first {
            return first;
        }
        let second = second.try_receive().await?;
        if second.is_some() { Ok(second) } else { first }
    }

    fn receiver(&self, channels: &[&str]) -> Result<Receiver> {
        let [first, second] = self.in_turn(channels)?;
        if first.channels.is_empty() {
            return second.layer.receiver(&second.channels);
        }
        if second.channels.is_empty() {
            return first.layer.receiver(&first.channels);
        }
        let receivers = [first.layer.receiver(&first.channels)?, second.layer.receiver(&second.channels)?];
        Ok(Receiver::new(HybridSource::new(receivers)))
    }

    async fn new_channel(&self, pattern: &str) -> Result<ChannelName> {
        self.remote.new_channel(pattern).await
    }

    async fn group_add(&self, group: &str, channel: &str) -> Result<()> {
        if is_local(channel) {
            return self.remote.group_add(&local_group(group)?, channel).await;
        }
        self.remote.group_add(group, channel).await
    }

    async fn group_add_for(&self, group: &str, channel: &str, lasts: Duration) -> Result<()> {
        if is_local(channel) {
            return self.remote.group_add_for(&local_group(group)?, channel, lasts).await;
        }
        self.remote.group_add_for(group, channel, lasts).await
    }

    async fn group_discard(&self, group: &str, channel: &str) -> Result<()> {
        if is_local(channel) {
            return self.remote.group_discard(&local_group(group)?, channel).await;
        }
        self.remote.group_discard(group, channel).await
    }

    async fn group_channels(&self, group: &str) -> Result<Vec<ChannelName>> {
        let (remote, local) = tokio::join!(self.remote.group_channels(group), self.local_members_of(group));
        let mut members = remote?;
        members.extend(local?);
        Ok(members)
    }

    fn lists_all_members(&self) -> bool {
        self.remote.lists_all_members()
    }

    async fn group_send(&self, group: &str, message: Message) -> Result<()> {
        let results = self.group_send_many(&[(group, message)]).await;
        results.into_iter().collect()
    }

    async fn group_send_many(&self, messages: &[(&str, Message)]) -> Vec<Result<()>> {
        let groups = messages.iter().map(|(group, _)| *group);
        let (results, members) = tokio::join!(self.remote.group_send_many(messages), self.local_members(groups));
        let mut calls: Vec<Parts> = Vec::with_capacity(messages.len());
        let mut sends = Vec::new();
        for (at, (result, members)) in results.into_iter().zip(members).enumerate() {
            // A message that the remote layer refused must not reach anybody; one that a server failed must.
            let goes_on = matches!(result, Ok(()) | Err(Error::Redis { .. }));
            let mut call = Parts::from_iter([result]);
            match members {
                _ if !goes_on => {}
                Ok(members) => sends.extend(members.iter().map(|member| (at, member.clone(), messages[at].1.clone()))),
                Err(error) => call.add(Err(error)),
            }
            calls.push(call);
        }
        self.send_to_members(&sends, &mut calls).await;
        calls.into_iter().map(Parts::result).collect()
    }

    async fn flush(&self) -> Result<()> {
        let (local, remote) = tokio::join!(self.local.flush(), self.remote.flush());
        Parts::from_iter([local, remote]).result()
    }

    async fn global_statistics(&self) -> Result<Statistics> {
        let (local, remote) = tokio::join!(self.local.global_statistics(), self.remote.global_statistics());
        Ok(local?.merge(remote?))
    }

    async fn channel_statistics(&self, channel: &str) -> Result<Statistics> {
        self.layer_of(channel).channel_statistics(channel).await
    }

    async fn close(&self) -> Result<()> {
        let (local, remote) = tokio::join!(self.local.close(), self.remote.close());
        Parts::from_iter([local, remote]).result()
    }

    /// Of both layers; servers of the remote one come first, and each layer counts its own from 0.
    async fn health(&self) -> Health {
        let (local, remote) = tokio::join!(self.local.health(), self.remote.health());
        remote.merge(local)
    }

    /// Of both layers; servers of the remote one come first, and each layer counts its own from 0.
    async fn redis_stats(&self) -> Result<Vec<RedisStats>> {
        let (local, remote) = tokio::join!(self.local.redis_stats(), self.remote.redis_stats());
        let mut stats = remote?;
        stats.extend(local?);
        Ok(stats)
    }

    fn group_expiry(&self) -> Duration {
        self.remote.group_expiry()
    }

    fn max_message_size(&self) -> usize {
        self.local.max_message_size().min(self.remote.max_message_size())
    }

    /// Those of the remote layer, which holds what a client depends on. The servers of both layers are counted from 0,
    /// so that events of both together could not be told apart; the others come from [`local`](Self::local).
    fn events(&self) -> broadcast::Receiver<Event> {
        self.remote.events()
    }

    /// That of the remote layer.
    fn mode(&self) -> watch::Receiver<Mode> {
        self.remote.mode()
    }

    /// That of the remote layer.
    fn outage(&self) -> Option<usize> {
        self.remote.outage()
    }
}
