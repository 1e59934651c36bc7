//! `Topics`: maps names to Redis channels and shards, as `channels_redis.pubsub` 4.3.0 does, and back.
//!
//! The Redis channel of a channel is its name. The process-local channels of a process are subscribed together by a
//! pattern. The pattern is subscribed on all servers, because the full names are hashed. The Redis channel of a group
//! is `{prefix}__group__{name}`.
//!
//! Sharded pub/sub has no patterns, and Python does not support it. There the Redis channel is the non-local part of
//! the name, and the message holds the full name. In a cluster, the Redis channel begins with the tag of its
//! [`Partition`].

use crate::name::{ChannelName, GroupName};

use super::managers::partition::{Partition, untagged};
use crate::redis::topology::ring::crc_shard;

/// The Redis channels of a layer.
#[derive(Clone, Debug)]
pub(crate) struct Topics {
    group_prefix: String,
    sharding: Sharding,
}

/// How Redis channels are distributed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sharding {
    /// Over this many servers, with `PUBLISH`.
    Classic(usize),
    /// Over this many servers, with `SPUBLISH`.
    Sharded(usize),
    /// Over the partitions of a cluster, with `SPUBLISH`.
    Partitioned,
}

/// The target of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Channel(ChannelName),
    Group(GroupName),
}

/// The destination of a published message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    /// The place of the Redis channel: the index of its server, or in a cluster of its partition.
    pub(crate) place: usize,
    pub(crate) topic: String,
    /// Whether several names share the topic, so that the message has to hold the full name.
    pub(crate) shared: bool,
}

/// A subscription on a server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Subscription {
    /// `SUBSCRIBE`.
    Channel(String),
    /// `PSUBSCRIBE`.
    Pattern(String),
    /// `SSUBSCRIBE`.
    Sharded(String),
}

impl Topics {
    pub(crate) fn new(prefix: &str, sharding: Sharding) -> Self {
        Self { group_prefix: format!("{prefix}__group__"), sharding }
    }

    /// The number of places.
    pub(crate) fn places(&self) -> usize {
        match self.sharding {
            Sharding::Classic(servers) | Sharding::Sharded(servers) => servers,
            Sharding::Partitioned => Partition::COUNT,
        }
    }

    fn is_sharded(&self) -> bool {
        !matches!(self.sharding, Sharding::Classic(_))
    }

    /// The place of `topic`, and its Redis channel there.
    fn placed(&self, topic: String) -> (usize, String) {
        match self.sharding {
            Sharding::Classic(servers) | Sharding::Sharded(servers) => (crc_shard(&topic, servers), topic),
            Sharding::Partitioned => {
                let partition = Partition::of(&topic);
                (partition.index(), partition.tagged(&topic))
            }
        }
    }

    /// The destination of a message for `target`.
    pub(crate) fn address(&self, target: &Target) -> Address {
        let (topic, shared) = match target {
            Target::Channel(channel) if self.is_sharded() => {
                (channel.non_local().to_owned(), channel.local().is_some())
            }
            Target::Channel(channel) => (channel.as_str().to_owned(), false),
            Target::Group(group) => (self.of_group(group), false),
        };
        let (place, topic) = self.placed(topic);
        Address { place, topic, shared }
    }

    /// The subscriptions for reading `channel`, which has no local part, each with its place.
    pub(crate) fn of_source(&self, channel: &ChannelName) -> Vec<(usize, Subscription)> {
        let topic = channel.as_str();
        if !self.is_sharded() && topic.ends_with('!') {
            // Names have no characters with a meaning in patterns.
            return (0..self.places()).map(|place| (place, Subscription::Pattern(format!("{topic}*")))).collect();
        }
        vec![self.subscription(topic.to_owned())]
    }

    /// The subscription for the members of `group`, with its place.
    pub(crate) fn of_members(&self, group: &GroupName) -> (usize, Subscription) {
        self.subscription(self.of_group(group))
    }

