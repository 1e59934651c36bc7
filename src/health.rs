//! `Health`: the state of a layer and of its servers, for people and for machines.

use std::time::{Duration, SystemTime};

use serde::{Serialize, Serializer};

/// The state of a layer, from [`ChannelLayer::health`](crate::ChannelLayer::health).
///
/// It serializes to an object with the names of the fields. Durations are in seconds, and their names end in
/// `_seconds`. Times are in seconds since 1970.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Health {
    /// Whether messages arrive.
    pub status: Status,
    /// Whether the layer carries messages without Redis, between the members of this process.
    pub fallback_mode: bool,
    /// The servers behind the layer, in the order of the configuration.
    pub shards: Vec<ShardHealth>,
}

/// Whether messages arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Status {
    /// The layer has no servers: it works inside this process.
    Disabled,
    /// A probe message has recently passed through every server.
    Healthy,
    /// A server is unreachable, or a probe message did not arrive.
    Unhealthy,
}

/// The state of one server.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ShardHealth {
    /// Position of the server in the configured hosts, or its number in a cluster.
    pub shard: usize,
    /// The name of the host, or its address if it has none, without credentials.
    pub host: String,
    /// Whether the server is reachable.
    pub state: ShardState,
    /// Start of this state.
    #[serde(serialize_with = "unix_seconds")]
    pub since: SystemTime,
    /// Why the server is unreachable, or why probe messages do not arrive through it.
    pub reason: Option<String>,
    /// The address of the last connection. With sentinels, the address of the master.
    pub server: Option<String>,
    /// Duration of the last round trip.
    #[serde(rename = "latency_seconds", serialize_with = "maybe_seconds")]
    pub latency: Option<Duration>,
    /// Version of the server at the last connection.
    pub version: Option<String>,
    /// Role of the server at the last connection: `master` or `slave`.
    pub role: Option<String>,
    /// How far the server's clock is ahead of the clock of this machine, in seconds.
    pub clock_offset_seconds: Option<f64>,
    /// A random text that changes when the server loses its data. `None` if the format of the layer stores none.
    pub epoch: Option<String>,
    /// Whether the layer has fallen back for this server: its messages stay in this process.
    pub fallback_mode: bool,
    /// The last probe message through the server.
    pub probe: Option<Probe>,
    /// The connections that blocking reads of this process use. `None` while the server is unreachable, and for a layer
    /// that only publishes.
    pub blocking_connections: Option<BlockingConnections>,
    /// Settings that should be equal in all processes of the deployment, and differ between this process and another.
    /// They are compared at each connect and every 20 s. A layer that only publishes does not compare them.
    pub setting_differences: Vec<SettingDifference>,
}

/// The connections to a server for blocking reads. A reader needs one for each set of channels that it reads there, and
/// in a cluster one for each channel, or for each list of a channel that is [spread](crate::Config::spread).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct BlockingConnections {
    /// Number of connections in use.
    pub used: usize,
    /// Number of reads that wait for a connection. They fail after [`connect_timeout`](crate::Config::connect_timeout).
    pub waiting: usize,
    /// The most connections: [`pool_size`](crate::Config::pool_size).
    pub limit: usize,
}

/// A setting in which two processes of a deployment differ. Messages between them may be lost, stay unread, or have
/// another lifetime.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[non_exhaustive]
pub struct SettingDifference {
    /// The name of the option.
    pub option: String,
    /// Its value in this process. Keys are given by their ids; the first one is the key that seals.
    pub ours: String,
    /// Its value in another process.
    pub theirs: String,
}

/// Whether a server is reachable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ShardState {
    /// Reachable.
    Up,
    /// Unreachable.
    Down,
}

/// A probe: a message that was sent through a server and read again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Probe {
    /// Time since the end of the probe.
    #[serde(rename = "age_seconds", serialize_with = "seconds")]
    pub age: Duration,
    /// Time that the message took to arrive; `None` if it did not.
    #[serde(rename = "round_trip_seconds", serialize_with = "maybe_seconds")]
    pub round_trip: Option<Duration>,
    /// Why the message did not arrive.
    pub error: Option<String>,
}

