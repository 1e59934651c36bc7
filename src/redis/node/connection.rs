//! Opening connections to one server: the shared one for commands, and the pool of those that wait for messages.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use deadpool_redis::{Manager, Pool, Runtime};
use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, ErrorKind, RedisError, Value};

use crate::config::Config;
use crate::redis::node::connect_error::ConnectError;
use crate::redis::node::fault;
use crate::redis::node::script::Script;
use crate::redis::node::settings::Settings;

/// How long connections may take for what.
#[derive(Clone, Debug)]
pub(crate) struct Timing {
    /// Opening a connection.
    pub(crate) connect: Duration,
    /// Answering a command.
    pub(crate) command: Duration,
    /// Waiting for a message, in one command.
    pub(crate) blocking: Duration,
    /// The first pause before something is tried again.
    pub(crate) backoff: Duration,
}

/// A read that is silent this much longer than it should block and an answer may take means a dead connection. On a
/// half-open one nothing else would ever tell.
const SILENCE: Duration = Duration::from_secs(2);

impl Timing {
    /// How long the answer of a read may be on its way.
    pub(crate) fn answer(&self) -> Duration {
        self.command + SILENCE
    }
}

/// The connections to a server, from when it was reached until it was lost; cheap to clone.
#[derive(Clone)]
pub(crate) struct ServerConnection {
    /// Carries all commands that do not block, of all tasks.
    pub(crate) commands: MultiplexedConnection,
    /// Connections of which each carries one blocking read at a time. An answer later than the read's own timeout, that
    /// of commands and [`SILENCE`] is an error there.
    pub(crate) blocking: Pool,
    /// Opens further connections, as for a subscription: where its name leads then.
    pub(crate) client: Arc<Client>,
    /// Which server this is, as it says itself.
    pub(crate) identity: Identity,
    /// When the server last answered a probe over it.
    pub(crate) heard: Heard,
    /// Another with each link, so that what was learnt over an earlier one can be told apart.
    pub(crate) generation: u64,
}

/// What a layer needs of its servers, whichever they are.
#[derive(Clone)]
pub(crate) struct Requirements {
    /// How long connections may take.
    pub(crate) timing: Timing,
    /// Connections for blocking reads.
    pub(crate) pool_size: usize,
    /// How often a command is tried again that cannot have run.
    pub(crate) retry_attempts: usize,
    /// Whether servers have to take writes. To publish is not to write.
    pub(crate) writable: bool,
    /// Whether a node of a Redis Cluster will do.
    pub(crate) on_cluster: bool,
    /// The oldest version that will do.
    pub(crate) min_version: Version,
    /// What is loaded whenever a server is reached.
    pub(crate) scripts: &'static [&'static Script],
    /// The key of the epoch of a server's data. Without one nothing is written to the server, and nobody learns that
    /// its data is lost.
    pub(crate) epoch_key: Option<String>,
    /// The settings that processes compare through a server. None without an epoch.
    pub(crate) settings: Option<Settings>,
}

/// Major and minor number of a server's version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub(crate) u32, pub(crate) u32);

/// Tells servers apart: another with each start of each. Nothing of a node of a cluster, all of which pass on what is
/// published on one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity(Option<String>);

/// What a server says of itself when it is reached.
#[derive(Debug)]
pub(crate) struct Greeting {
    /// Its version, as `major.minor.patch`.
    pub(crate) version: String,
    /// `master` or `slave`, as the server calls it.
    pub(crate) role: String,
    /// The epoch of its data: ours if it had none, and nothing if it took none.
    pub(crate) epoch: Option<String>,
    identity: Identity,
}

impl Timing {
    /// What `config` says.
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
    /// What `config` says about connections, for a format that needs this version and these scripts.
    pub(crate) fn new(
        config: &Config,
        min_version: Version,
        scripts: &'static [&'static Script],
        epoch_key: Option<String>,
    ) -> Self {
        let timing = Timing::of(config);
        let (pool_size, retry_attempts) = (config.pool_size, config.retry_attempts);
        let (writable, on_cluster) = (true, false);
        let settings = epoch_key.is_some().then(|| Settings::of(config));
        Self { timing, pool_size, retry_attempts, writable, on_cluster, min_version, scripts, epoch_key, settings }
    }
}

impl ServerConnection {
    /// Opens the shared connection, checks the server's version and its role, loads the scripts and reads or makes the
    /// epoch. A replica will not do where a `master` is needed, nor where it takes no writes and has to.
    pub(crate) async fn open(
        client: &Arc<Client>,
        master: bool,
        needs: &Requirements,
    ) -> Result<(Self, Greeting), ConnectError> {
        let limit = needs.timing.connect + needs.timing.command;
        let opening = open_commands(client, master, needs);
        let opened = tokio::time::timeout(limit, opening).await.unwrap_or(Err(ConnectError::Timeout(limit)));
        let (commands, greeting) = match opened {
            Ok(opened) => opened,
            Err(error) => return Err(error.explained(client, needs.timing.command).await),
        };
        let blocking = blocking_pool(client, &needs.timing, needs.pool_size)?;
        let identity = greeting.identity.clone();
        let (client, heard) = (client.clone(), Heard::now());
        Ok((Self { commands, blocking, client, identity, heard, generation: rand::random() }, greeting))
    }
}

