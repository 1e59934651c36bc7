//! Figures of the channels, and flushing: what has to look at many keys.

use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use redis::{FromRedisValue, Value};

use super::fault::Fault;
use super::frame;
use super::keys::glob_escaped;
use super::script;
use super::shard::Shard;
use super::topology::Topology;
use crate::error::Result;
use crate::layer::{Parts, Statistics};
use crate::name::ChannelName;

/// Keys that one step of a scan looks at.
const SCAN_STEP: usize = 1000;
/// Channels that one script looks at. It reads two messages of each, and everybody else waits meanwhile.
pub(crate) const CHANNELS_AT_ONCE: usize = 16;

/// The figures of `channel` on all shards where its messages can lie.
pub(super) async fn of_channel(topology: &Topology, channel: &ChannelName) -> Result<Statistics> {
    let name = channel.non_local();
    let shards = topology.shards_of_channel(channel);
    let parts = try_join_all(shards.iter().map(|shard| async move {
        let counters = counters(shard, &topology.keys.channel_stats(name)).await?;
        let lists = [topology.keys.channel(name)];
        Ok::<_, crate::Error>(counters.merge(pending(shard, &lists).await?))
    }));
    parts.await.map(sum)
}

/// The figures of all channels on all shards.
pub(super) async fn global(topology: &Topology) -> Result<Statistics> {
    let parts = try_join_all(topology.shards.iter().map(|shard| async move {
        let mut total = counters(shard, &topology.keys.global_stats()).await?;
        let mut scan = Scan::new(shard, topology.keys.scan_channels());
        while let Some(keys) = scan.next().await? {
            let lists: Vec<_> = keys.into_iter().filter(|key| topology.keys.parse_channel(key).is_some()).collect();
            if !lists.is_empty() {
                total = total.merge(pending(shard, &lists).await?);
            }
        }
        Ok::<_, crate::Error>(total)
    }));
    parts.await.map(sum)
}

/// Deletes every key of this deployment but the epochs.
pub(super) async fn flush(topology: &Topology) -> Result<()> {
    let patterns = topology.keys.scan_patterns();
    let scans = topology.shards.iter().flat_map(|shard| patterns.iter().map(|all| Scan::new(shard, all.clone())));
    delete(scans.collect(), &|key, _| topology.keys.is_flushed(key)).await
}

/// Deletes the keys that the scans find, if `is_ours` says so of the key and the type of keys that was looked for.
pub(crate) async fn delete(scans: Vec<Scan<'_>>, is_ours: &(dyn Fn(&str, Option<&str>) -> bool + Sync)) -> Result<()> {
    let deleted = join_all(scans.into_iter().map(|mut scan| async move {
        let mut deleted = Parts::default();
        while let Some(step) = scan.delete_next(is_ours).await.transpose() {
            let failed = step.is_err();
            deleted.add(step);
            if failed {
                break;
            }
        }
        deleted.result()
    }));
    deleted.await.into_iter().collect::<Parts>().result()
}

/// A walk over the keys of a shard that match a pattern.
pub(crate) struct Scan<'s> {
    shard: &'s Shard,
    pattern: String,
    /// The type of the keys, if only one is wanted.
    kind: Option<&'static str>,
    /// Where the next step begins; nothing when the walk is over.
    cursor: Option<u64>,
}

impl<'s> Scan<'s> {
    fn new(shard: &'s Shard, pattern: String) -> Self {
        Self { shard, pattern, kind: None, cursor: Some(0) }
    }

    /// A walk over the keys of one type that begin with `prefix`.
    pub(crate) fn of_kind(shard: &'s Shard, prefix: &str, kind: &'static str) -> Self {
        Self { shard, pattern: format!("{}*", glob_escaped(prefix)), kind: Some(kind), cursor: Some(0) }
    }

