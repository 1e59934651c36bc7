//! Statistics of the format of `channels_redis`: the messages that wait. The format has no counters.

use std::time::Duration;

use redis::Value;

use super::ChannelsRedis;
use super::read::score;
use crate::django::format::now_of;
use crate::django::script;
use crate::layer::Statistics;
use crate::name::ChannelName;
use crate::redis::node::fault::Fault;
use crate::redis::node::shard::Shard;
use crate::redis::stored::format::StoredStatistics;
use crate::redis::stored::scan::{CHANNELS_PER_CALL, Scan};
use crate::redis::topology::lists::ListName;

impl StoredStatistics for ChannelsRedis {
    async fn channel_statistics(
        &self,
        shard: &Shard,
        channel: &ChannelName,
        _: &ListName,
    ) -> Result<Statistics, Fault> {
        let non_local = channel.non_local();
        self.pending(shard, &[self.base.keys.channel(non_local)]).await
    }

    async fn global_statistics(&self, shard: &Shard) -> Result<Statistics, Fault> {
        let keys = &self.base.keys;
        let mut total = Statistics::default();
        let mut channels = Scan::of_kind(shard, "zset", &keys.prefix, |key| keys.parse_channel(key).is_some());
        while let Some(channels) = channels.next().await? {
            total = total.merge(self.pending(shard, &channels).await?);
        }
        Ok(total)
    }
}

impl ChannelsRedis {
    /// How many messages wait under `keys`, and since when.
    async fn pending(&self, shard: &Shard, keys: &[String]) -> Result<Statistics, Fault> {
        let now = now_of(shard);
        let oldest = now.saturating_sub(self.base.payload.expiry).as_secs_f64();
        let mut total = Statistics::default();
        for keys in keys.chunks(CHANNELS_PER_CALL) {
            let mut command = script::ZSET_PENDING.call(keys);
            command.arg(oldest);
            let Value::Array(answer) = shard.query(&command).await? else {
                return Err(Fault::unexpected("zset_pending.lua returned something else than a list"));
            };
            for pair in answer.chunks(2) {
                let [Value::Int(count), oldest] = pair else { continue };
                total = total.merge(Statistics {
                    messages_pending: u64::try_from(*count).unwrap_or(0),
                    messages_max_age: score(oldest).map_or(Duration::ZERO, |sent| now.saturating_sub(sent)),
                    ..Statistics::default()
                });
            }
        }
        Ok(total)
    }
}