async fn open_commands(
    client: &Client,
    master: bool,
    needs: &Requirements,
) -> Result<(MultiplexedConnection, Greeting), ConnectError> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(needs.timing.connect))
        .set_response_timeout(Some(needs.timing.command));
    let mut commands = client.get_multiplexed_async_connection_with_config(&config).await?;
    let info: String = redis::cmd("INFO").query_async(&mut commands).await?;
    let field = |name| field(&info, name).unwrap_or("unknown").to_owned();
    let (mode, version, role) = (field("redis_mode:"), field("redis_version:"), field("role:"));
    match &*mode {
        "sentinel" => return Err(ConnectError::Sentinel),
        "cluster" if !needs.on_cluster => return Err(ConnectError::Cluster),
        _ => {}
    }
    if Version::parse(&version).is_none_or(|version| version < needs.min_version) {
        return Err(ConnectError::TooOld { version, needed: needs.min_version });
    }
    let read_only = needs.writable && field("slave_read_only:") == "1";
    if role != "master" && (master || read_only) {
        return Err(ConnectError::Replica);
    }
    load_scripts(&mut commands, needs.scripts).await?;
    let epoch = match &needs.epoch_key {
        Some(key) => match redis::cmd("GET").arg(key).query_async(&mut commands).await? {
            Some(known) => Some(known),
            None => make_epoch(&mut commands, key).await?,
        },
        None => None,
    };
    Ok((commands, Greeting { version, role, epoch, identity: Identity::in_info(&info) }))
}

/// What `info` says under `name`, which ends with a colon.
fn field<'i>(info: &'i str, name: &str) -> Option<&'i str> {
    info.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

impl Identity {
    /// That of the server that answers over `connection`.
    pub(crate) async fn of(connection: &mut MultiplexedConnection) -> Result<Self, RedisError> {
        let info: String = redis::cmd("INFO").arg("server").query_async(connection).await?;
        Ok(Self::in_info(&info))
    }

    pub(crate) fn in_info(info: &str) -> Self {
        Self(field(info, "run_id:").filter(|_| field(info, "redis_mode:") != Some("cluster")).map(str::to_owned))
    }
}

/// Makes the server know `scripts`.
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

/// The server's clock when asked, and the epoch of its data if there is a key for it.
pub(crate) async fn probe(
    connection: &mut MultiplexedConnection,
    epoch_key: Option<&str>,
) -> Result<(Instant, Duration, Option<String>), RedisError> {
    let asked = Instant::now();
    let mut pipeline = redis::pipe();
    pipeline.cmd("TIME");
    if let Some(key) = epoch_key {
        pipeline.cmd("GET").arg(key);
    }
    let (time, epoch) = told(pipeline.query_async(connection).await?)?;
    Ok((asked, time, epoch))
}

/// The time and the epoch in the answers to [`probe`].
pub(crate) fn told(answers: Vec<Value>) -> Result<(Duration, Option<String>), RedisError> {
    let mut answers = answers.into_iter();
    let (seconds, micros): (u64, u64) = redis::from_redis_value(answers.next().unwrap_or(Value::Nil))?;
    let time = time(seconds, micros).ok_or((ErrorKind::UnexpectedReturnType, "TIME gave a time that is none"))?;
    let epoch = redis::from_redis_value(answers.next().unwrap_or(Value::Nil))?;
    Ok((time, epoch))
}

/// The time since the epoch that a server told, if it can be one: Lua's numbers are exact for so many microseconds, and there
/// is room for what is added to it.
fn time(seconds: u64, micros: u64) -> Option<Duration> {
    let time = Duration::from_secs(seconds).checked_add(Duration::from_micros(micros))?;
    (time.as_micros() < 1 << 53).then_some(time)
}

/// Gives the data its epoch if it has none; tells which it has. There is none as long as the server takes no writes for
/// want of memory, disk or replicas: who only reads can be served all the same, and makes room.
pub(crate) async fn make_epoch(
    connection: &mut MultiplexedConnection,
    key: &str,
) -> Result<Option<String>, RedisError> {
    let epoch = format!("{:032x}", rand::random::<u128>());
    match redis::cmd("SET").arg(key).arg(epoch).arg("NX").query_async::<Value>(connection).await {
        Err(error) if !error.code().is_some_and(fault::is_shortage) => Err(error),
        // Asked for apart, since servers before 7.0 do not take `NX` and `GET` in one.
        _ => redis::cmd("GET").arg(key).query_async(connection).await,
    }
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

/// When something was last heard over a link.
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
    fn servers_are_told_apart_and_nodes_of_a_cluster_are_not() {
        let of = |mode: &str, id: &str| Identity::in_info(&format!("# Server\r\nredis_mode:{mode}\r\nrun_id:{id}\r\n"));
        assert_eq!(of("standalone", "a"), of("standalone", "a"));
        assert_ne!(of("standalone", "a"), of("standalone", "b"));
        assert_eq!(of("cluster", "a"), of("cluster", "b"));
    }

    #[test]
    fn times_that_are_none_are_refused() {
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
