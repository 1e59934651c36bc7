//! `ServerConnection`: the shared connection for commands to one server and the pool of connections for blocking reads.
//!
//! The pool opens a [`blocking`] connection when a read needs one. A connection that cannot be opened is a
//! [`connect_error`], with advice. [`gauges`] show how many of these connections there are.

pub(crate) mod blocking;
pub(crate) mod connect_error;
pub(crate) mod gauges;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use deadpool_redis::{Manager, Pool, Runtime};
use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, ErrorKind, RedisError, Value};

use crate::config::Config;
use crate::redis::node::commands::script::Script;
use crate::redis::node::connection::connect_error::ConnectError;
use crate::redis::node::connection::gauges::{Connections, InGauge};
use crate::redis::node::epoch::{self, EpochAnswer};
use crate::redis::node::peer_settings::PeerSettings;

/// The timeouts of connections.
#[derive(Clone, Debug)]
pub(crate) struct Timing {
    /// The longest time to open a connection.
    pub(crate) connect: Duration,
    /// The longest duration of a command.
    pub(crate) command: Duration,
    /// The longest time that one read blocks.
    pub(crate) blocking: Duration,
    /// The pause before the first retry.
    pub(crate) backoff: Duration,
}

/// A blocking read that exceeds its own timeout and the command timeout by this much means a dead connection. A
/// half-open connection shows no other sign.
const SILENCE: Duration = Duration::from_secs(2);

/// The longest time that one read blocks on a node of a cluster. A slot whose migration begins does not wake the
/// readers that wait there, although new messages go to the other node.
const LONGEST_BLOCKING_ON_CLUSTER: Duration = Duration::from_secs(1);

impl Timing {
    /// How long after its timeout a blocking read may be answered.
    pub(crate) fn answer(&self) -> Duration {
        self.command + SILENCE
    }
}

/// The connections to a server, from the time it is reached until it is lost. Cheap to clone.
#[derive(Clone)]
pub(crate) struct ServerConnection {
    /// The connection of all commands that do not block.
    pub(crate) commands: MultiplexedConnection,
    /// The connections of blocking reads. Each runs one read at a time. An answer that comes later than the read's own
    /// timeout, the command timeout and [`SILENCE`] together fails.
    pub(crate) blocking: Pool,
    /// Shows the size of the pool. `None` if the layer makes no blocking reads.
    _pool_size: Option<Arc<InGauge>>,
    /// Opens further connections, as for subscriptions. It resolves the host name anew.
    pub(crate) client: Arc<Client>,
    /// The identity that the server reported.
    pub(crate) identity: Identity,
    /// The time of the last answer to a probe.
    pub(crate) heard: Heard,
    /// Distinguishes this connection from earlier and later ones to the same server.
    pub(crate) generation: u64,
}

/// The requirements of a layer on its servers.
#[derive(Clone)]
pub(crate) struct Requirements {
    pub(crate) timing: Timing,
    /// The number of connections for blocking reads.
    pub(crate) pool_size: usize,
    /// How often a command that cannot have run is retried.
    pub(crate) retry_attempts: usize,
    /// Whether servers have to accept writes. Publishing is not a write.
    pub(crate) writable: bool,
    /// How the layer uses a node of a Redis Cluster.
    pub(crate) cluster: ClusterUse,
    /// The oldest supported version.
    pub(crate) min_version: Version,
    /// The scripts that are loaded whenever a server is reached.
    pub(crate) scripts: &'static [&'static Script],
    /// The key of the epoch of a server's data. `None` if nothing is written to the server. The loss of its data is not
    /// noticed then.
    pub(crate) epoch_key: Option<String>,
    /// The settings that processes compare through a server. `None` if nothing is written to it.
    pub(crate) settings: Option<PeerSettings>,
}

/// How a layer uses a node of a Redis Cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClusterUse {
    /// Not at all.
    Refused,
    /// As a server like any other: all nodes deliver what is published on one.
    AnyNode,
    /// As a part of the cluster that it belongs to. Every server has to be one.
    Required,
}

/// The major and minor number of a server's version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub(crate) u32, pub(crate) u32);

/// The identity of a running server, which changes with each start. `None` if it may be any node of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity(Option<String>);

/// The facts that a server reports when it is reached.
#[derive(Debug)]
pub(crate) struct Greeting {
    /// The version, as `major.minor.patch`.
    pub(crate) version: String,
    /// `master` or `slave`, as the server calls it.
    pub(crate) role: String,
    /// The epoch of the server's data, which is new if there was none.
    pub(crate) epoch: EpochAnswer,
    identity: Identity,
}

impl Timing {
    /// The timeouts of `config`.
    pub(crate) fn of(config: &Config) -> Self {
        Self {
            connect: config.connect_timeout,
            command: config.command_timeout,
            blocking: config.blocking_timeout,
            backoff: config.retry_backoff,
        }
    }
}

