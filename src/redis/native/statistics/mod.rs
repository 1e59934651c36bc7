//! Statistics of channels in the native format.
//!
//! The [`counters`] of a process are written to the server at most once a second. A query reads the sums of all
//! processes.

pub(crate) mod counters;

use std::time::Duration;

use futures_util::future::join_all;
use redis::Value;

use crate::layer::Statistics;
use crate::name::ChannelName;
use crate::redis::entry as frame;
use crate::redis::native::format::Native;
use crate::redis::native::scripts;
use crate::redis::native::statistics::counters::Counters;
use crate::redis::node::fault::Fault;
use crate::redis::node::shard::Shard;
use crate::redis::stored::format::StoredStatistics;
use crate::redis::stored::scan::{CHANNELS_PER_CALL, Scan, parse};
use crate::redis::topology::lists::ListName;
use crate::redis::topology::places::Failure;

impl StoredStatistics for Native {
    async fn write_statistics(&self) {
        join_all(self.counters.iter().map(Counters::write)).await;
    }

    async fn channel_statistics(
        &self,
        shard: &Shard,
        channel: &ChannelName,
        list: &ListName,
    ) -> Result<Statistics, Fault> {
        let keys = &self.topology.keys;
        let pending = self.pending(shard, &[keys.channel(list.text(channel))]).await?;
        if !list.is_first() {
            return Ok(pending);
        }
        let counters = self.counters(shard, &keys.channel_stats(channel.non_local())).await;
        Ok(pending.merge(counters.map_err(|(_, fault)| fault)?))
    }

    async fn global_statistics(&self, shard: &Shard) -> Result<Statistics, Fault> {
        let keys = &self.topology.keys;
        let mut total = Statistics::default();
        if !self.topology.is_cluster() {
            total = self.counters(shard, &keys.global_stats()).await.map_err(|(_, fault)| fault)?;
        }
        let mut scan = Scan::new(shard, keys.scan_channels(), |key| keys.parse_channel(key).is_some());
        while let Some(lists) = scan.next().await? {
            total = total.merge(self.pending(shard, &lists).await?);
        }
        Ok(total)
    }

    /// The total counters, which are in one slot. It may move while the shards are scanned.
    async fn cluster_statistics(&self) -> Result<Statistics, Failure> {
        if !self.topology.is_cluster() {
            return Ok(Statistics::default());
        }
        let key = self.topology.keys.global_stats();
        self.counters(self.topology.home(&key), &key).await
    }
}

impl Native {
    /// The counters in one hash.
    async fn counters(&self, shard: &Shard, key: &str) -> Result<Statistics, Failure> {
        let mut command = redis::cmd("HMGET");
        command.arg(key).arg("messages_count").arg("channel_full_count");
        let answer = self.topology.query_on(shard, key, &command).await?;
        let (messages, full): (Option<u64>, Option<u64>) = parse(answer).map_err(|fault| (shard.index, fault))?;
        Ok(Statistics {
            messages_count: messages.unwrap_or(0),
            channel_full_count: full.unwrap_or(0),
            ..Statistics::default()
        })
    }

    /// How many entries wait in `lists`, and the age of the oldest.
    async fn pending(&self, shard: &Shard, lists: &[String]) -> Result<Statistics, Fault> {
        let mut total = Statistics::default();
        // A call in a cluster has the keys of one slot.
        let per_call = if self.topology.is_cluster() { 1 } else { CHANNELS_PER_CALL };
        for lists in lists.chunks(per_call) {
            let answer = self.topology.query_on(shard, &lists[0], &scripts::PENDING.call(lists)).await;
            let pending: Vec<Value> = parse(answer.map_err(|(_, fault)| fault)?)?;
            let now = shard.clock.now_ms().unwrap_or(0);
            total = pending.chunks(3).map(|figures| pending_in(figures, now)).fold(total, Statistics::merge);
        }
        Ok(total)
    }
}

/// The figures that `pending.lua` returned for one list.
pub(crate) fn pending_in(figures: &[Value], now: u64) -> Statistics {
    match figures {
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
