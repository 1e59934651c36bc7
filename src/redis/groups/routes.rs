//! `Routes` of a group, and `RouteMemory`, which guesses that they are still those of the last send.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::name::{ChannelName, GroupName};

/// Groups without a send for this time are forgotten.
const FORGET_AFTER: Duration = Duration::from_mins(1);

/// Later than the end of any route.
pub(crate) const NEVER: u64 = (1 << 53) - 1;

/// A channel to which a group's messages go: one process with members, or one normal channel.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Route {
    /// The non-local part of the names of its members.
    pub(crate) channel: ChannelName,
    /// The version of its last change.
    pub(crate) version: u64,
}

impl Route {
    /// Whether its members are process-local.
    pub(crate) fn is_local(&self) -> bool {
        self.channel.as_str().ends_with('!')
    }
}

/// All routes of a group at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Routes {
    pub(crate) list: Arc<[Route]>,
    /// The routes and their versions as the server returned them, separated by spaces. Ended routes are included.
    pub(crate) text: Arc<str>,
    /// How many routes are in `text`.
    pub(crate) count: usize,
    /// When the first of them ends, in microseconds by the clock of the group's server.
    pub(crate) until: u64,
    /// For how long after a membership ends the group remembers it, in ms.
    pub(crate) retention_ms: u64,
}

impl Routes {
    /// The routes of a group without members.
    pub(crate) fn none() -> Self {
        Self { list: Arc::default(), text: "".into(), count: 0, until: NEVER, retention_ms: 0 }
    }
}

/// Remembers the routes of groups.
///
/// If the routes of a group were the same twice in a row, a send assumes that they still are, which saves a round trip.
/// For a group that changes often, a send fetches the routes first, because most messages sent by a guess would be
/// refused.
#[derive(Debug)]
pub(crate) struct RouteMemory {
    /// Locked only to read or change it.
    known: Mutex<Known>,
}

#[derive(Debug)]
struct Known {
    groups: HashMap<GroupName, CachedRoutes>,
    /// When unused groups were last evicted.
    evicted_at: Instant,
}

#[derive(Debug)]
struct CachedRoutes {
    routes: Routes,
    /// Whether the last two answers were equal.
    unchanged: bool,
    used_at: Instant,
}

impl RouteMemory {
    pub(crate) fn new() -> Self {
        Self { known: Mutex::new(Known { groups: HashMap::new(), evicted_at: Instant::now() }) }
    }

    /// The routes that `group` probably has; `None` if the last two answers differed.
    pub(crate) fn guess(&self, group: &GroupName) -> Option<Routes> {
        let mut known = self.known.lock();
        let cached = known.groups.get_mut(group).filter(|cached| cached.unchanged)?;
        cached.used_at = Instant::now();
        Some(cached.routes.clone())
    }

    /// Records the `routes` that the server of `group` returned.
    pub(crate) fn record(&self, group: &GroupName, routes: &Routes) {
        let now = Instant::now();
        let mut known = self.known.lock();
        if now.duration_since(known.evicted_at) > FORGET_AFTER {
            known.evicted_at = now;
            known.groups.retain(|_, cached| now.duration_since(cached.used_at) < FORGET_AFTER);
        }
        match known.groups.get_mut(group) {
            Some(cached) => {
                let unchanged = cached.routes == *routes;
                *cached = CachedRoutes { routes: routes.clone(), unchanged, used_at: now };
            }
            None => {
                let cached = CachedRoutes { routes: routes.clone(), unchanged: false, used_at: now };
                known.groups.insert(group.clone(), cached);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(version: u64) -> Routes {
        let channel = ChannelName::parse("p!").unwrap();
        Routes { list: [Route { channel, version }].into(), text: format!("p! {version}").into(), ..Routes::none() }
    }

    #[test]
    fn only_routes_that_were_the_same_twice_are_guessed() {
        let (memory, group) = (RouteMemory::new(), GroupName::parse("chat").unwrap());
        assert_eq!(memory.guess(&group), None);
        memory.record(&group, &routes(1));
        assert_eq!(memory.guess(&group), None);
        memory.record(&group, &routes(1));
        assert_eq!(memory.guess(&group), Some(routes(1)));
        memory.record(&group, &routes(2));
        assert_eq!(memory.guess(&group), None);
        memory.record(&group, &routes(2));
        assert_eq!(memory.guess(&group), Some(routes(2)));
    }
}
