//! `HybridLayer`: a local layer and a remote layer as one.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{broadcast, watch};

use super::source::HybridSource;
use crate::crypto;
use crate::drops::{CountedIfUnread, Unsent};
use crate::error::{Error, Result};
use crate::health::{Health, RedisStats};
use crate::layer::{ChannelLayer, Delivery, Event, GroupSendOutcomes, Mode, Parts, Receiver, Statistics};
use crate::message::Message;
use crate::name::{ChannelKind, ChannelName, GroupName};

/// Prefix of the remote groups that hold members on normal channels. A digest of the group's name follows, because the
/// name itself may have the maximal length already.
const LOCAL_GROUP: &str = "__hybrid__.";

/// Combines two layers: `L` carries normal channels, `R` carries `!` and `?` channels and the memberships of groups.
///
/// Work that any worker on the same machine, or in the same process, can do stays there. Replies reach the client's
/// process wherever it is.
///
/// Group members on normal channels get their messages through the local layer of the sender. All processes know them,
/// because the remote layer stores them in a separate group. Its name is `__hybrid__.` followed by 32 hexadecimal
/// digits of the SHA-256 digest of the group's name; nothing else should use it. If the remote layer does not [list all
/// members](ChannelLayer::lists_all_members), as [`PubSubLayer`](crate::PubSubLayer), a send reaches only the members
/// on normal channels that its own process added.
///
/// Both layers should accept messages of the same size. Only the remote layer refuses a group message as a whole.
///
/// Each layer is given by value or in an [`Arc`], which may hold a `dyn ChannelLayer`.
///
/// # Examples
///
/// ```
/// use channel_layer::{ChannelLayer, HybridLayer, MemoryLayer, message};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> channel_layer::Result<()> {
/// // In production the remote layer is a `RedisLayer`.
/// let layer = HybridLayer::new(MemoryLayer::new(), MemoryLayer::new());
/// layer.send("http.request", message! { "path": "/" }).await?;
/// layer.send("http.response.proc!7", message! { "status": 200 }).await?;
///
/// assert_eq!(layer.local().global_statistics().await?.messages_count, 1);
/// assert_eq!(layer.remote().global_statistics().await?.messages_count, 1);
/// # Ok(())
/// # }
/// ```
///
/// With a layer that was chosen at run time:
///
/// ```
/// use channel_layer::{ChannelLayer, HybridLayer, MemoryLayer, layer_from_env};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> channel_layer::Result<()> {
/// let layer = HybridLayer::<_, dyn ChannelLayer>::new(MemoryLayer::new(), layer_from_env().await?);
/// # layer.close().await
/// # }
/// ```
#[derive(Debug)]
pub struct HybridLayer<L: ?Sized, R: ?Sized> {
    local: Arc<L>,
    remote: Arc<R>,
    /// Whether the next read of both layers polls the remote one first.
    remote_first: AtomicBool,
}

impl<L: ChannelLayer + ?Sized, R: ChannelLayer + ?Sized> HybridLayer<L, R> {
    /// Combines two layers. Flushing and closing the combined layer flushes and closes both.
    pub fn new(local: impl Into<Arc<L>>, remote: impl Into<Arc<R>>) -> Self {
        Self { local: local.into(), remote: remote.into(), remote_first: AtomicBool::new(true) }
    }

    /// The layer of normal channels.
    pub fn local(&self) -> &L {
        &self.local
    }

    /// The layer of single-reader and process-local channels and of groups.
    pub fn remote(&self) -> &R {
        &self.remote
    }