    fn subscription(&self, topic: String) -> (usize, Subscription) {
        let (place, topic) = self.placed(topic);
        (place, if self.is_sharded() { Subscription::Sharded(topic) } else { Subscription::Channel(topic) })
    }

    /// The target of a message on the Redis channel `topic`, as far as the topic determines it.
    pub(crate) fn target(&self, topic: &str) -> Option<Target> {
        let topic = if self.sharding == Sharding::Partitioned { untagged(topic)? } else { topic };
        if let Some(group) = topic.strip_prefix(&self.group_prefix) {
            return GroupName::parse(group).ok().map(Target::Group);
        }
        ChannelName::parse(topic).ok().map(Target::Channel)
    }

    fn of_group(&self, group: &GroupName) -> String {
        format!("{}{group}", self.group_prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channel(name: &str) -> ChannelName {
        ChannelName::parse(name).unwrap()
    }

    fn published(topics: &Topics, name: &str) -> (usize, String) {
        let Address { place, topic, .. } = topics.address(&Target::Channel(channel(name)));
        (place, topic)
    }

    /// The shards of the full Redis channel, as channels_redis 4.3.0 computes them on three hosts.
    #[test]
    fn names_have_the_redis_channels_and_the_shards_of_python() {
        let topics = Topics::new("asgi", Sharding::Classic(3));
        for (name, shard) in
            [("http.request", 2), ("a", 2), ("key_two", 1), ("asgispecific.0123456789abcdef0123456789abcdef", 1)]
        {
            assert_eq!(published(&topics, name), (shard, name.to_owned()));
            assert_eq!(topics.of_source(&channel(name)), [(shard, Subscription::Channel(name.to_owned()))]);
        }
        let group = GroupName::parse("test-group").unwrap();
        let expected = (1, Subscription::Channel("asgi__group__test-group".to_owned()));
        assert_eq!(topics.of_members(&group), expected);
        let address = topics.address(&Target::Group(group));
        assert_eq!((address.place, &*address.topic), (1, "asgi__group__test-group"));
    }

    #[test]
    fn process_local_channels_are_read_by_a_pattern_on_every_server() {
        let topics = Topics::new("asgi", Sharding::Classic(2));
        let pattern = Subscription::Pattern("send.p!*".to_owned());
        assert_eq!(topics.of_source(&channel("send.p!")), [(0, pattern.clone()), (1, pattern)]);
        assert_eq!(published(&topics, "send.p!ada").1, "send.p!ada");
    }

    #[test]
    fn sharded_topics_are_read_where_they_are_published() {
        for sharding in [Sharding::Sharded(3), Sharding::Partitioned] {
            let topics = Topics::new("asgi", sharding);
            for name in ["http.request", "body?x", "send.p!ada", "send.p!bob"] {
                let (place, topic) = published(&topics, name);
                let source = channel(channel(name).non_local());
                assert_eq!(topics.of_source(&source), [(place, Subscription::Sharded(topic))]);
            }
            assert!(topics.address(&Target::Channel(channel("send.p!ada"))).shared);
        }
    }

    #[test]
    fn the_topic_determines_the_target() {
        for sharding in [Sharding::Classic(1), Sharding::Partitioned] {
            let topics = Topics::new("asgi", sharding);
            for target in [
                Target::Channel(channel("send.p?ada")),
                Target::Channel(channel("asgispecific.x")),
                Target::Group(GroupName::parse("chat").unwrap()),
            ] {
                assert_eq!(topics.target(&topics.address(&target).topic), Some(target));
            }
            for other in ["no name", "asgi__group__no name", "{1}no name", "{1}asgi__group__no name"] {
                assert_eq!(topics.target(other), None, "{other}");
            }
        }
        let topics = Topics::new("asgi", Sharding::Classic(1));
        let local = Target::Channel(channel("send.p!ada"));
        assert_eq!(topics.target(&topics.address(&local).topic), Some(local));
    }
}
