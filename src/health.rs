//! How a layer and the servers behind it are, for people and for machines.

use std::time::{Duration, SystemTime};

use serde::{Serialize, Serializer};

/// How a layer is, from [`ChannelLayer::health`](crate::ChannelLayer::health).
///
/// Serialized it is an object with the names of the fields; times are in seconds, and points in time in seconds since
/// 1970.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Health {
    /// Whether messages arrive.
    pub status: Status,
    /// Whether the layer goes on without Redis, between the members of this process.
    pub fallback_mode: bool,
    /// The servers behind the layer, in the order of the configuration.
    pub shards: Vec<ShardHealth>,
}

/// Whether messages arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Status {
    /// The layer has no servers: it lives inside this process.
    Disabled,
    /// A message has just travelled through every server.
    Healthy,
    /// A server is away, or a message did not arrive.
    Unhealthy,
}

/// How one server is.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ShardHealth {
    /// Position of the server in the configured hosts.
    pub shard: usize,
    /// The name of the host, else its address, without credentials.
    pub host: String,
    /// Whether it can be reached.
    pub state: ShardState,
    /// Since when it is in this state.
    #[serde(serialize_with = "unix_seconds")]
    pub since: SystemTime,
    /// Why it cannot be reached, or why messages do not arrive through it.
    pub reason: Option<String>,
    /// The address at which it was reached last; with sentinels that of the master.
    pub server: Option<String>,
    /// What the last round trip took.
    #[serde(rename = "latency_seconds", serialize_with = "maybe_seconds")]
    pub latency: Option<Duration>,
    /// Its version, when it was reached last.
    pub version: Option<String>,
    /// Its role, when it was reached last: `master` or `slave`.
    pub role: Option<String>,
    /// By how many seconds its clock is ahead of that of this machine.
    pub clock_offset_seconds: Option<f64>,
    /// A random text that changes when its data is lost. None where the format of the layer keeps none.
    pub epoch: Option<String>,
    /// Whether the layer goes on without it: what would go through it stays in this process.
    pub fallback_mode: bool,
    /// The last message that was sent through it to find out whether messages arrive.
    pub probe: Option<Probe>,
    /// Settings of other processes of the deployment that should agree with those of this one and do not. They are compared
    /// when the server is reached and every 20 s; a layer that only publishes does not compare.
    pub setting_differences: Vec<SettingDifference>,
}

/// A setting that two processes of a deployment do not have alike, so that messages between them are lost, hidden or live
/// for another time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[non_exhaustive]
pub struct SettingDifference {
    /// The name of the option.
    pub option: String,
    /// Its value in this process. Of keys it has their ids, and of these the first is that of the key that seals.
    pub ours: String,
    /// Its value in another process.
    pub theirs: String,
}

/// Whether a server can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ShardState {
    /// It can.
    Up,
    /// It cannot.
    Down,
}

/// A message that was sent through a server and read again, as any other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Probe {
    /// How long ago it came to its end.
    #[serde(rename = "age_seconds", serialize_with = "seconds")]
    pub age: Duration,
    /// How long it took to arrive; nothing if it did not.
    #[serde(rename = "round_trip_seconds", serialize_with = "maybe_seconds")]
    pub round_trip: Option<Duration>,
    /// Why it did not arrive.
    pub error: Option<String>,
}

/// What a server says of its load, from [`ChannelLayer::redis_stats`](crate::ChannelLayer::redis_stats). The names are
/// those of `INFO`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RedisStats {
    /// Position of the server in the configured hosts.
    pub shard: usize,
    /// Connections of clients.
    pub connected_clients: u64,
    /// Bytes that its data takes.
    pub used_memory: u64,
    /// What it does when its memory is full. With anything but `noeviction` it deletes channels and groups then, and tells
    /// nobody.
    pub maxmemory_policy: String,
    /// Channels of pub/sub with subscribers.
    pub pubsub_channels: u64,
    /// Patterns of pub/sub with subscribers.
    pub pubsub_patterns: u64,
    /// Commands since it started.
    pub total_commands_processed: u64,
}

impl Health {
    /// That of a layer without servers.
    pub fn disabled() -> Self {
        Self { status: Status::Disabled, fallback_mode: false, shards: Vec::new() }
    }

    /// That of a layer which needs all of `shards`.
    pub fn of_shards(shards: Vec<ShardHealth>) -> Self {
        let healthy = shards.iter().all(ShardHealth::is_healthy);
        let status = if healthy { Status::Healthy } else { Status::Unhealthy };
        Self { status, fallback_mode: false, shards }
    }

    /// Whether this process should get work: through each server messages arrive, or it goes on without it as configured.
    pub fn is_ready(&self) -> bool {
        let goes_on = |shard: &ShardHealth| (shard.is_healthy() && shard.reason.is_none()) || shard.fallback_mode;
        self.status != Status::Unhealthy || (self.fallback_mode && self.shards.iter().all(goes_on))
    }

    /// A line for each server of which it is known why it cannot be reached, or why messages do not arrive through it.
    #[cfg(feature = "server")]
    pub(crate) fn reasons(&self) -> String {
        let reason = |shard: &ShardHealth| Some(format!("{}: {}\n", shard.host, shard.reason.as_ref()?));
        self.shards.iter().filter_map(reason).collect()
    }

    /// Notes that what would go through the server at this position stays in this process, and why.
    pub(crate) fn falls_back(&mut self, shard: usize, reason: Option<String>) {
        self.fails(shard, reason);
        self.fallback_mode = true;
        if let Some(shard) = self.shards.get_mut(shard) {
            shard.fallback_mode = true;
        }
    }

    /// Notes that messages do not arrive through the server at this position, and why.
    pub(crate) fn fails(&mut self, shard: usize, reason: Option<String>) {
        self.status = Status::Unhealthy;
        if let Some(shard) = self.shards.get_mut(shard) {
            shard.reason = shard.reason.take().or(reason);
        }
    }

    /// Of two layers that are needed both.
    pub(crate) fn merge(self, mut other: Self) -> Self {
        let status = match (self.status, other.status) {
            (Status::Unhealthy, _) | (_, Status::Unhealthy) => Status::Unhealthy,
            (Status::Healthy, _) | (_, Status::Healthy) => Status::Healthy,
            (Status::Disabled, Status::Disabled) => Status::Disabled,
        };
        let mut shards = self.shards;
        shards.append(&mut other.shards);
        Self { status, fallback_mode: self.fallback_mode || other.fallback_mode, shards }
    }
}

impl SettingDifference {
    pub(crate) fn new(option: impl Into<String>, ours: impl Into<String>, theirs: impl Into<String>) -> Self {
        Self { option: option.into(), ours: ours.into(), theirs: theirs.into() }
    }
}

impl ShardHealth {
    /// Whether it is there and the last probe arrived.
    pub fn is_healthy(&self) -> bool {
        self.state == ShardState::Up && self.probe.as_ref().is_none_or(|probe| probe.error.is_none())
    }
}

fn seconds<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}

#[allow(clippy::ref_option, reason = "serde calls it with a reference to the field")]
fn maybe_seconds<S: Serializer>(time: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    time.map(|time| time.as_secs_f64()).serialize(serializer)
}

fn unix_seconds<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    serializer.serialize_f64(since.as_secs_f64())
}
