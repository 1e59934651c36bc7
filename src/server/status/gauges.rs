//! Gauges of the queues, updated at an interval, because an update for every message would cost too much.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::interval;

use crate::server::asgi::connections::{Connections, QueueDepths};
use crate::supervise::{contain, metric_value, update_metric};

/// Interval of the updates.
pub(crate) const UPDATE_INTERVAL: Duration = Duration::from_secs(5);

/// Label of the gauges of an interface server. The label of a hub is its name.
const INTERFACE: &str = "interface";

/// Updates the gauges of an interface server until the future is dropped.
pub(crate) async fn update(connections: Arc<Connections>) {
    let mut ticks = interval(UPDATE_INTERVAL);
    loop {
        ticks.tick().await;
        contain("gauges", || set(INTERFACE, connections.depths()));
    }
}

pub(crate) fn set(hub: &str, queues: QueueDepths) {
    let hub = || hub.to_owned();
    let QueueDepths { messages, bytes, longest } = queues;
    update_metric(|| metrics::gauge!("channel_layer_queued_messages", "hub" => hub()).set(metric_value(messages)));
    update_metric(|| metrics::gauge!("channel_layer_queued_bytes", "hub" => hub()).set(metric_value(bytes)));
    update_metric(|| metrics::gauge!("channel_layer_longest_queue", "hub" => hub()).set(metric_value(longest)));
}