    /// Splits `channels` by layer. The two parts come in the order in which the next read polls them, which alternates.
    fn parts_in_turn<'c>(&self, channels: &[&'c str]) -> Result<[Part<'c>; 2]> {
        ChannelName::parse_sources(channels)?;
        let (local, remote) = channels.iter().copied().partition(|channel| is_local(channel));
        let local = Part { side: Side::Local, channels: local };
        let remote = Part { side: Side::Remote, channels: remote };
        let both = !local.channels.is_empty() && !remote.channels.is_empty();
        let remote_first = both && self.remote_first.fetch_xor(true, Ordering::Relaxed);
        Ok(if remote_first { [remote, local] } else { [local, remote] })
    }

    async fn receive_part(&self, part: &Part<'_>) -> Result<Delivery> {
        match part.side {
            Side::Local => self.local.receive(&part.channels).await,
            Side::Remote => self.remote.receive(&part.channels).await,
        }
    }

    async fn try_receive_part(&self, part: &Part<'_>) -> Result<Option<Delivery>> {
        match part.side {
            _ if part.channels.is_empty() => Ok(None),
            Side::Local => self.local.try_receive(&part.channels).await,
            Side::Remote => self.remote.try_receive(&part.channels).await,
        }
    }

    fn receiver_of(&self, part: &Part<'_>) -> Result<Receiver> {
        match part.side {
            Side::Local => self.local.receiver(&part.channels),
            Side::Remote => self.remote.receiver(&part.channels),
        }
    }

    /// Returns the members on normal channels of each of `groups`. Asks the remote layer once per group.
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

    /// Sends to members on normal channels. Each message carries the index of its call, and `calls` collects the
    /// results.
    async fn send_to_members(&self, sends: &[(usize, ChannelName, Message)], calls: &mut [GroupSendOutcomes]) {
        let messages: Vec<_> = sends.iter().map(|(_, channel, message)| (channel.as_str(), message.clone())).collect();
        for ((at, ..), result) in sends.iter().zip(self.local.send_many(&messages).await) {
            calls[*at].add(CountedIfUnread::of_send(result));
        }
    }
}

/// The channels of one read that belong to one layer.
struct Part<'c> {
    side: Side,
    channels: Vec<&'c str>,
}

#[derive(Clone, Copy)]
enum Side {
    Local,
    Remote,
}

/// The results of sends, which the caller has not read yet.
async fn unread(sends: impl Future<Output = Vec<Result<()>>>) -> Vec<CountedIfUnread<Result<()>>> {
    sends.await.into_iter().map(CountedIfUnread::of_send).collect()
}

/// Merges the results of both layers in the order of `messages`.
fn merge_results(messages: &[(&str, Message)], results: [Vec<CountedIfUnread<Result<()>>>; 2]) -> Vec<Result<()>> {
    let [mut local, mut remote] = results.map(Vec::into_iter);
    let next = |(channel, _): &(&str, Message)| if is_local(channel) { local.next() } else { remote.next() };
    messages.iter().filter_map(next).map(CountedIfUnread::read).collect()
}

fn is_local(channel: &str) -> bool {
    ChannelKind::of(channel) == ChannelKind::Normal
}

/// Returns the remote group that holds the members of `group` on normal channels.
fn local_group(group: &str) -> Result<String> {
    let group = GroupName::parse(group)?;
    Ok(format!("{LOCAL_GROUP}{:032x}", crypto::digest(group.as_str().as_bytes())))
}

#[async_trait]
impl<L: ChannelLayer + ?Sized, R: ChannelLayer + ?Sized> ChannelLayer for HybridLayer<L, R> {
    async fn send(&self, channel: &str, message: Message) -> Result<()> {
        if is_local(channel) {
            return self.local.send(channel, message).await;
        }
        self.remote.send(channel, message).await
    }

    async fn send_many(&self, messages: &[(&str, Message)]) -> Vec<Result<()>> {
        let (local, remote): (Vec<_>, Vec<_>) = messages.iter().cloned().partition(|(channel, _)| is_local(channel));
        // The results of one layer wait for those of the other.
        let (local, remote) =
            tokio::join!(unread(self.local.send_many(&local)), unread(self.remote.send_many(&remote)));
        merge_results(messages, [local, remote])
    }

    async fn requeue(&self, messages: &[(&str, Message)]) -> Vec<Result<()>> {
        let (local, remote): (Vec<_>, Vec<_>) = messages.iter().cloned().partition(|(channel, _)| is_local(channel));
        let (local, remote) = tokio::join!(unread(self.local.requeue(&local)), unread(self.remote.requeue(&remote)));
        merge_results(messages, [local, remote])
    }

