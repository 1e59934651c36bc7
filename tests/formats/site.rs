//! `Site`: a deployment with its own prefix.

use std::time::Duration;

use channel_layer::{ChannelLayer, Config, Delivery};
use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;

use crate::support::{DEADLINE, RedisServer, random_prefix, shared_servers, within};

pub const EXPIRY: Duration = Duration::from_mins(1);

/// One server, and a prefix that no other test uses.
pub struct Site {
    pub prefix: String,
    pub redis: MultiplexedConnection,
}

impl Site {
    pub async fn start() -> Self {
        Self { prefix: random_prefix(), redis: shared_servers()[0].connection().await }
    }

    pub fn config(&self) -> Config {
        self.config_on(1)
    }

    pub fn config_on(&self, servers: usize) -> Config {
        Config::new()
            .max_message_size(1 << 19)
            .hosts(shared_servers()[..servers].iter().map(RedisServer::url))
            .prefix(&self.prefix)
            .stats_prefix(self.stats_prefix())
            .expiry(EXPIRY)
            .capacity(5)
            .connect_timeout(DEADLINE)
            .command_timeout(DEADLINE)
    }

    pub fn stats_prefix(&self) -> String {
        format!("{}-meta:", self.prefix)
    }

    pub fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Returns all keys that begin with the prefix, sorted and without the prefix.
    pub async fn keys(&mut self) -> Vec<String> {
        let keys: Vec<String> = self.redis.keys(format!("{}*", self.prefix)).await.unwrap();
        let mut keys: Vec<_> = keys.iter().map(|key| key[self.prefix.len()..].to_owned()).collect();
        keys.sort();
        keys
    }

    /// Returns the time to live of a key in ms.
    pub async fn ttl(&mut self, key: &str) -> i64 {
        self.redis.pttl(self.key(key)).await.unwrap()
    }

    /// Returns the time of the server in seconds.
    pub async fn time(&mut self) -> f64 {
        let (seconds, micros): (u64, u64) = redis::cmd("TIME").query_async(&mut self.redis).await.unwrap();
        Duration::from_micros(seconds * 1_000_000 + micros).as_secs_f64()
    }
}

/// Checks that a time to live is `expected`, minus the duration of the test.
#[track_caller]
pub fn assert_lives(ttl: i64, expected: Duration) {
    let expected = i64::try_from(expected.as_millis()).unwrap();
    assert!((expected - 20_000..=expected).contains(&ttl), "{ttl} ms instead of {expected} ms");
}

/// Receives one message. Panics if none arrives.
pub async fn take(layer: &dyn ChannelLayer, channel: &str) -> Delivery {
    within(DEADLINE, &format!("a message on {channel}"), layer.receive(&[channel])).await.unwrap()
}

/// Returns how many scripts a server has run.
pub async fn script_calls(server: &RedisServer) -> u64 {
    let mut redis = server.connection().await;
    let stats: String = redis::cmd("INFO").arg("commandstats").query_async(&mut redis).await.unwrap();
    let calls = stats.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:calls="));
    calls.map_or(0, |calls| calls.split(',').next().unwrap().parse().unwrap())
}
