//! Finding out how the servers are: what is known of each, and a message that travels through it.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use parking_lot::Mutex;
use rand::distr::{Alphanumeric, SampleString};
use tokio::sync::Semaphore;

use crate::error::{BoxError, Result};
use crate::health::{Health, Probe, RedisStats};
use crate::layer::ChannelLayer;
use crate::message::Message;
use crate::name::ChannelName;
use crate::redis::node::shard::Shard;

/// By how much a probe may take longer than a command.
const MARGIN: Duration = Duration::from_millis(250);
/// What the channels of probes begin with.
const PATTERN: &str = "channel-layer.health?";
const NAME: usize = 16;
/// Who asks more often is told of the same probe.
const FRESH: Duration = Duration::from_secs(1);
/// What of a probe nobody has read lives no longer than this.
const LEFTOVERS_LIVE: Duration = Duration::from_secs(10);

/// The last probes through each shard of a layer.
pub(crate) struct HealthProbe {
    /// Held only to read or replace a result.
    last: Vec<Mutex<Option<Measured>>>,
    /// Whoever asks while a probe is under way waits for it and is told of the same.
    turns: Vec<Semaphore>,
}

#[derive(Clone)]
struct Measured {
    at: Instant,
    /// How long it took, or why it did not arrive.
    outcome: Result<Duration, String>,
}

impl HealthProbe {
    /// Of a layer with so many shards.
    pub(crate) fn new(shards: usize) -> Self {
        let last = (0..shards).map(|_| Mutex::default()).collect();
        Self { last, turns: (0..shards).map(|_| Semaphore::new(1)).collect() }
    }

    /// How `shards` are; `travel` has a message travel through one of them.
    pub(crate) async fn health<'s, T>(&self, shards: &'s [Arc<Shard>], travel: impl Fn(&'s Shard) -> T) -> Health
    where
        T: Future<Output = Result<(), BoxError>> + Send,
    {
        let reports = shards.iter().map(|shard| (shard, travel(shard))).map(|(shard, travel)| async move {
            let measured = self.measured(shard, travel).await;
            // The probe may have found out that the server is away.
            let mut health = shard.health();
            health.probe = Some(Probe {
                age: measured.at.elapsed(),
                round_trip: measured.outcome.clone().ok(),
                error: measured.outcome.err(),
            });
            health
        });
        Health::of_shards(join_all(reports).await)
    }

    async fn measured(&self, shard: &Shard, travel: impl Future<Output = Result<(), BoxError>>) -> Measured {
        // It is never closed, so that there always is a turn.
        let _turn = self.turns[shard.index].acquire().await;
        let last = self.last[shard.index].lock().clone();
        if let Some(last) = last.filter(|last| last.at.elapsed() < FRESH) {
            return last;
        }
        let began = Instant::now();
        // A command that hangs comes to its own end first, which tells whether its server is there.
        let outcome = match tokio::time::timeout(shard.patience() + MARGIN, travel).await {
            Ok(Ok(())) => Ok(began.elapsed()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no message arrived within {:?}", shard.patience())),
        };
        let measured = Measured { at: Instant::now(), outcome };
        *self.last[shard.index].lock() = Some(measured.clone());
        measured
    }
}

/// A new channel, for one message, that `place` puts on `shard`; and what else `place` says of it.
pub(crate) fn channel_on<P>(
    shard: &Shard,
    place: impl Fn(&ChannelName) -> (P, usize),
) -> Result<(ChannelName, P), BoxError> {
    loop {
        let channel = ChannelName::from_pattern(PATTERN, &Alphanumeric.sample_string(&mut rand::rng(), NAME))?;
        let (placed, home) = place(&channel);
        if home == shard.index {
            return Ok((channel, placed));
        }
    }
}

/// Sends a message through `shard` of `layer` and reads it; `place` gives the key and the shard of a channel.
pub(crate) async fn travel(
    layer: &dyn ChannelLayer,
    shard: &Shard,
    place: impl Fn(&ChannelName) -> (String, usize),
) -> Result<(), BoxError> {
    let (channel, key) = channel_on(shard, place)?;
    layer.send(channel.as_str(), Message::default()).await?;
    let mut command = redis::cmd("PEXPIRE");
    // Without `LT`, which servers before 7.0 do not know.
    command.arg(key).arg(u64::try_from(LEFTOVERS_LIVE.as_millis()).unwrap_or(u64::MAX));
    shard.run(&command).await.map_err(|fault| shard.error(fault))?;
    // It is there, and this takes none of the connections on which readers wait.
    match layer.try_receive(&[channel.as_str()]).await? {
        Some(_) => Ok(()),
        None => Err("the message was not there".into()),
    }
}

/// What the servers say of their load.
pub(crate) async fn stats(shards: &[Arc<Shard>]) -> Result<Vec<RedisStats>> {
    let asked = join_all(shards.iter().map(|shard| async move {
        let info = shard.run(&redis::cmd("INFO")).await.map_err(|fault| shard.error(fault))?;
        let info: String = redis::from_redis_value(info).unwrap_or_default();
        Ok(parse_info(shard.index, &info))
    }));
    asked.await.into_iter().collect()
}

fn parse_info(shard: usize, info: &str) -> RedisStats {
    let text = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    let field = |name| text(name).and_then(|value| value.parse().ok()).unwrap_or(0);
    RedisStats {
        shard,
        connected_clients: field("connected_clients"),
        used_memory: field("used_memory"),
        maxmemory_policy: text("maxmemory_policy").unwrap_or("unknown").to_owned(),
        pubsub_channels: field("pubsub_channels"),
        pubsub_patterns: field("pubsub_patterns"),
        total_commands_processed: field("total_commands_processed"),
    }
}

#[cfg(test)]
mod tests {
    use super::parse_info;

    #[test]
    fn figures_are_found_by_their_whole_name() {
        let info = "# Clients\r\nconnected_clients:3\r\nused_memory_rss:9\r\nused_memory:7\r\npubsub_channels:1\r\n\
                    maxmemory_policy:allkeys-lru\r\n";
        let stats = parse_info(2, info);
        assert_eq!((stats.shard, stats.connected_clients, stats.used_memory), (2, 3, 7));
        assert_eq!((stats.pubsub_channels, stats.total_commands_processed), (1, 0));
        assert_eq!(stats.maxmemory_policy, "allkeys-lru");
    }
}