    async fn receive(&self, channels: &[&str]) -> Result<Delivery> {
        let [first, second] = self.parts_in_turn(channels)?;
        if first.channels.is_empty() {
            return self.receive_part(&second).await;
        }
        if second.channels.is_empty() {
            return self.receive_part(&first).await;
        }
        // Without this attempt a layer behind a network would always lose the race below against a layer that has a
        // message ready. Its error is ignored: an outage is reported once, by the call that waits.
        if let Ok(Some(delivery)) = self.try_receive_part(&first).await {
            return Ok(delivery);
        }
        let (received, other) = tokio::select! {
            received = self.receive_part(&first) => (received, &second),
            received = self.receive_part(&second) => (received, &first),
        };
        match received {
            Ok(delivery) => Ok(delivery),
            // The other layer may have a message ready, although this one failed.
            Err(error) => self.try_receive_part(other).await.ok().flatten().ok_or(error),
        }
    }

    async fn try_receive(&self, channels: &[&str]) -> Result<Option<Delivery>> {
        let [first, second] = self.parts_in_turn(channels)?;
        let first = self.try_receive_part(&first).await;
        if let Ok(Some(_)) = first {
            return first;
        }
        let second = self.try_receive_part(&second).await?;
        if second.is_some() { Ok(second) } else { first }
    }

    fn receiver(&self, channels: &[&str]) -> Result<Receiver> {
        let [first, second] = self.parts_in_turn(channels)?;
        if first.channels.is_empty() {
            return self.receiver_of(&second);
        }
        if second.channels.is_empty() {
            return self.receiver_of(&first);
        }
        Ok(Receiver::new(HybridSource::new([self.receiver_of(&first)?, self.receiver_of(&second)?])))
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
        let remote = async {
            let results = self.remote.group_send_many(messages).await;
            results.into_iter().map(CountedIfUnread::of_group_send).collect::<Vec<_>>()
        };
        let members = async {
            let members = self.local_members(groups).await;
            let unsent = Unsent(members.iter().flatten().map(|members| members.len()).sum());
            (members, unsent)
        };
        let (results, (members, mut unsent)) = tokio::join!(remote, members);
        unsent.0 = 0;
        let mut calls: Vec<GroupSendOutcomes> = Vec::with_capacity(messages.len());
        let mut sends = Vec::new();
        for (at, (result, members)) in results.into_iter().zip(members).enumerate() {
            // A message that the remote layer refused must not reach any member. After the failure of a server it must.
            let was_accepted = matches!(result.outcome(), Ok(()) | Err(Error::Redis { .. }));
            let mut call = GroupSendOutcomes::default();
            call.add(result);
            match members {
                _ if !was_accepted => {}
                Ok(members) => sends.extend(members.iter().map(|member| (at, member.clone(), messages[at].1.clone()))),
                // Whether there are such members is unknown, so none is counted.
                Err(error) => call.add(CountedIfUnread::new(Err(error), None)),
            }
            calls.push(call);
        }
        self.send_to_members(&sends, &mut calls).await;
        calls.into_iter().map(GroupSendOutcomes::result).collect()
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
        if is_local(channel) {
            return self.local.channel_statistics(channel).await;
        }
        self.remote.channel_statistics(channel).await
    }

    async fn close(&self) -> Result<()> {
        let (local, remote) = tokio::join!(self.local.close(), self.remote.close());
        Parts::from_iter([local, remote]).result()
    }

    /// Reports both layers. Servers of the remote one come first, and each layer numbers its servers from 0.
    async fn health(&self) -> Health {
        let (local, remote) = tokio::join!(self.local.health(), self.remote.health());
        remote.merge(local)
    }

    /// Reports both layers. Servers of the remote one come first, and each layer numbers its servers from 0.
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

    /// Returns the events of the remote layer, which clients depend on. Both layers number their servers from 0, so
    /// merged events would be ambiguous. [`local`](Self::local) gives access to the events of the local layer.
    fn events(&self) -> broadcast::Receiver<Event> {
        self.remote.events()
    }

    /// Returns the mode of the remote layer.
    fn mode(&self) -> watch::Receiver<Mode> {
        self.remote.mode()
    }

    /// Returns the outage of the remote layer.
    fn outage(&self) -> Option<usize> {
        self.remote.outage()
    }
}
