//! `InGauge`: a part of the value of a gauge, for as long as it exists.

use metrics::{Gauge, gauge};

use crate::supervise::{metric_value, update_metric};

/// A gauge of the connections of blocking reads.
#[derive(Clone, Copy)]
pub(crate) enum Connections {
    InUse,
    /// The most that may be in use.
    Limit,
}

impl Connections {
    fn gauge(self, shard: usize) -> Gauge {
        let shard = shard.to_string();
        match self {
            Self::InUse => gauge!("channel_layer_blocking_connections", "shard" => shard),
            Self::Limit => gauge!("channel_layer_blocking_connections_limit", "shard" => shard),
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
        update_metric(|| connections.gauge(shard).increment(metric_value(value)));
        Self { connections, shard, value }
    }
}

impl Drop for InGauge {
    fn drop(&mut self) {
        let Self { connections, shard, value } = *self;
        update_metric(|| connections.gauge(shard).decrement(metric_value(value)));
    }
}
