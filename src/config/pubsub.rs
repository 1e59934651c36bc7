//! The options of layers that use pub/sub, and of layers with a fallback.

use std::time::Duration;

use super::options::Config;
use super::slot::Words;

/// The message that is dropped when the queue of a channel is full, on a layer that cannot refuse a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Overflow {
    /// Drops the message that has waited longest: `drop_oldest` in a configuration. The newest messages arrive.
    #[default]
    DropOldest,
    /// Drops the new message: `drop_newest` in a configuration. The messages that arrived first stay without a gap.
    DropNewest,
}

/// The behaviour of calls whose server is unreachable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fallback {
    /// Calls fail: `fail` in a configuration.
    Fail,
    /// Calls work within this process: `local` in a configuration.
    Local,
}

/// The default capacity of a channel on a layer that drops messages above it: enough for a burst. The queues of
/// Python's layer are unbounded.
pub(crate) const PUBSUB_CAPACITY: usize = 10_000;

impl Words for Overflow {
    const WORDS: &'static [(&'static str, Self)] =
        &[("drop_oldest", Self::DropOldest), ("drop_newest", Self::DropNewest)];
}

impl Words for Fallback {
    const WORDS: &'static [(&'static str, Self)] = &[("fail", Self::Fail), ("local", Self::Local)];
}

impl Config {
    /// Message that a [`PubSubLayer`](crate::PubSubLayer) drops when the queue of a channel is full: it holds
    /// [`capacity`](Self::capacity) messages, or as many bytes as [`max_queue_size`](Self::max_queue_size) allows.
    /// Defaults to [`Overflow::DropOldest`].
    #[must_use]
    pub fn overflow(mut self, overflow: Overflow) -> Self {
        self.overflow = overflow;
        self
    }

    /// Memory limit for the unread messages of one channel of a [`PubSubLayer`](crate::PubSubLayer), from 1024 to
    /// 2147483648 bytes. One message of any size always fits. Defaults to 64 MiB.
    #[must_use]
    pub fn max_queue_size(mut self, bytes: usize) -> Self {
        self.max_queue_size = bytes;
        self
    }

    /// Behaviour of calls while their server is unreachable. Defaults to [`Fallback::Local`] for a
    /// [`PubSubLayer`](crate::PubSubLayer), and to [`Fallback::Fail`] for other layers. A
    /// [`RedisLayer`](crate::RedisLayer) by itself always fails: with [`Fallback::Local`],
    /// [`connect`](crate::connect()) wraps it in a [`FallbackLayer`](crate::FallbackLayer).
    #[must_use]
    pub fn fallback(mut self, fallback: Fallback) -> Self {
        self.fallback = Some(fallback);
        self
    }

    /// How long a server must answer again after an outage before messages are sent to it, from 0 s to 100 years. The
    /// delay keeps a server that fails again and again from splitting conversations between two places. Defaults to 2
    /// s.
    #[must_use]
    pub fn return_after(mut self, time: Duration) -> Self {
        self.return_after = time;
        self
    }

    /// Whether a [`PubSubLayer`](crate::PubSubLayer) publishes with `SPUBLISH`, which needs Redis 7.0. In a
    /// [`cluster`](Self::cluster) each message then goes to one master, and otherwise to all nodes. All processes need
    /// the same value, and Python's `channels_redis` supports only `false`. Defaults to `false`.
    #[must_use]
    pub fn sharded_pubsub(mut self, sharded: bool) -> Self {
        self.sharded_pubsub = sharded;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_word_is_refused_with_the_list_of_choices() {
        for (option, fault) in [
            (r#""overflow": "drop""#, "overflow = drop: must be drop_oldest or drop_newest"),
            (r#""fallback": 1"#, "fallback = 1: expected a string"),
            (r#""sharded_pubsub": "yes""#, "sharded_pubsub = \"yes\": expected true or false"),
        ] {
            let error = Config::from_json(&format!("{{{option}}}")).expect_err(option).to_string();
            assert!(error.contains(fault), "{error}");
        }
    }
}
