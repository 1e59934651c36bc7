//! `Keys`: the Redis keys of channels and groups, with one function for each kind of key.
//!
//! Names contain no braces or colons. The braces make each name a hash tag, so that all keys of one channel, and all
//! keys of one group, are in one slot of a Redis Cluster.

use crate::name::{ChannelName, GroupName};
use crate::redis::stored::scan::glob_escaped;
use crate::redis::topology::lists::channel_of;

/// The keys of one deployment. Each begins with its prefix or its prefix for statistics.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    prefix: String,
    stats_prefix: String,
}

/// The keys of the members that one group has on one process-local route, in the order in which scripts take them.
#[derive(Debug)]
pub(crate) struct RouteKeys {
    /// Sorted set: local part, version of its last add.
    pub(crate) members: String,
    /// Sorted set: local part, version at which its current membership began.
    pub(crate) joined: String,
    /// Sorted set: local part, time at which its membership ends.
    pub(crate) ends: String,
    /// Sorted set: local part and beginning of a membership that has ended, version of its end.
    pub(crate) left: String,
}

impl RouteKeys {
    pub(crate) fn all(self) -> [String; 4] {
        [self.members, self.joined, self.ends, self.left]
    }
}

impl Keys {
    pub(crate) fn new(prefix: impl Into<String>, stats_prefix: impl Into<String>) -> Self {
        Self { prefix: prefix.into(), stats_prefix: stats_prefix.into() }
    }

    /// List: the entries that wait in a channel, by the non-local part of its name, or in another of its lists, by the
    /// name of the list.
    pub(crate) fn channel(&self, list: &str) -> String {
        format!("{}:channel:{{{list}}}", self.prefix)
    }

    /// Sorted set: the routes of a group, each with the version of its last change.
    pub(crate) fn group(&self, group: &GroupName) -> String {
        format!("{}:group:{{{group}}}", self.prefix)
    }

    /// Sorted set: the routes of a group, each with the time at which its last membership ends.
    pub(crate) fn route_ends(&self, group: &GroupName) -> String {
        format!("{}:route-ends:{{{group}}}", self.prefix)
    }

    /// The members of `group` whose names begin with `route`, which ends in `!`.
    pub(crate) fn route(&self, group: &GroupName, route: &str) -> RouteKeys {
        let key = |kind| format!("{}:{kind}:{{{group}}}:{route}", self.prefix);
        RouteKeys { members: key("members"), joined: key("joined"), ends: key("ends"), left: key("left") }
    }

    /// Hash: the counters of a channel.
    pub(crate) fn channel_stats(&self, non_local: &str) -> String {
        format!("{}{{{non_local}}}", self.stats_prefix)
    }

    /// Hash: the counters of all channels on a shard.
    pub(crate) fn global_stats(&self) -> String {
        format!("{}global", self.stats_prefix)
    }

    /// Stream: records of unreadable entries.
    pub(crate) fn quarantine(&self) -> String {
        format!("{}:quarantine", self.prefix)
    }

    /// Sorted set: the records in quarantine whose entries have been restored to a channel, or are deleted, and when
    /// that happened.
    pub(crate) fn restored(&self, non_local: &str) -> String {
        format!("{}:restored:{{{non_local}}}", self.prefix)
    }

    /// String: the random epoch of a shard's data.
    pub(crate) fn epoch(&self) -> String {
        format!("{}:epoch", self.prefix)
    }

    /// Patterns for `SCAN` that together match every key that [`is_flushed`](Self::is_flushed).
    pub(crate) fn scan_patterns(&self) -> [String; 2] {
        [format!("{}:*", glob_escaped(&self.prefix)), format!("{}*", glob_escaped(&self.stats_prefix))]
    }

    /// The pattern for `SCAN` that matches every channel's list.
    pub(crate) fn scan_channels(&self) -> String {
        format!("{}:channel:*", glob_escaped(&self.prefix))
    }

