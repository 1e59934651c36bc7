//! `InGauge`: a part of the value of a gauge, for as long as it exists.

use crate::supervise::{metric_value, update_metric};

/// A gauge of the connections of blocking reads.
#[derive(Clone, Copy)]
pub(crate) enum Connections {
    InUse,
    /// The most that may be in use.
    Limit,
}

impl Connections {
    /// Adds `change` to the gauge of a shard.
    fn add(self, shard: usize, change: f64) {
        let shard = shard.to_string();
        match self {
            Self::InUse => update_metric(|| {
                metrics::gauge!("channel_layer_blocking_connections", "shard" => shard).increment(change);
            }),
            Self::Limit => update_metric(|| {
                metrics::gauge!("channel_layer_blocking_connections_limit", "shard" => shard).increment(change);
            }),
        }
    }
}

/// A part of the value of a gauge of a shard. It is taken off on drop. Layers of one process share the gauge.
pub(crate) struct InGauge {
    connections: Connections,
    shard: usize,
    value: usize,
}

impl InGauge {
    /// Adds `value` to a gauge of a shard.
    pub(crate) fn add(connections: Connections, shard: usize, value: usize) -> Self {
        connections.add(shard, metric_value(value));
        Self { connections, shard, value }
    }
}

impl Drop for InGauge {
    fn drop(&mut self) {
        self.connections.add(self.shard, -metric_value(self.value));
    }
}
