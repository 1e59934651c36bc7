//! Routes for probes and monitoring: health, the state of Redis, and metrics for Prometheus.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

use crate::error::BoxError;
use crate::health::Health;
use crate::layer::{ChannelLayer, Mode};
use crate::supervise::contain;

/// Interval at which histograms are aggregated, even if nobody scrapes `/metrics`.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);
/// Histogram buckets of durations in seconds, and of sizes.
const SECONDS: [f64; 14] =
    [0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 10.0, 60.0];
const COUNTS: [f64; 9] = [1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 1000.0];

/// Returns the health routes of this process and of `layer`. Mount them with
/// [`InterfaceServer::routes`](crate::server::InterfaceServer::routes) or in any axum program.
///
/// | path | answer |
/// |---|---|
/// | `/live` | 200 while the process runs |
/// | `/ready` | 200 if probe messages arrive through every server or the layer has fallen back as configured, otherwise 503; a line for each server with a fault |
/// | `/health/redis` | [`Health`] as JSON, with the same status as `/ready` |
///
/// `/ready` and `/health/redis` call [`ChannelLayer::health`], which sends a message through every server.
pub fn health_routes(layer: Arc<dyn ChannelLayer>) -> Router {
    Router::new()
        .route("/live", get(async || "live\n"))
        .route("/ready", get(ready))
        .route("/health/redis", get(redis))
        .with_state(layer)
}

/// Returns a route `/mode` that reports how `layer` carries messages: `remote`, `local_only` or `down`, as [`Mode`]. It
/// queries no server and reveals nothing else, so pages of clients may request it.
pub fn mode_route(layer: Arc<dyn ChannelLayer>) -> Router {
    Router::new().route("/mode", get(mode)).with_state(layer)
}

async fn mode(State(layer): State<Arc<dyn ChannelLayer>>) -> &'static str {
    match *layer.mode().borrow() {
        Mode::Remote => "remote",
        Mode::LocalOnly => "local_only",
        Mode::Down => "down",
    }
}

async fn ready(State(layer): State<Arc<dyn ChannelLayer>>) -> Response {
    let health = layer.health().await;
    let summary = if health.is_ready() { "ready\n" } else { "not ready\n" };
    (status_of(&health), format!("{summary}{}", health.reasons())).into_response()
}

async fn redis(State(layer): State<Arc<dyn ChannelLayer>>) -> Response {
    let health = layer.health().await;
    match serde_json::to_string(&health) {
        Ok(json) => (status_of(&health), [(header::CONTENT_TYPE, "application/json")], json).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

fn status_of(health: &Health) -> StatusCode {
    if health.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

/// Returns a route `/metrics` with the metrics of this process for Prometheus. It installs the recorder of the process,
/// so it can be called once, on a runtime.
///
/// # Errors
///
/// If the process has a recorder already.
pub fn metrics_route() -> Result<Router, BoxError> {
    let builder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)?
        .set_buckets_for_metric(Matcher::Suffix("_size".into()), &COUNTS)?;
    let handle = builder.install_recorder()?;
    let upkeep = tokio::spawn(keep_up(handle.clone()));
    let exporter = Arc::new(Exporter { handle, _upkeep: AbortOnDropHandle::new(upkeep) });
    Ok(Router::new().route("/metrics", get(render)).with_state(exporter))
}

async fn keep_up(handle: PrometheusHandle) {
    loop {
        sleep(UPKEEP_EVERY).await;
        contain("upkeep of metrics", || handle.run_upkeep());
    }
}

struct Exporter {
    handle: PrometheusHandle,
    /// Aborted when the last router is dropped.
    _upkeep: AbortOnDropHandle<()>,
}

async fn render(State(exporter): State<Arc<Exporter>>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], exporter.handle.render()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervise::trap::{arm, is_armed};

    #[tokio::test(start_paused = true)]
    async fn the_upkeep_of_metrics_survives_a_panic() {
        let upkeep = tokio::spawn(keep_up(PrometheusBuilder::new().build_recorder().handle()));
        for _ in 0..2 {
            arm("upkeep of metrics");
            sleep(UPKEEP_EVERY * 2).await;
            assert!(!is_armed() && !upkeep.is_finished());
        }
    }
}
