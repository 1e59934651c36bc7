//! The routes of groups, and the guess that they are still those of the last send.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::name::{ChannelName, GroupName};

/// Groups that nobody has sent to in this time are forgotten.
const FORGET_AFTER: Duration = Duration::from_mins(1);

/// Later than the end of any route.
pub(crate) const NEVER: u64 = (1 << 53) - 1;

/// One of the places to which a group's messages go.
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
    /// As the server told them, with spaces between: those included that have ended.
    pub(crate) text: Arc<str>,
    /// How many stand in the text.
    pub(crate) count: usize,
    /// The time in microseconds, by the group's server, at which the first of them ends.
    pub(crate) until: u64,
    /// For how long after a membership ends the group remembers it, in ms.
    pub(crate) remembered: u64,
}

impl Routes {
    /// Those of a group without members.
    pub(crate) fn none() -> Self {
        Self { list: Arc::default(), text: "".into(), count: 0, until: NEVER, remembered: 0 }
    }
}

/// Remembers the routes of groups. A group whose routes were the same twice in a row is sent to on the condition that
/// they still are, which saves a round trip; one that changes all the time is asked for them first, which saves sending
/// its messages in vain.
#[derive(Debug)]
pub(crate) struct RouteMemory {
    /// Held only to look or to change.
    known: Mutex<Known>,
}

#[derive(Debug)]
struct Known {
    groups: HashMap<GroupName, Remembered>,
    /// When unused groups were last looked for.
    swept: Instant,
}

#[derive(Debug)]
struct Remembered {
    routes: Routes,
    steady: bool,
    used: Instant,
}

impl RouteMemory {
    pub(crate) fn new() -> Self {
        Self { known: Mutex::new(Known { groups: HashMap::new(), swept: Instant::now() }) }
    }

    /// The routes that `group` probably has.
    pub(crate) fn guess(&self, group: &GroupName) -> Option<Routes> {
        let mut known = self.known.lock();
        let remembered = known.groups.get_mut(group).filter(|remembered| remembered.steady)?;
        remembered.used = Instant::now();
        Some(remembered.routes.clone())
    }

    /// Notes that the server told these `routes` of `group`.
    pub(crate) fn note(&self, group: &GroupName, routes: &Routes) {
        let now = Instant::now();
        let mut known = self.known.lock();
        if now.duration_since(known.swept) > FORGET_AFTER {
            known.swept = now;
            known.groups.retain(|_, remembered| now.duration_since(remembered.used) < FORGET_AFTER);
        }
        match known.groups.get_mut(group) {
            Some(remembered) => {
                let steady = remembered.routes == *routes;
                *remembered = Remembered { routes: routes.clone(), steady, used: now };
            }
            None => {
                let remembered = Remembered { routes: routes.clone(), steady: false, used: now };
                known.groups.insert(group.clone(), remembered);
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
    fn only_what_was_the_same_twice_is_guessed() {
        let (memory, group) = (RouteMemory::new(), GroupName::parse("chat").unwrap());
        assert_eq!(memory.guess(&group), None);
        memory.note(&group, &routes(1));
        assert_eq!(memory.guess(&group), None);
        memory.note(&group, &routes(1));
        assert_eq!(memory.guess(&group), Some(routes(1)));
        memory.note(&group, &routes(2));
        assert_eq!(memory.guess(&group), None);
        memory.note(&group, &routes(2));
        assert_eq!(memory.guess(&group), Some(routes(2)));
    }
}
