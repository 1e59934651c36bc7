//! `Interest`: the channels that are open in this process and the groups that have members here.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::select_all;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::managers::Managers;
use super::topic::{Subscription, Topics};
use crate::error::{Error, Result};
use crate::name::{ChannelName, GroupName};

/// Keeps the servers subscribed to the open channels and the groups.
pub(crate) struct Interest {
    topics: Arc<Topics>,
    managers: Arc<Managers>,
    /// How long a channel stays open without a reader.
    linger: Duration,
    /// Held while the managers are told of a change, so that they see changes in their order.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By the non-local part of the name.
    channels: HashMap<ChannelName, OpenChannel>,
    groups: HashMap<GroupName, RequestedSubscriptions>,
}

/// A channel that is open in this process.
struct OpenChannel {
    readers: usize,
    /// The time until which it stays open without a reader.
    until: Instant,
    requested: RequestedSubscriptions,
}

/// Requested subscriptions, each with its place.
#[derive(Clone)]
pub(crate) struct RequestedSubscriptions(Vec<(usize, Subscription)>);

impl Interest {
    pub(crate) fn new(topics: Arc<Topics>, managers: Arc<Managers>, linger: Duration) -> Self {
        Self { topics, managers, linger, state: Mutex::default() }
    }

    /// Whether messages for `channel` are queued here.
    pub(crate) fn is_open(&self, channel: &ChannelName) -> bool {
        self.state.lock().channels.contains_key(channel.non_local())
    }

    /// Opens `channel`, which has no local part, for a reader, until [`remove_reader`](Self::remove_reader).
    pub(crate) fn add_reader(&self, channel: &ChannelName) -> RequestedSubscriptions {
        let mut state = self.state.lock();
        let open = self.open(&mut state, channel);
        open.readers += 1;
        open.requested.clone()
    }

    /// The reverse of one [`add_reader`](Self::add_reader). The channel lingers.
    pub(crate) fn remove_reader(&self, channel: &ChannelName) {
        let until = Instant::now() + self.linger;
        if let Some(open) = self.state.lock().channels.get_mut(channel) {
            open.readers -= 1;
            open.until = until;
        }
    }

    /// Opens `channel`, which has no local part, for the linger time.
    pub(crate) fn hold_open(&self, channel: &ChannelName) -> RequestedSubscriptions {
        let until = Instant::now() + self.linger;
        let mut state = self.state.lock();
        let open = self.open(&mut state, channel);
        open.until = until;
        open.requested.clone()
    }

    /// Closes `channel`, which has no local part, unless it has a reader.
    pub(crate) fn close(&self, channel: &ChannelName) {
        let mut state = self.state.lock();
        if let Some(open) = state.channels.get(channel)
            && open.readers == 0
        {
            self.remove(&open.requested);
            state.channels.remove(channel);
        }
    }

    /// Subscribes to `group`, which has a member here.
    pub(crate) fn add_group(&self, group: &GroupName) -> RequestedSubscriptions {
        let mut state = self.state.lock();
        if let Some(requested) = state.groups.get(group) {
            return requested.clone();
        }
        let requested = self.request([self.topics.of_members(group)]);
        state.groups.insert(group.clone(), requested.clone());
        requested
    }

    /// Unsubscribes from `group`, unless it has a member here. `has_members` is called under the lock.
    pub(crate) fn remove_group(&self, group: &GroupName, has_members: impl FnOnce() -> bool) {
        let mut state = self.state.lock();
        if !has_members()
            && let Some(requested) = state.groups.remove(group)
        {
            self.remove(&requested);
        }
    }

    /// Closes channels whose linger time has passed, and unsubscribes from groups without members.
    pub(crate) fn sweep(&self, has_members: impl Fn(&GroupName) -> bool) {
        let now = Instant::now();
        let mut state = self.state.lock();
        state.channels.retain(|_, open| self.keep_or_remove(open.readers > 0 || now < open.until, &open.requested));
        state.groups.retain(|group, requested| self.keep_or_remove(has_members(group), requested));
    }

    /// Waits until the servers have confirmed `requested`. Does not wait for an unreachable server whose messages stay
    /// here.
    ///
    /// # Errors
    ///
    /// [`Error::Redis`] of a server that refused, or that is unreachable.
    pub(crate) async fn confirmed(&self, requested: &RequestedSubscriptions) -> Result<()> {
        for (place, subscription) in &requested.0 {
            self.managers.confirmed(*place, subscription).await?;
        }
        Ok(())
    }

    /// Waits until a server has refused any of `requested`. Never returns if none does.
    pub(crate) async fn refused(&self, requested: &RequestedSubscriptions) -> Error {
        let refused =
            requested.0.iter().map(|(place, subscription)| Box::pin(self.managers.refused(*place, subscription)));
        select_all(refused).await.0
    }

    /// Waits until all messages have arrived that were published before the call.
    pub(crate) async fn catch_up(&self) {
        self.managers.catch_up().await;
    }

    /// Waits until all messages to `group` have arrived that were published before the call. Messages may arrive even
    /// after the process has left the group, because the server may not have unsubscribed it yet.
    pub(crate) async fn catch_up_group(&self, group: &GroupName) {
        let (place, _) = self.topics.of_members(group);
        self.managers.catch_up_at(place).await;
    }

    /// The managers of all servers.
    pub(crate) fn managers(&self) -> &Arc<Managers> {
        &self.managers
    }

    /// The places that deliver messages of these channels.
    pub(crate) fn places_of(&self, channels: &[ChannelName]) -> HashSet<usize> {
        let sources = channels.iter().flat_map(|channel| self.topics.of_source(channel));
        sources.map(|(place, _)| place).collect()
    }

    fn open<'s>(&self, state: &'s mut State, channel: &ChannelName) -> &'s mut OpenChannel {
        state.channels.entry(channel.clone()).or_insert_with(|| OpenChannel {
            readers: 0,
            until: Instant::now(),
            requested: self.request(self.topics.of_source(channel)),
        })
    }

    fn request(&self, subscriptions: impl IntoIterator<Item = (usize, Subscription)>) -> RequestedSubscriptions {
        let subscriptions: Vec<_> = subscriptions.into_iter().collect();
        for (place, subscription) in &subscriptions {
            self.managers.add(*place, subscription);
        }
        RequestedSubscriptions(subscriptions)
    }

    fn remove(&self, requested: &RequestedSubscriptions) {
        for (place, subscription) in &requested.0 {
            self.managers.remove(*place, subscription);
        }
    }

    /// Returns `stay`. If it is `false`, removes the subscriptions `requested`.
    fn keep_or_remove(&self, stay: bool, requested: &RequestedSubscriptions) -> bool {
        if !stay {
            self.remove(requested);
        }
        stay
    }
}

impl RequestedSubscriptions {
    /// The subscriptions of all these together.
    pub(crate) fn all(requested: impl Iterator<Item = Self>) -> Self {
        Self(requested.flat_map(|requested| requested.0).collect())
    }
}
