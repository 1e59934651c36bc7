//! `InGauge`: a part of the value of a gauge, for as long as it exists.

use crate::supervise::{metric_value, update_metric};

/// The gauge of the connections that blocking reads use.
pub(crate) const CONNECTIONS: &str = "channel_layer_blocking_connections";
/// The gauge of the most connections that they may use.
pub(crate) const POOL_SIZE: &str = "channel_layer_blocking_connections_limit";

/// A part of the value of a gauge of a shard. It is taken off on drop. Layers of one process share the gauge.
pub(crate) struct InGauge {
    name: &'static str,
    shard: usize,
    value: usize,
}

impl InGauge {
    /// Adds `value` to the gauge `name` of a shard.
    pub(crate) fn add(name: &'static str, shard: usize, value: usize) -> Self {
        update_metric(|| metrics::gauge!(name, "shard" => shard.to_string()).increment(metric_value(value)));
        Self { name, shard, value }
    }
}

impl Drop for InGauge {
    fn drop(&mut self) {
        let Self { name, shard, value } = *self;
        update_metric(|| metrics::gauge!(name, "shard" => shard.to_string()).decrement(metric_value(value)));
    }
}
