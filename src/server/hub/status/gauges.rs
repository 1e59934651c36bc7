//! The gauges of a hub.

use std::sync::Arc;

use tokio::time::interval;
use tokio_util::sync::CancellationToken;

use crate::server::hub::inner::Inner;
use crate::server::hub::names::Kind;
use crate::server::status::gauges;
use crate::server::status::gauges::UPDATE_INTERVAL;
use crate::supervise::{contain, metric_value, update_metric};

/// Updates the gauges at an interval until `stop` is cancelled, and once more then.
pub(crate) async fn update(hub: Arc<Inner>, stop: CancellationToken) {
    let mut ticks = interval(UPDATE_INTERVAL);
    loop {
        tokio::select! {
            _ = ticks.tick() => drop(contain("gauges of the hub", || set(&hub))),
            () = stop.cancelled() => return set(&hub),
        }
    }
}

fn set(hub: &Inner) {
    gauges::set(&hub.settings.name, hub.connections.depths());
    let name = || hub.settings.name.clone();
    let (rooms, users) = (hub.rooms.index.len(Kind::Room), hub.rooms.index.len(Kind::User));
    update_metric(|| metrics::gauge!("channel_layer_rooms", "hub" => name()).set(metric_value(rooms)));
    update_metric(|| metrics::gauge!("channel_layer_users", "hub" => name()).set(metric_value(users)));
}
