//! The gauges of a hub, which are looked up now and then: counting every message twice would cost more than it tells.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::interval;
use tokio_util::sync::CancellationToken;

use super::handle::Inner;
use super::names::Kind;

/// How often an exporter may see something new.
const EVERY: Duration = Duration::from_secs(5);

/// Sets the gauges until `stop`, and to zero then.
pub(crate) async fn keep(hub: Arc<Inner>, stop: CancellationToken) {
    let mut ticks = interval(EVERY);
    loop {
        tokio::select! {
            _ = ticks.tick() => set(&hub),
            () = stop.cancelled() => return set(&hub),
        }
    }
}

fn set(hub: &Inner) {
    let queues = hub.connections.depths();
    let set = |gauge: metrics::Gauge, value: usize| gauge.set(u32::try_from(value).unwrap_or(u32::MAX));
    let name = || hub.name.clone();
    set(metrics::gauge!("channel_layer_rooms", "hub" => name()), hub.index.len(Kind::Room));
    set(metrics::gauge!("channel_layer_users", "hub" => name()), hub.index.len(Kind::User));
    set(metrics::gauge!("channel_layer_queued_messages", "hub" => name()), queues.messages);
    set(metrics::gauge!("channel_layer_queued_bytes", "hub" => name()), queues.bytes);
    set(metrics::gauge!("channel_layer_longest_queue", "hub" => name()), queues.longest);
}