    pub(crate) async fn next(&mut self) -> Result<Option<Vec<String>>> {
        self.next_step().await.map_err(|fault| self.shard.error(fault))
    }

    /// Deletes the keys of the next step that are ours; returns `None` behind the last step.
    async fn delete_next(&mut self, is_ours: &(dyn Fn(&str, Option<&str>) -> bool + Sync)) -> Result<Option<()>> {
        let Some(mut keys) = self.next().await? else { return Ok(None) };
        keys.retain(|key| is_ours(key, self.kind));
        if !keys.is_empty() {
            let mut command = redis::cmd("UNLINK");
            command.arg(keys);
            self.shard.run(&command).await.map_err(|fault| self.shard.error(fault))?;
        }
        Ok(Some(()))
    }

    /// As [`next`](Self::next), for those who say themselves which shard failed.
    pub(crate) async fn next_step(&mut self) -> Result<Option<Vec<String>>, Fault> {
        let Some(cursor) = self.cursor else { return Ok(None) };
        let mut command = redis::cmd("SCAN");
        command.arg(cursor).arg("MATCH").arg(&self.pattern).arg("COUNT").arg(SCAN_STEP);
        if let Some(kind) = self.kind {
            command.arg("TYPE").arg(kind);
        }
        let step = self.shard.run(&command).await.and_then(|answer| {
            // Keys that are no text are not ours.
            let (next, keys): (u64, Vec<Vec<u8>>) = parse(answer)?;
            Ok((next, keys.into_iter().filter_map(|key| String::from_utf8(key).ok()).collect()))
        });
        let (next, keys) = step?;
        self.cursor = (next != 0).then_some(next);
        Ok(Some(keys))
    }
}

/// The counters in one hash.
async fn counters(shard: &Shard, key: &str) -> Result<Statistics> {
    let mut command = redis::cmd("HMGET");
    command.arg(key).arg("messages_count").arg("channel_full_count");
    let (messages, full): (Option<u64>, Option<u64>) = answer(shard, &command).await?;
    Ok(Statistics {
        messages_count: messages.unwrap_or(0),
        channel_full_count: full.unwrap_or(0),
        ..Statistics::default()
    })
}

/// How many entries wait in `lists`, and since when.
async fn pending(shard: &Shard, lists: &[String]) -> Result<Statistics> {
    let mut total = Statistics::default();
    for lists in lists.chunks(CHANNELS_AT_ONCE) {
        let pending: Vec<Value> = answer(shard, &script::PENDING.call(lists)).await?;
        let now = shard.clock.now_ms().unwrap_or(0);
        total = pending.chunks(3).map(|told| pending_in(told, now)).fold(total, Statistics::merge);
    }
    Ok(total)
}

/// What `pending.lua` told of one list.
fn pending_in(told: &[Value], now: u64) -> Statistics {
    match told {
        // A list may outlive its last message.
        [_, _, Value::BulkString(last)] if frame::expires(last).is_some_and(|expires| expires <= now) => {
            Statistics::default()
        }
        [Value::Int(length @ 1..), Value::BulkString(first), _] => {
            let sent = frame::sent(first).unwrap_or(now);
            Statistics {
                messages_pending: u64::try_from(*length).unwrap_or(0),
                messages_max_age: Duration::from_millis(now.saturating_sub(sent)),
                ..Statistics::default()
            }
        }
        _ => Statistics::default(),
    }
}

async fn answer<T: FromRedisValue>(shard: &Shard, command: &redis::Cmd) -> Result<T> {
    shard.run(command).await.and_then(parse).map_err(|fault| shard.error(fault))
}

fn parse<T: FromRedisValue>(answer: Value) -> Result<T, Fault> {
    redis::from_redis_value(answer).map_err(|error| Fault::unexpected(&error.to_string()))
}

fn sum(parts: impl IntoIterator<Item = Statistics>) -> Statistics {
    parts.into_iter().fold(Statistics::default(), Statistics::merge)
}
