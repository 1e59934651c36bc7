//! Names to Redis channels and back, in the form of `channels_redis.pubsub` 4.3.0, and the server of each.
//!
//! A channel's Redis channel is its name. Process-local channels are read all together, by a pattern, and since each
//! local part has a server of its own, on all servers. A group's Redis channel is `{prefix}__group__{name}`.
//!
//! Sharded pub/sub has no patterns, and Python does not know it. There the non-local part is the Redis channel, and the
//! message says whom it is for.

use crate::name::{ChannelName, GroupName};

use crate::redis::topology::ring::crc_shard;

/// The Redis channels of a layer.
#[derive(Clone, Debug)]
pub(crate) struct Topics {
    group_prefix: String,
    sharded: bool,
    shards: usize,
}

/// Whom a message is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Channel(ChannelName),
    Group(GroupName),
}

/// Where a message is published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) shard: usize,
    pub(crate) topic: String,
    /// Whether the message has to say whom it is for, because several names share the topic.
    pub(crate) shared: bool,
}

/// What a server is asked for.
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
    pub(crate) fn new(prefix: &str, sharded: bool, shards: usize) -> Self {
        Self { group_prefix: format!("{prefix}__group__"), sharded, shards }
    }

    /// Where a message for `target` is published.
    pub(crate) fn address(&self, target: &Target) -> Address {
        let (topic, shared) = match target {
            Target::Channel(channel) if self.sharded => (channel.non_local().to_owned(), channel.local().is_some()),
            Target::Channel(channel) => (channel.as_str().to_owned(), false),
            Target::Group(group) => (self.of_group(group), false),
        };
        Address { shard: crc_shard(&topic, self.shards), topic, shared }
    }

    /// What has to be subscribed to read `channel`, which has no local part, and on which server.
    pub(crate) fn of_source(&self, channel: &ChannelName) -> Vec<(usize, Subscription)> {
        let topic = channel.as_str().to_owned();
        let shard = crc_shard(&topic, self.shards);
        if self.sharded {
            return vec![(shard, Subscription::Sharded(topic))];
        }
        if topic.ends_with('!') {
            // Names have no character that means anything in a pattern.
            return (0..self.shards).map(|shard| (shard, Subscription::Pattern(format!("{topic}*")))).collect();
        }
        vec![(shard, Subscription::Channel(topic))]
    }

    /// What has to be subscribed for the members of `group`, and on which server.
    pub(crate) fn of_members(&self, group: &GroupName) -> (usize, Subscription) {
        let topic = self.of_group(group);
        let shard = crc_shard(&topic, self.shards);
        (shard, if self.sharded { Subscription::Sharded(topic) } else { Subscription::Channel(topic) })
    }

    /// Whom a message on the Redis channel `topic` is for, as far as that tells.
    pub(crate) fn target(&self, topic: &str) -> Option<Target> {
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
        let Address { shard, topic, .. } = topics.address(&Target::Channel(channel(name)));
        (shard, topic)
    }

    /// The shards of the full Redis channel, as channels_redis 4.3.0 computes them on three hosts.
    #[test]
    fn names_have_the_redis_channels_and_the_shards_of_python() {
        let topics = Topics::new("asgi", false, 3);
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
        assert_eq!((address.shard, &*address.topic), (1, "asgi__group__test-group"));
    }

    #[test]
    fn process_local_channels_are_read_by_a_pattern_on_every_server() {
        let topics = Topics::new("asgi", false, 2);
        let pattern = Subscription::Pattern("send.p!*".to_owned());
        assert_eq!(topics.of_source(&channel("send.p!")), [(0, pattern.clone()), (1, pattern)]);
        assert_eq!(published(&topics, "send.p!ada").1, "send.p!ada");
    }

    #[test]
    fn sharded_topics_are_read_where_they_are_published() {
        let topics = Topics::new("asgi", true, 3);
        for name in ["http.request", "body?x", "send.p!ada", "send.p!bob"] {
            let (shard, topic) = published(&topics, name);
            let source = channel(channel(name).non_local());
            assert_eq!(topics.of_source(&source), [(shard, Subscription::Sharded(topic))]);
        }
        assert!(topics.address(&Target::Channel(channel("send.p!ada"))).shared);
    }

    #[test]
    fn a_redis_channel_tells_whom_a_message_is_for() {
        let topics = Topics::new("asgi", false, 1);
        for target in [
            Target::Channel(channel("send.p!ada")),
            Target::Channel(channel("asgispecific.x")),
            Target::Group(GroupName::parse("chat").unwrap()),
        ] {
            assert_eq!(topics.target(&topics.address(&target).topic), Some(target));
        }
        assert_eq!(topics.target("no name"), None);
        assert_eq!(topics.target("asgi__group__no name"), None);
    }
}
