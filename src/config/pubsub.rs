//! The options of layers that publish, and of those that go on alone.

use std::time::Duration;

use super::options::Config;
use super::slot::Words;

/// What becomes of a message for a reader whose queue is full, on a layer that cannot refuse it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Overflow {
    /// The message that has waited longest goes: `drop_oldest` in a configuration. What arrives is as fresh as can be.
    #[default]
    DropOldest,
    /// The new message goes: `drop_newest` in a configuration. What had begun arrives without a gap.
    DropNewest,
}

/// What becomes of calls that need a server which is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fallback {
    /// They fail: `fail` in a configuration.
    Fail,
    /// They go on between the members of this process: `local` in a configuration.
    Local,
}

/// The capacity of a channel on a layer that drops messages above it: room for a burst. The queues of Python's layer have no
/// bound.
pub(crate) const PUBSUB_CAPACITY: usize = 10_000;

impl Words for Overflow {
    const WORDS: &'static [(&'static str, Self)] =
        &[("drop_oldest", Self::DropOldest), ("drop_newest", Self::DropNewest)];
}

impl Words for Fallback {
    const WORDS: &'static [(&'static str, Self)] = &[("fail", Self::Fail), ("local", Self::Local)];
}

impl Config {
    /// What becomes of a message for a channel of a [`PubSubLayer`](crate::PubSubLayer) that has its
    /// [`capacity`](Self::capacity) of unread messages, or as many as [`max_queue_size`](Self::max_queue_size) allows.
    /// Defaults to [`Overflow::DropOldest`].
    #[must_use]
    pub fn overflow(mut self, overflow: Overflow) -> Self {
        self.overflow = overflow;
        self
    }

    /// Bytes of memory that the unread messages of one channel of a [`PubSubLayer`](crate::PubSubLayer) take, from 1024 to
    /// 2147483648 bytes. One message fits, however large it is. Defaults to 64 MiB.
    #[must_use]
    pub fn max_queue_size(mut self, bytes: usize) -> Self {
        self.max_queue_size = bytes;
        self
    }

    /// What becomes of calls while their server is away. Defaults to [`Fallback::Local`] for a
    /// [`PubSubLayer`](crate::PubSubLayer), and to [`Fallback::Fail`] for other layers. With [`Fallback::Local`]
    /// [`connect`](crate::connect()) puts a [`FallbackLayer`](crate::FallbackLayer) before a
    /// [`RedisLayer`](crate::RedisLayer), which by itself always fails.
    #[must_use]
    pub fn fallback(mut self, fallback: Fallback) -> Self {
        self.fallback = Some(fallback);
        self
    }

    /// How long a server that was unreachable has to answer again before messages go to it, from 0 s to 100 years. It keeps
    /// a server that comes and goes from tearing conversations apart. Defaults to 2 s.
    #[must_use]
    pub fn return_after(mut self, time: Duration) -> Self {
        self.return_after = time;
        self
    }

    /// Whether a [`PubSubLayer`](crate::PubSubLayer) publishes with `SPUBLISH`, which Redis knows from version 7.0.
    /// Every process needs the same choice, and Python's `channels_redis` knows only the other. Defaults to `false`.
    #[must_use]
    pub fn sharded_pubsub(mut self, sharded: bool) -> Self {
        self.sharded_pubsub = sharded;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen() -> Config {
        Config::new()
            .overflow(Overflow::DropNewest)
            .max_queue_size(2000)
            .fallback(Fallback::Fail)
            .return_after(Duration::from_millis(500))
            .sharded_pubsub(true)
    }

    #[test]
    fn files_and_the_environment_have_the_same_options() {
        let json = r#"{"overflow": "drop_newest", "max_queue_size": 2000, "fallback": "fail", "return_after": 0.5, "sharded_pubsub": true}"#;
        assert_eq!(Config::from_json(json).expect("it is a configuration"), chosen());
        let variables = [
            ("CHANNEL_LAYER_OVERFLOW", "drop_newest"),
            ("CHANNEL_LAYER_MAX_QUEUE_SIZE", "2000"),
            ("CHANNEL_LAYER_FALLBACK", "fail"),
            ("CHANNEL_LAYER_RETURN_AFTER", "0.5"),
            ("CHANNEL_LAYER_SHARDED_PUBSUB", "true"),
        ];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(Config::from_vars(&variables).expect("they are good"), chosen());
    }

    #[test]
    fn a_word_that_is_no_choice_is_refused_with_those_that_are() {
        for (option, fault) in [
            (r#""overflow": "drop""#, "overflow = drop: it must be drop_oldest or drop_newest"),
            (r#""fallback": 1"#, "fallback = 1: text is expected"),
            (r#""sharded_pubsub": "yes""#, "sharded_pubsub = \"yes\": true or false is expected"),
        ] {
            let error = Config::from_json(&format!("{{{option}}}")).expect_err(option).to_string();
            assert!(error.contains(fault), "{error}");
        }
    }
}
