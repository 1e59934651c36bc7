//! `Group`: one group in memory, with its members by route.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::queue::Recipients;
use crate::name::ChannelName;

/// The members of a group, by the non-local part of their names.
#[derive(Debug, Default)]
pub(super) struct Group {
    /// Locked for one change, or for the list of routes of one send. Never locked while messages are pushed.
    routes: Mutex<HashMap<ChannelName, Route>>,
}

/// The members with the same non-local part, and therefore the same queue.
#[derive(Debug, Default)]
struct Route {
    /// The end of each membership.
    members: HashMap<ChannelName, Instant>,
    snapshot: Option<Snapshot>,
}

/// The list of a route's members, shared by all sends until a member changes.
#[derive(Debug)]
struct Snapshot {
    members: Arc<[ChannelName]>,
    /// No membership ends before this time. It may be too early if memberships were renewed.
    until: Instant,
}

impl Group {
    /// Makes `channel` a member until at least `expires`.
    pub(super) fn add(&self, channel: ChannelName, expires: Instant) {
        let mut routes = self.routes.lock();
        if let Some(route) = routes.get_mut(channel.non_local()) {
            route.add(channel, expires);
        } else {
            routes.entry(channel.to_non_local()).or_default().add(channel, expires);
        }
    }

    /// Ends the membership of `channel`. Returns whether the group is empty now.
    pub(super) fn discard(&self, channel: &ChannelName) -> bool {
        let mut routes = self.routes.lock();
        if let Some(route) = routes.get_mut(channel.non_local())
            && route.members.remove(channel).is_some()
        {
            route.snapshot = None;
            if route.members.is_empty() {
                routes.remove(channel.non_local());
            }
        }
        routes.is_empty()
    }

    /// Returns the members, each with the end of its membership.
    pub(super) fn members(&self, now: Instant) -> Vec<(ChannelName, Instant)> {
        let routes = self.routes.lock();
        let members = routes.values().flat_map(|route| &route.members);
        members.filter(|(_, expires)| **expires > now).map(|(member, expires)| (member.clone(), *expires)).collect()
    }

    /// Returns the end of the membership of `channel`, if there is one.
    pub(super) fn end(&self, channel: &ChannelName) -> Option<Instant> {
        self.routes.lock().get(channel.non_local())?.members.get(channel).copied()
    }

    /// Returns the queues that a message to this group goes to, with the recipients in each.
    pub(super) fn routes(&self) -> Vec<(ChannelName, Recipients)> {
        let mut routes = self.routes.lock();
        let now = Instant::now();
        let mut targets = Vec::with_capacity(routes.len());
        for (name, route) in routes.iter_mut() {
            let members = route.snapshot(now);
            match &*members {
                [] => {}
                [only] if only == name => targets.push((name.clone(), Recipients::Channel)),
                _ => targets.push((name.clone(), Recipients::Members { members, next: 0 })),
            }
        }
        targets
    }

    /// Removes expired memberships. Returns when the next one expires; `None` if the group is empty.
    pub(super) fn sweep(&self, now: Instant) -> Option<Instant> {
        let mut routes = self.routes.lock();
        routes.retain(|_, route| !route.snapshot(now).is_empty());
        routes.values().filter_map(|route| route.snapshot.as_ref()).map(|snapshot| snapshot.until).min()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.routes.lock().is_empty()
    }
}

impl Route {
    fn add(&mut self, channel: ChannelName, expires: Instant) {
        match self.members.entry(channel) {
            Entry::Occupied(mut member) => {
                let end = member.get_mut();
                *end = expires.max(*end);
            }
            Entry::Vacant(member) => {
                member.insert(expires);
                self.snapshot = None;
            }
        }
    }

    fn snapshot(&mut self, now: Instant) -> Arc<[ChannelName]> {
        if let Some(snapshot) = &self.snapshot
            && now < snapshot.until
        {
            return Arc::clone(&snapshot.members);
        }
        self.members.retain(|_, expires| *expires > now);
        let members: Arc<[ChannelName]> = self.members.keys().cloned().collect();
        let until = self.members.values().min().copied();
        self.snapshot = until.map(|until| Snapshot { members: Arc::clone(&members), until });
        members
    }
}
