//! The gauges of a hub.

use std::sync::Arc;

use tokio::time::interval;
use tokio_util::sync::CancellationToken;

use crate::server::hub::inner::Inner;
use crate::server::hub::names::Kind;
use crate::server::status::gauges;
use crate::server::status::gauges::EVERY;
use crate::supervise::contain;

/// Sets the gauges until `stop`, and then to zero.
pub(crate) async fn keep(hub: Arc<Inner>, stop: CancellationToken) {
    let mut ticks = interval(EVERY);
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
    gauges::set_one(metrics::gauge!("channel_layer_rooms", "hub" => name()), hub.rooms.index.len(Kind::Room));
    gauges::set_one(metrics::gauge!("channel_layer_users", "hub" => name()), hub.rooms.index.len(Kind::User));
}
