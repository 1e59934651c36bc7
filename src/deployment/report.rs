//! `Report`: the options of a deployment as they were read, and the state of its servers.

use std::time::{Duration, SystemTime};

use super::Deployment;
use crate::error::Result;
use crate::health::{BlockingConnections, Health, Probe, RedisStats, SettingDifference, ShardHealth, Status};

/// Clock difference above which a report has a warning, in seconds.
const CLOCK_TOLERANCE: f64 = 1.0;

/// The options of a deployment and the state of its servers, from [`Deployment::report`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// The layer, its options without secrets, its servers, and warnings.
    pub lines: Vec<String>,
    /// The verdict: `Ok` if messages arrive, otherwise what fails.
    pub verdict: Result<String, String>,
}

impl Deployment {
    /// Connects the layer, sends a message through each server, and reports the options and the servers.
    ///
    /// # Cancel safety
    ///
    /// When dropped, all connections are closed.
    pub async fn report(self) -> Report {
        let mut lines = vec![format!("layer: {:?}", self.layer)];
        lines.extend(self.config.settings().iter().map(|setting| format!("option {setting}")));
        lines.extend(self.config.warnings().iter().map(|warning| format!("warning: {warning}")));
        let verdict = match self.add_servers(&mut lines).await {
            Ok(verdict) => verdict,
            Err(error) => Err(error.to_string()),
        };
        Report { lines, verdict }
    }

    async fn add_servers(self, lines: &mut Vec<String>) -> Result<Result<String, String>> {
        let layer = self.connect().await?;
        let health = layer.health().await;
        lines.extend(health.shards.iter().map(describe));
        lines.extend(health.shards.iter().filter_map(connections));
        let stats = layer.redis_stats().await.unwrap_or_default();
        lines.extend(stats.iter().map(|stats| {
            format!(
                "shard {}: {} clients, {} bytes of memory, {} commands so far",
                stats.shard, stats.connected_clients, stats.used_memory, stats.total_commands_processed
            )
        }));
        let clocks = health.shards.iter().filter_map(clock_warning);
        let settings = health.shards.iter().flat_map(setting_warnings);
        let warnings = clocks.chain(settings).chain(stats.iter().filter_map(memory_warning));
        lines.extend(warnings.map(|warning| format!("warning: {warning}")));
        layer.close().await?;
        Ok(verdict(&health))
    }
}

fn describe(shard: &ShardHealth) -> String {
    let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "unknown".into());
    let time = |value: Option<Duration>| value.map_or_else(|| "unknown".into(), |time| format!("{time:?}"));
    let since = SystemTime::now().duration_since(shard.since).unwrap_or_default().as_secs();
    let mut line = format!(
        "shard {}: {} {:?} for {since} s, server {}, version {}, role {}, latency {}",
        shard.shard,
        shard.host,
        shard.state,
        text(&shard.server),
        text(&shard.version),
        text(&shard.role),
        time(shard.latency),
    );
    if let Some(reason) = &shard.reason {
        line = format!("{line}, because {reason}");
    }
    match &shard.probe {
        Some(Probe { error: Some(error), .. }) => format!("{line}, probe failed: {error}"),
        Some(probe) => format!("{line}, probe arrived in {}", time(probe.round_trip)),
        None => line,
    }
}

/// The connections for reads that each process can have to the server.
fn connections(shard: &ShardHealth) -> Option<String> {
    let BlockingConnections { used, limit, .. } = shard.blocking_connections?;
    Some(format!(
        "shard {}: {used} connections for blocking reads in this process, at most {limit} (pool_size)",
        shard.shard
    ))
}

fn clock_warning(shard: &ShardHealth) -> Option<String> {
    let offset = shard.clock_offset_seconds.filter(|offset| offset.abs() > CLOCK_TOLERANCE)?;
    let (off, side) = (offset.abs(), if offset > 0.0 { "ahead of" } else { "behind" });
    Some(format!(
        "the clock of shard {} is {off:.1} s {side} the clock of this machine; messages expire at the right time \
         nevertheless, but Django sites use the clocks of their own machines",
        shard.shard
    ))
}

fn setting_warnings(shard: &ShardHealth) -> impl Iterator<Item = String> {
    let warning = |SettingDifference { option, ours, theirs, .. }: &SettingDifference| {
        let shard = shard.shard;
        format!(
            "shard {shard}: {option} is {ours} here and {theirs} in another process of this deployment; messages between them \
             may be lost or stay unread: set the same value in all processes (a process that has ended is still compared \
             for a minute)"
        )
    };
    shard.setting_differences.iter().map(warning)
}

fn memory_warning(stats: &RedisStats) -> Option<String> {
    let RedisStats { shard, maxmemory_policy: policy, .. } = stats;
    (policy != "noeviction").then(|| {
        format!(
            "shard {shard} has the maxmemory-policy {policy}: when its memory is full it deletes channels and groups \
             without an error; set noeviction"
        )
    })
}

fn verdict(health: &Health) -> Result<String, String> {
    match health.status {
        Status::Disabled => Ok("the layer works inside this process".into()),
        Status::Healthy => Ok("messages arrive through every server".into()),
        Status::Unhealthy => Err("messages do not arrive through every server".into()),
    }
}
