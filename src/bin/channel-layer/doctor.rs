//! `channel-layer doctor`: shows the options that the program has read, and the state of the servers.

use std::time::{Duration, SystemTime};

use channel_layer::health::{Probe, RedisStats, SettingDifference, ShardHealth, Status};
use channel_layer::{BoxError, Health};
use clap::Args;

use crate::layer::LayerOptions;
use crate::print_line;

/// Clock difference above which the command prints a warning, in seconds.
const CLOCK_TOLERANCE: f64 = 1.0;

#[derive(Args)]
pub(crate) struct Doctor {
    #[command(flatten)]
    layer: LayerOptions,
}

impl Doctor {
    pub(crate) async fn run(self) -> Result<(), BoxError> {
        let deployment = self.layer.deployment()?;
        print_line(&format!("layer: {:?}", deployment.layer))?;
        for setting in deployment.config.settings() {
            print_line(&format!("option {setting}"))?;
        }
        for warning in deployment.config.warnings() {
            print_line(&format!("warning: {warning}"))?;
        }
        let layer = deployment.connect().await?;
        let health = layer.health().await;
        for shard in &health.shards {
            print_line(&describe(shard))?;
        }
        let stats = layer.redis_stats().await.unwrap_or_default();
        for stats in &stats {
            print_line(&format!(
                "shard {}: {} clients, {} bytes of memory, {} commands so far",
                stats.shard, stats.connected_clients, stats.used_memory, stats.total_commands_processed
            ))?;
        }
        let clocks = health.shards.iter().filter_map(clock_warning);
        let settings = health.shards.iter().flat_map(setting_warnings);
        for warning in clocks.chain(settings).chain(stats.iter().filter_map(memory_warning)) {
            print_line(&format!("warning: {warning}"))?;
        }
        layer.close().await?;
        verdict(&health)
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

fn verdict(health: &Health) -> Result<(), BoxError> {
    match health.status {
        Status::Disabled => print_line("the layer works inside this process; set --redis to use a server")?,
        Status::Healthy => print_line("messages arrive through every server")?,
        _ => return Err("messages do not arrive through every server".into()),
    }
    Ok(())
}
