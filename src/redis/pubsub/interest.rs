//! What this process wants to hear: the channels that are open here, and the groups with members here.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join_all, select_all};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::topic::{Subscription, Topics};
use crate::error::{Error, Result};
use crate::name::{ChannelName, GroupName};
use crate::redis::pubsub::subscribe::desired::Wish;
use crate::redis::pubsub::subscribe::manager::SubscriptionManager;

/// Keeps the servers subscribed to what is open.
pub(crate) struct Interest {
    topics: Arc<Topics>,
    stations: Vec<Arc<SubscriptionManager>>,
    /// How long a channel stays open without a reader.
    linger: Duration,
    /// Held to change what is open and to tell the stations, so that they hear of changes in their order.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By the non-local part of the name.
    channels: HashMap<ChannelName, Opening>,
    groups: HashMap<GroupName, Desired>,
}

/// A channel that is open here.
struct Opening {
    readers: usize,
    /// How long it stays open without one.
    until: Instant,
    wished: Desired,
}

/// Subscriptions that have been asked for, and the stations that were asked.
#[derive(Clone)]
pub(crate) struct Desired(Vec<(usize, Subscription, Wish)>);

impl Interest {
    pub(crate) fn new(topics: Arc<Topics>, stations: Vec<Arc<SubscriptionManager>>, linger: Duration) -> Self {
        Self { topics, stations, linger, state: Mutex::default() }
    }

    /// Whether messages for `channel` are kept here.
    pub(crate) fn is_open(&self, channel: &ChannelName) -> bool {
        self.state.lock().channels.contains_key(channel.non_local())
    }

    /// Opens `channel`, which has no local part, for a reader that will [`leave`](Self::leave).
    pub(crate) fn enter(&self, channel: &ChannelName) -> Desired {
        let mut state = self.state.lock();
        let opening = self.open(&mut state, channel);
        opening.readers += 1;
        opening.wished.clone()
    }

    /// The reverse of one [`enter`](Self::enter). The channel stays open for a while.
    pub(crate) fn leave(&self, channel: &ChannelName) {
        let until = Instant::now() + self.linger;
        if let Some(opening) = self.state.lock().channels.get_mut(channel) {
            opening.readers -= 1;
            opening.until = until;
        }
    }

    /// Opens `channel`, which has no local part, for a while.
    pub(crate) fn keep(&self, channel: &ChannelName) -> Desired {
        let until = Instant::now() + self.linger;
        let mut state = self.state.lock();
        let opening = self.open(&mut state, channel);
        opening.until = until;
        opening.wished.clone()
    }

    /// Closes `channel`, which has no local part, unless it has a reader.
    pub(crate) fn close(&self, channel: &ChannelName) {
        let mut state = self.state.lock();
        if let Some(opening) = state.channels.get(channel)
            && opening.readers == 0
        {
            self.give_up(&opening.wished);
            state.channels.remove(channel);
        }
    }

    /// Listens for messages to `group`, which has a member here.
    pub(crate) fn join(&self, group: &GroupName) -> Desired {
        let mut state = self.state.lock();
        if let Some(wished) = state.groups.get(group) {
            return wished.clone();
        }
        let wished = self.wish([self.topics.of_members(group)]);
        state.groups.insert(group.clone(), wished.clone());
        wished
    }

    /// Listens no more for messages to `group`, unless `has_members` says, as of now, that it has a member here.
    pub(crate) fn part(&self, group: &GroupName, has_members: impl FnOnce() -> bool) {
        let mut state = self.state.lock();
        if !has_members()
            && let Some(wished) = state.groups.remove(group)
        {
            self.give_up(&wished);
        }
    }

    /// Closes channels that have had no reader for long, and listens no more for groups without members.
    pub(crate) fn sweep(&self, has_members: impl Fn(&GroupName) -> bool) {
        let now = Instant::now();
        let mut state = self.state.lock();
        state.channels.retain(|_, opening| self.stays(opening.readers > 0 || now < opening.until, &opening.wished));
        state.groups.retain(|group, wished| self.stays(has_members(group), wished));
    }

    /// Closes everything that nobody reads, and listens for no group.
    pub(crate) fn clear(&self) {
        let mut state = self.state.lock();
        state.channels.retain(|_, opening| self.stays(opening.readers > 0, &opening.wished));
        state.groups.retain(|_, wished| self.stays(false, wished));
    }

    /// Waits until the servers have confirmed `wished`, or their messages stay here anyway.
    ///
    /// # Errors
    ///
    /// [`Error::Redis`] of a server that is away or refused.
    pub(crate) async fn granted(&self, wished: &Desired) -> Result<()> {
        for (shard, subscription, wish) in &wished.0 {
            self.stations[*shard].granted(subscription, *wish).await?;
        }
        Ok(())
    }

    /// Waits until a server has refused any of `wished`; for ever if none does.
    pub(crate) async fn refused(&self, wished: &Desired) -> Error {
        let refused = wished.0.iter().map(|(shard, subscription, wish)| {
            let station = &self.stations[*shard];
            Box::pin(station.refused(subscription, *wish))
        });
        select_all(refused).await.0
    }

    /// Waits until everything has arrived that was published before the call, for channels and for groups alike.
    pub(crate) async fn catch_up(&self) {
        join_all(self.stations.iter().map(|station| station.catch_up())).await;
    }

    /// Waits until everything has arrived that was published for `group` before the call. It may still arrive although the
    /// process has left the group: the server may not have unsubscribed it yet.
    pub(crate) async fn catch_up_group(&self, group: &GroupName) {
        let (shard, _) = self.topics.of_members(group);
        self.stations[shard].catch_up().await;
    }

    /// All servers, by their position.
    pub(crate) fn stations(&self) -> &[Arc<SubscriptionManager>] {
        &self.stations
    }

    /// The stations that messages for these channels come from.
    pub(crate) fn stations_of(&self, channels: &[ChannelName]) -> Vec<Arc<SubscriptionManager>> {
        let sources = channels.iter().flat_map(|channel| self.topics.of_source(channel));
        let shards: HashSet<_> = sources.map(|(shard, _)| shard).collect();
        shards.into_iter().map(|shard| self.stations[shard].clone()).collect()
    }

    fn open<'s>(&self, state: &'s mut State, channel: &ChannelName) -> &'s mut Opening {
        state.channels.entry(channel.clone()).or_insert_with(|| Opening {
            readers: 0,
            until: Instant::now(),
            wished: self.wish(self.topics.of_source(channel)),
        })
    }

    fn wish(&self, subscriptions: impl IntoIterator<Item = (usize, Subscription)>) -> Desired {
        let ask = |(shard, subscription): (usize, Subscription)| {
            let wish = self.stations[shard].want(&subscription);
            (shard, subscription, wish)
        };
        Desired(subscriptions.into_iter().map(ask).collect())
    }

    fn give_up(&self, wished: &Desired) {
        for (shard, subscription, _) in &wished.0 {
            self.stations[*shard].give_up(subscription);
        }
    }

    /// Gives `stay` back, and gives up what was wished if it is false.
    fn stays(&self, stay: bool, wished: &Desired) -> bool {
        if !stay {
            self.give_up(wished);
        }
        stay
    }
}

impl Desired {
    /// All of these together.
    pub(crate) fn all(wished: impl Iterator<Item = Self>) -> Self {
        Self(wished.flat_map(|wished| wished.0).collect())
    }
}