/// The load of a server, from [`ChannelLayer::redis_stats`](crate::ChannelLayer::redis_stats). The fields
/// have the names of `INFO`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RedisStats {
    /// Position of the server in the configured hosts, or its number in a cluster.
    pub shard: usize,
    /// Number of client connections.
    pub connected_clients: u64,
    /// Memory used by its data, in bytes.
    pub used_memory: u64,
    /// Eviction policy when its memory is full. With any policy but `noeviction`, Redis then deletes channels and
    /// groups without notice.
    pub maxmemory_policy: String,
    /// Number of pub/sub channels with subscribers.
    pub pubsub_channels: u64,
    /// Number of pub/sub patterns with subscribers.
    pub pubsub_patterns: u64,
    /// Number of commands since the server started.
    pub total_commands_processed: u64,
}

impl Health {
    /// Returns the health of a layer without servers.
    pub fn disabled() -> Self {
        Self { status: Status::Disabled, fallback_mode: false, shards: Vec::new() }
    }

    /// Returns the health of a layer that needs all of `shards`.
    pub fn of_shards(shards: Vec<ShardHealth>) -> Self {
        let healthy = shards.iter().all(ShardHealth::is_healthy);
        let status = if healthy { Status::Healthy } else { Status::Unhealthy };
        Self { status, fallback_mode: false, shards }
    }

    /// Whether this process is ready for work: probe messages arrive through each server, or the layer has fallen back,
    /// as configured, for each server through which they do not.
    pub fn is_ready(&self) -> bool {
        let is_usable = |shard: &ShardHealth| (shard.is_healthy() && shard.reason.is_none()) || shard.fallback_mode;
        self.status != Status::Unhealthy || (self.fallback_mode && self.shards.iter().all(is_usable))
    }

    /// Returns one line for each server that is known to be unreachable or through which probe messages do not arrive,
    /// with the reason.
    #[cfg(feature = "server")]
    pub(crate) fn reasons(&self) -> String {
        let reason = |shard: &ShardHealth| Some(format!("{}: {}\n", shard.host, shard.reason.as_ref()?));
        self.shards.iter().filter_map(reason).collect()
    }

    /// Records that messages for this server stay in this process, and why.
    pub(crate) fn falls_back(&mut self, shard: usize, reason: Option<String>) {
        self.fails(shard, reason);
        self.fallback_mode = true;
        if let Some(shard) = self.shards.iter_mut().find(|entry| entry.shard == shard) {
            shard.fallback_mode = true;
        }
    }

    /// Records that messages for all servers stay in this process, and why.
    pub(crate) fn falls_back_everywhere(&mut self, reason: Option<&str>) {
        self.status = Status::Unhealthy;
        self.fallback_mode = true;
        for shard in &mut self.shards {
            shard.reason = shard.reason.take().or_else(|| reason.map(str::to_owned));
            shard.fallback_mode = true;
        }
    }

    /// Records that messages do not arrive through this server, and why.
    pub(crate) fn fails(&mut self, shard: usize, reason: Option<String>) {
        self.status = Status::Unhealthy;
        if let Some(shard) = self.shards.iter_mut().find(|entry| entry.shard == shard) {
            shard.reason = shard.reason.take().or(reason);
        }
    }

    /// Combines the health of two layers that are both needed.
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

impl BlockingConnections {
    /// `users` reads that use or want one of `limit` connections.
    pub(crate) fn of(users: usize, limit: usize) -> Self {
        let used = users.min(limit);
        Self { used, waiting: users - used, limit }
    }

    /// How many connections all reads need.
    pub(crate) fn needed(&self) -> usize {
        self.used + self.waiting
    }
}

impl SettingDifference {
    pub(crate) fn new(option: impl Into<String>, ours: impl Into<String>, theirs: impl Into<String>) -> Self {
        Self { option: option.into(), ours: ours.into(), theirs: theirs.into() }
    }
}

impl ShardHealth {
    /// Whether the server is reachable and the last probe arrived.
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