    /// The channel to whose list `key` belongs.
    pub(crate) fn parse_channel<'k>(&self, key: &'k str) -> Option<&'k str> {
        channel_of(braced(key.strip_prefix(&self.prefix)?.strip_prefix(":channel:")?)?)
    }

    /// Whether `key` holds messages, groups or statistics of this deployment. The keys of a deployment whose longer
    /// prefix begins with this one have a colon in place of a name.
    pub(crate) fn is_flushed(&self, key: &str) -> bool {
        self.is_data(key) || self.is_stats(key)
    }

    fn is_data(&self, key: &str) -> bool {
        let Some(rest) = key.strip_prefix(&self.prefix).and_then(|rest| rest.strip_prefix(':')) else {
            return false;
        };
        let Some((kind, name)) = rest.split_once(':') else {
            return rest == "quarantine";
        };
        match kind {
            "channel" => braced(name).is_some_and(|list| channel_of(list).is_some()),
            "restored" => braced(name).is_some_and(|name| ChannelName::parse(name).is_ok()),
            "group" | "route-ends" => braced(name).is_some_and(|name| GroupName::parse(name).is_ok()),
            "members" | "joined" | "ends" | "left" => name.split_once(':').is_some_and(|(group, route)| {
                braced(group).is_some_and(|group| GroupName::parse(group).is_ok()) && ChannelName::parse(route).is_ok()
            }),
            _ => false,
        }
    }

    fn is_stats(&self, key: &str) -> bool {
        key.strip_prefix(&self.stats_prefix)
            .is_some_and(|name| name == "global" || braced(name).is_some_and(|name| ChannelName::parse(name).is_ok()))
    }
}

fn braced(text: &str) -> Option<&str> {
    text.strip_prefix('{')?.strip_suffix('}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> Keys {
        Keys::new("asgi", "asgi-meta:")
    }

    #[test]
    fn every_key_of_a_deployment_but_its_epoch_is_flushed() {
        let group = GroupName::parse("chat").unwrap();
        let route = keys().route(&group, "websocket.send.p!");
        for key in [
            keys().channel("http.request"),
            keys().channel("http.request/7"),
            keys().group(&group),
            keys().route_ends(&group),
            route.members,
            route.joined,
            route.ends,
            route.left,
            keys().channel_stats("websocket.send.p!"),
            keys().global_stats(),
            keys().quarantine(),
            keys().restored("http.request"),
        ] {
            assert!(keys().is_flushed(&key), "{key}");
        }
        for epoch in [keys().epoch(), format!("{}:{{5}}", keys().epoch())] {
            assert!(!keys().is_flushed(&epoch), "{epoch}");
        }
    }

    #[test]
    fn the_keys_of_a_longer_prefix_are_not_flushed() {
        for theirs in ["asgi:channel", "asgi:group", "asgi:members", "asgi:staging", "asgi2", "asgi-meta"] {
            let other = Keys::new(theirs, format!("{theirs}-meta:"));
            let group = GroupName::parse("chat").unwrap();
            let route = other.route(&group, "p!");
            for key in [other.channel("a"), other.group(&group), route.members, other.channel_stats("a")] {
                assert!(!keys().is_flushed(&key), "{key}");
            }
        }
    }

    #[test]
    fn the_name_of_a_channel_is_parsed_from_its_key() {
        let key = keys().channel("websocket.send.p!");
        assert_eq!(keys().parse_channel(&key), Some("websocket.send.p!"));
        assert_eq!(keys().parse_channel(&keys().channel("jobs/7")), Some("jobs"));
        assert_eq!(keys().parse_channel("asgi:channel:{a:b}"), None);
        assert_eq!(keys().parse_channel("asgi:group:{a}"), None);
    }

    #[test]
    fn a_prefix_is_taken_literally_in_patterns() {
        assert_eq!(Keys::new("a*[b]", "s?").scan_patterns(), ["a\\*\\[b\\]:*".to_owned(), "s\\?*".to_owned()]);
    }
}