impl Requirements {
    /// Whether the servers have to be nodes of a cluster.
    pub(crate) fn is_cluster(&self) -> bool {
        self.cluster == ClusterUse::Required
    }

    /// The requirements of `config`, for a format that requires `min_version` and `scripts`.
    pub(crate) fn new(
        config: &Config,
        min_version: Version,
        scripts: &'static [&'static Script],
        epoch_key: Option<String>,
    ) -> Self {
        let mut timing = Timing::of(config);
        let (pool_size, retry_attempts) = (config.pool_size, config.retry_attempts);
        let cluster = if config.cluster { ClusterUse::Required } else { ClusterUse::Refused };
        if config.cluster {
            timing.blocking = timing.blocking.min(LONGEST_BLOCKING_ON_CLUSTER);
        }
        let settings = epoch_key.is_some().then(|| PeerSettings::of(config));
        let writable = true;
        Self { timing, pool_size, retry_attempts, writable, cluster, min_version, scripts, epoch_key, settings }
    }
}

impl ServerConnection {
    /// Opens the shared connection, checks the server's version and role, loads the scripts and reads or creates the
    /// epoch. A replica is refused if `master` is set, or if it is read-only and writes are required. `shard` is the
    /// label of its gauges.
    pub(crate) async fn open(
        client: &Arc<Client>,
        master: bool,
        epoch_key: Option<&str>,
        shard: usize,
        requirements: &Requirements,
    ) -> Result<(Self, Greeting), ConnectError> {
        let limit = requirements.timing.connect + requirements.timing.command;
        let opening = open_commands(client, master, epoch_key, requirements);
        let opened = tokio::time::timeout(limit, opening).await.unwrap_or(Err(ConnectError::Timeout(limit)));
        let (commands, greeting) = match opened {
            Ok(opened) => opened,
            Err(error) => return Err(error.explained(client, requirements.timing.command).await),
        };
        let blocking = blocking_pool(client, &requirements.timing, requirements.pool_size)?;
        let identity = greeting.identity.clone();
        // A layer that writes nothing makes no blocking reads.
        let pool_size = requirements.pool_size;
        let shown = requirements.writable.then(|| Arc::new(InGauge::add(Connections::Limit, shard, pool_size)));
        let (client, heard) = (client.clone(), Heard::now());
        let generation = rand::random();
        Ok((Self { commands, blocking, _pool_size: shown, client, identity, heard, generation }, greeting))
    }
}

async fn open_commands(
    client: &Client,
    master: bool,
    epoch_key: Option<&str>,
    requirements: &Requirements,
) -> Result<(MultiplexedConnection, Greeting), ConnectError> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(requirements.timing.connect))
        .set_response_timeout(Some(requirements.timing.command));
    let mut commands = client.get_multiplexed_async_connection_with_config(&config).await?;
    let info: String = redis::cmd("INFO").query_async(&mut commands).await?;
    let field = |name| field(&info, name).unwrap_or("unknown").to_owned();
    let (mode, version, role) = (field("redis_mode:"), field("redis_version:"), field("role:"));
    match (&*mode, requirements.cluster) {
        ("sentinel", _) => return Err(ConnectError::Sentinel),
        ("cluster", ClusterUse::Refused) => return Err(ConnectError::Cluster),
        (mode, ClusterUse::Required) if mode != "cluster" => return Err(ConnectError::NotCluster),
        _ => {}
    }
    if Version::parse(&version).is_none_or(|version| version < requirements.min_version) {
        return Err(ConnectError::TooOld { version, needed: requirements.min_version });
    }
    let read_only = requirements.writable && field("slave_read_only:") == "1";
    if role != "master" && (master || read_only) {
        return Err(ConnectError::Replica);
    }
    load_scripts(&mut commands, requirements.scripts).await?;
    let epoch = match epoch_key {
        Some(key) => epoch::read_or_create(&mut commands, key).await?,
        None => EpochAnswer::Unknown,
    };
    let identity = match requirements.cluster {
        ClusterUse::AnyNode if mode == "cluster" => Identity(None),
        _ => Identity::in_info(&info),
    };
    Ok((commands, Greeting { version, role, epoch, identity }))
}

/// The value of the field `name`, which ends with a colon, in an answer to `INFO`.
fn field<'i>(info: &'i str, name: &str) -> Option<&'i str> {
    info.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

impl Identity {
    /// Whether the server with the identity `other` serves the same purpose as this one.
    pub(crate) fn accepts(&self, other: &Self) -> bool {
        self.0.is_none() || self == other
    }

    /// Asks the server of `connection` for its identity.
    pub(crate) async fn of(connection: &mut MultiplexedConnection) -> Result<Self, RedisError> {
        let info: String = redis::cmd("INFO").arg("server").query_async(connection).await?;
        Ok(Self::in_info(&info))
    }

