//! `HealthProbe`: sends a message through each server of a layer, for health reports. Also reads the load of servers.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use parking_lot::Mutex;
use rand::distr::{Alphanumeric, SampleString};

use crate::error::{BoxError, Result};
use crate::health::{Health, Probe, RedisStats};
use crate::layer::ChannelLayer;
use crate::message::Message;
use crate::name::ChannelName;
use crate::redis::node::clock::milliseconds;
use crate::redis::node::shard::Shard;
use crate::redis::topology::places::Places;

/// How much longer than a command a probe may take.
const MARGIN: Duration = Duration::from_millis(250);
/// The pattern of the channels of probes.
const PATTERN: &str = "channel-layer.health?";
/// The number of random characters in the name of such a channel.
const SUFFIX: usize = 16;
/// The most names that are tried. A shard of a cluster may serve a single slot, or none any more.
const MOST_NAMES: usize = 1 << 18;
/// How many names are tried before other tasks run.
const NAMES_AT_ONCE: usize = 256;
/// How long a result is reused.
const REUSED_FOR: Duration = Duration::from_secs(1);
/// The time to live of a probe message that is not read.
const MESSAGE_TTL: Duration = Duration::from_secs(10);

/// The last probe of each shard of a layer.
#[derive(Default)]
pub(crate) struct HealthProbe {
    /// By the index of the shard. Held only to find a probe or to add one.
    probes: Mutex<HashMap<usize, Arc<LastProbe>>>,
}

/// The last result of a shard. Held during a probe: a concurrent call waits for it and reuses its result.
type LastProbe = tokio::sync::Mutex<Option<Measured>>;

#[derive(Clone)]
struct Measured {
    at: Instant,
    /// The duration of the probe, or the reason of its failure.
    outcome: Result<Duration, String>,
}

impl HealthProbe {
    /// The health of `shards`. `send_through` sends a message through one of them and reads it.
    pub(crate) async fn health<'s, T>(
        &self,
        shards: impl Iterator<Item = &'s Arc<Shard>>,
        send_through: impl Fn(&'s Shard) -> T,
    ) -> Health
    where
        T: Future<Output = Result<(), BoxError>> + Send,
    {
        let reports = shards.map(|shard| (shard, send_through(shard))).map(|(shard, probe)| async move {
            let measured = self.measure(shard, probe).await;
            // Read after the probe, which may have found the server unreachable.
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

    async fn measure(&self, shard: &Shard, probe: impl Future<Output = Result<(), BoxError>>) -> Measured {
        let known = self.probes.lock().entry(shard.index).or_default().clone();
        let mut last = known.lock().await;
        if let Some(last) = last.as_ref().filter(|last| last.at.elapsed() < REUSED_FOR) {
            return last.clone();
        }
        let began = Instant::now();
        // A command that hangs reaches its own timeout first, and its error says more.
        let outcome = match tokio::time::timeout(shard.command_timeout() + MARGIN, probe).await {
            Ok(Ok(())) => Ok(began.elapsed()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no message arrived within {:?}", shard.command_timeout())),
        };
        let measured = Measured { at: Instant::now(), outcome };
        last.insert(measured).clone()
    }
}

/// A new channel on `shard`, and the first value that `place` returns for it. The second value of `place` is the shard
/// of a channel.
pub(crate) async fn channel_on<P>(
    shard: &Shard,
    place: impl Fn(&ChannelName) -> (P, usize),
) -> Result<(ChannelName, P), BoxError> {
    for number in 1..=MOST_NAMES {
        let channel = ChannelName::from_pattern(PATTERN, &Alphanumeric.sample_string(&mut rand::rng(), SUFFIX))?;
        let (placed, home) = place(&channel);
        if home == shard.index {
            return Ok((channel, placed));
        }
        if number % NAMES_AT_ONCE == 0 {
            tokio::task::yield_now().await;
        }
    }
    Err("no channel for a probe was found on it".into())
}

/// Sends a message through `shard` of `layer`, one of `places`, and reads it. `key` returns the key of a channel.
pub(crate) async fn send_through(
    layer: &dyn ChannelLayer,
    places: &Places,
    shard: &Shard,
    key: impl Fn(&ChannelName) -> String,
) -> Result<(), BoxError> {
    // A send may wait for the server.
    if let Some(fault) = shard.fault() {
        return Err(shard.error(fault).into());
    }
    let (channel, key) = channel_on(shard, |channel| (key(channel), places.shard_of_channel(channel).index)).await?;
    layer.send(channel.as_str(), Message::default()).await?;
    let mut command = redis::cmd("PEXPIRE");
    // Without `LT`, which servers before 7.0 do not know.
    command.arg(key).arg(milliseconds(MESSAGE_TTL));
    places.run(channel.non_local(), &command).await.map_err(|(shard, fault)| places.error(shard, fault))?;
    // The message has arrived, so no read has to wait. `try_receive` uses none of the connections for blocking reads.
    match layer.try_receive(&[channel.as_str()]).await? {
        Some(_) => Ok(()),
        None => Err("the probe message was not found".into()),
    }
}

/// The load of the servers, as they report it.
pub(crate) async fn stats(shards: impl Iterator<Item = &Arc<Shard>>) -> Result<Vec<RedisStats>> {
    let asked = join_all(shards.map(|shard| async move {
        let info = shard.query(&redis::cmd("INFO")).await.map_err(|fault| shard.error(fault))?;
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
    fn fields_are_found_by_their_whole_name() {
        let info = "# Clients\r\nconnected_clients:3\r\nused_memory_rss:9\r\nused_memory:7\r\npubsub_channels:1\r\n\
                    maxmemory_policy:allkeys-lru\r\n";
        let stats = parse_info(2, info);
        assert_eq!((stats.shard, stats.connected_clients, stats.used_memory), (2, 3, 7));
        assert_eq!((stats.pubsub_channels, stats.total_commands_processed), (1, 0));
        assert_eq!(stats.maxmemory_policy, "allkeys-lru");
    }
}
