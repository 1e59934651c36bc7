//! Gauges of the queues, updated at an interval, because an update for every message would cost too much.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::interval;

use crate::server::asgi::connections::{Connections, QueueDepths};
use crate::supervise::contain;

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
    set_one(metrics::gauge!("channel_layer_queued_messages", "hub" => hub.to_owned()), queues.messages);
    set_one(metrics::gauge!("channel_layer_queued_bytes", "hub" => hub.to_owned()), queues.bytes);
    set_one(metrics::gauge!("channel_layer_longest_queue", "hub" => hub.to_owned()), queues.longest);
}

pub(crate) fn set_one(gauge: metrics::Gauge, value: usize) {
    gauge.set(u32::try_from(value).unwrap_or(u32::MAX));
}