    pub(crate) fn in_info(info: &str) -> Self {
        Self(field(info, "run_id:").map(str::to_owned))
    }
}

/// Loads `scripts` on the server.
pub(crate) async fn load_scripts(
    connection: &mut MultiplexedConnection,
    scripts: &[&Script],
) -> Result<(), RedisError> {
    if scripts.is_empty() {
        return Ok(());
    }
    let mut pipeline = redis::pipe();
    for script in scripts {
        pipeline.add_command(script.load()).ignore();
    }
    pipeline.query_async(connection).await
}

/// Asks the server for its time and, if there is a key for it, the epoch of its data. Returns them behind the time at
/// which the commands were sent.
pub(crate) async fn probe(
    connection: &mut MultiplexedConnection,
    epoch_key: Option<&str>,
) -> Result<(Instant, Duration, EpochAnswer), RedisError> {
    let asked = Instant::now();
    let mut pipeline = redis::pipe();
    pipeline.cmd("TIME");
    if let Some(key) = epoch_key {
        pipeline.cmd("GET").arg(key);
    }
    let (time, epoch) = parse_probe(connection.send_packed_commands(&pipeline, 0, pipeline.len()).await?)?;
    Ok((asked, time, epoch))
}

/// The time and the epoch in the answers to [`probe`].
pub(crate) fn parse_probe(answers: Vec<Value>) -> Result<(Duration, EpochAnswer), RedisError> {
    let mut answers = answers.into_iter();
    let (seconds, micros): (u64, u64) = redis::from_redis_value(answers.next().unwrap_or(Value::Nil).extract_error()?)?;
    let time = time(seconds, micros).ok_or((ErrorKind::UnexpectedReturnType, "TIME returned an invalid time"))?;
    let epoch = answers.next().map_or(Ok(EpochAnswer::Unknown), |epoch| EpochAnswer::of(epoch.extract_error()))?;
    Ok((time, epoch))
}

/// The time since the epoch that a server reported. Returns `None` for 2^53 microseconds and more: Lua's numbers are
/// exact below, and sums with durations cannot overflow.
fn time(seconds: u64, micros: u64) -> Option<Duration> {
    let time = Duration::from_secs(seconds).checked_add(Duration::from_micros(micros))?;
    (time.as_micros() < 1 << 53).then_some(time)
}

impl Version {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.');
        let major = parts.next()?.parse().ok()?;
        let minor = parts.next()?.parse().ok()?;
        Some(Self(major, minor))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

fn blocking_pool(client: &Client, timing: &Timing, size: usize) -> Result<Pool, ConnectError> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(timing.connect))
        .set_response_timeout(Some(timing.blocking + timing.answer()));
    let manager = Manager::new_with_config(client.get_connection_info().clone(), config)?;
    Ok(Pool::builder(manager)
        .max_size(size)
        .wait_timeout(Some(timing.connect))
        .create_timeout(Some(timing.connect))
        .recycle_timeout(Some(timing.command))
        .runtime(Runtime::Tokio1)
        .build()?)
}

/// The time of the last sign of life over a connection.
#[derive(Clone, Debug)]
pub(crate) struct Heard(Arc<Mutex<tokio::time::Instant>>);

impl Heard {
    fn now() -> Self {
        Self(Arc::new(Mutex::new(tokio::time::Instant::now())))
    }

    pub(crate) fn note(&self) {
        *self.0.lock() = tokio::time::Instant::now();
    }

    pub(crate) fn last(&self) -> tokio::time::Instant {
        *self.0.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::{Identity, Version, time};

    #[test]
    fn running_servers_have_different_identities() {
        let of = |id: &str| Identity::in_info(&format!("# Server\r\nrun_id:{id}\r\n"));
        assert_eq!(of("a"), of("a"));
        assert_ne!(of("a"), of("b"));
    }

    #[test]
    fn invalid_times_are_refused() {
        assert!(time(1_800_000_000, 999_999).is_some());
        for (seconds, micros) in [(u64::MAX, u64::MAX), (u64::MAX, 0), (0, u64::MAX), (1 << 53, 0), (10_000_000_000, 0)]
        {
            assert_eq!(time(seconds, micros), None, "{seconds} {micros}");
        }
    }

    #[test]
    fn versions_are_compared_by_number() {
        for version in ["7.0.0", "7.0.15", "7.4.1", "8.2.0", "10.0"] {
            assert!(Version::parse(version) >= Some(Version(7, 0)), "{version}");
        }
        for version in ["6.2.14", "6.9", "6.10.1", "", "unknown", "7"] {
            assert!(Version::parse(version) < Some(Version(7, 0)), "{version}");
        }
    }
}
