//! Statistics of the format of `asgi_redis`.

use std::time::Duration;

use redis::Value;

use super::{AsgiRedis, GLOBAL, MESSAGES, REFUSALS};
use crate::layer::Statistics;
use crate::name::ChannelName;
use crate::redis::node::fault::Fault;
use crate::redis::node::shard::Shard;
use crate::redis::stored::format::StoredStatistics;
use crate::redis::stored::scan::parse;
use crate::redis::topology::lists::ListName;

impl StoredStatistics for AsgiRedis {
    async fn channel_statistics(
        &self,
        shard: &Shard,
        channel: &ChannelName,
        _: &ListName,
    ) -> Result<Statistics, Fault> {
        let non_local = channel.non_local();
        let counters = self.counters(shard, non_local).await?;
        Ok(counters.merge(self.pending(shard, &[self.base.keys.channel(non_local)]).await?))
    }

    async fn global_statistics(&self, shard: &Shard) -> Result<Statistics, Fault> {
        let mut total = self.counters(shard, GLOBAL).await?;
        let mut channels = self.channels(shard);
        while let Some(lists) = channels.next().await? {
            total = total.merge(self.pending(shard, &lists).await?);
        }
        Ok(total)
    }
}

impl AsgiRedis {
    async fn counters(&self, shard: &Shard, name: &str) -> Result<Statistics, Fault> {
        let mut command = redis::cmd("MGET");
        command.arg(self.counter(name, MESSAGES)).arg(self.counter(name, REFUSALS));
        let (sent, refused): (Option<u64>, Option<u64>) = parse(shard.query(&command).await?)?;
        Ok(Statistics {
            messages_count: sent.unwrap_or(0),
            channel_full_count: refused.unwrap_or(0),
            ..Statistics::default()
        })
    }

    /// How many messages wait in `lists`, and since when.
    async fn pending(&self, shard: &Shard, lists: &[String]) -> Result<Statistics, Fault> {
        let mut commands = redis::pipe();
        for list in lists {
            commands.cmd("LLEN").arg(list);
            commands.cmd("LINDEX").arg(list).arg(0);
        }
        let mut total = Statistics::default();
        let mut ages = redis::pipe();
        for pair in shard.query(&commands).await?.chunks(2) {
            let [Value::Int(length), head] = pair else { continue };
            total.messages_pending += u64::try_from(*length).unwrap_or(0);
            if let Value::BulkString(message) = head {
                ages.cmd("PTTL").arg(message);
            }
        }
        if ages.is_empty() {
            return Ok(total);
        }
        for answer in shard.query(&ages).await? {
            if let Value::Int(remaining) = answer
                && let Ok(remaining) = u64::try_from(remaining)
            {
                let age = self.base.payload.expiry.saturating_sub(Duration::from_millis(remaining));
                total.messages_max_age = total.messages_max_age.max(age);
            }
        }
        Ok(total)
    }
}
