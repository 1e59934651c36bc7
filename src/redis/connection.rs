//! Opening connections to one server: the shared one for commands, and the pool of those that wait for messages.

use std::time::{Duration, Instant};

use deadpool_redis::{Manager, Pool, PoolError, Runtime};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, RedisError, Value};

use super::script;

/// How long connections may take for what.
#[derive(Clone, Debug)]
pub(super) struct Timing {
    /// Opening a connection.
    pub(super) connect: Duration,
    /// Answering a command.
    pub(super) command: Duration,
    /// Waiting for a message, in one command.
    pub(super) blocking: Duration,
}

/// A read that is silent this much longer than it should block means a dead connection. On a half-open one nothing
/// else would ever tell.
const SILENCE: Duration = Duration::from_secs(2);

/// The connections to a server, from when it was reached until it was lost; cheap to clone.
#[derive(Clone)]
pub(super) struct Link {
    /// Carries all commands that do not block, of all tasks.
    pub(super) commands: MultiplexedConnection,
    /// Connections of which each carries one blocking read at a time. An answer later than the read's own timeout and
    /// [`SILENCE`] is an error there.
    pub(super) blocking: Pool,
    /// Grows with each link, so that what was learnt over an earlier one can be told apart.
    pub(super) generation: u64,
}

/// What a server says of itself when it is reached.
#[derive(Debug)]
pub(super) struct Greeting {
    /// Its version, as `major.minor.patch`.
    pub(super) version: String,
    /// The epoch of its data: ours if it had none.
    pub(super) epoch: String,
}

/// Why a server could not be reached.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error(transparent)]
    Redis(#[from] RedisError),
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// Trying again will not help before somebody changes the server.
    #[error("the server has version {0}, and 7.0 or later is needed")]
    TooOld(String),
    #[error("the pool of connections cannot be built")]
    Pool(#[from] deadpool_redis::BuildError),
}

impl Link {
    /// Opens the shared connection, checks the server's version, loads the scripts and reads or makes the epoch.
    pub(super) async fn open(
        client: &Client,
        timing: &Timing,
        pool_size: usize,
        epoch_key: &str,
        generation: u64,
    ) -> Result<(Self, Greeting), ConnectError> {
        let limit = timing.connect + timing.command;
        let opening = Self::open_commands(client, timing, epoch_key);
        let (commands, greeting) =
            tokio::time::timeout(limit, opening).await.map_err(|_| ConnectError::Timeout(limit))??;
        let blocking = blocking_pool(client, timing, pool_size)?;
        Ok((Self { commands, blocking, generation }, greeting))
    }

    async fn open_commands(
        client: &Client,
        timing: &Timing,
        epoch_key: &str,
    ) -> Result<(MultiplexedConnection, Greeting), ConnectError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(timing.connect))
            .set_response_timeout(Some(timing.command));
        let mut commands = client.get_multiplexed_async_connection_with_config(&config).await?;
        let info: String = redis::cmd("INFO").arg("server").query_async(&mut commands).await?;
        let version = info.lines().find_map(|line| line.strip_prefix("redis_version:")).unwrap_or("unknown").to_owned();
        if !is_supported(&version) {
            return Err(ConnectError::TooOld(version));
        }
        load_scripts(&mut commands).await?;
        let new = format!("{:032x}", rand::random::<u128>());
        let old: Option<String> =
            redis::cmd("SET").arg(epoch_key).arg(&new).arg("NX").arg("GET").query_async(&mut commands).await?;
        Ok((commands, Greeting { version, epoch: old.unwrap_or(new) }))
    }
}

/// Makes the server know all scripts.
pub(super) async fn load_scripts(connection: &mut MultiplexedConnection) -> Result<(), RedisError> {
    let mut pipeline = redis::pipe();
    for script in script::ALL {
        pipeline.add_command(script.load()).ignore();
    }
    pipeline.query_async(connection).await
}

/// The server's clock and the epoch of its data.
pub(super) async fn probe(
    connection: &mut MultiplexedConnection,
    epoch_key: &str,
) -> Result<(Instant, Duration, Option<String>), RedisError> {
    let asked = Instant::now();
    let mut pipeline = redis::pipe();
    pipeline.cmd("TIME").cmd("GET").arg(epoch_key);
    let ((seconds, micros), epoch): ((u64, u64), Option<String>) = pipeline.query_async(connection).await?;
    Ok((asked, Duration::from_secs(seconds) + Duration::from_micros(micros), epoch))
}

/// `BLMPOP` came with Redis 7.0; Valkey began after it and reports such a version too.
fn is_supported(version: &str) -> bool {
    version.split('.').next().and_then(|major| major.parse::<u32>().ok()).is_some_and(|major| major >= 7)
}

fn blocking_pool(client: &Client, timing: &Timing, size: usize) -> Result<Pool, ConnectError> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(timing.connect))
        .set_response_timeout(Some(timing.blocking + SILENCE));
    let manager = Manager::new_with_config(client.get_connection_info().clone(), config)?;
    Ok(Pool::builder(manager)
        .max_size(size)
        .wait_timeout(Some(timing.connect))
        .create_timeout(Some(timing.connect))
        .recycle_timeout(Some(timing.command))
        .runtime(Runtime::Tokio1)
        .build()?)
}

/// A connection that blocks in one read at a time, and the id by which the server can be told to end that read.
pub(super) struct BlockingConnection {
    /// The link that it belongs to.
    pub(super) generation: u64,
    connection: deadpool_redis::Connection,
    id: i64,
}

impl BlockingConnection {
    /// Takes a connection from the pool of `link` or opens one.
    pub(super) async fn take(link: &Link) -> Result<Self, PoolError> {
        let mut connection = link.blocking.get().await?;
        let id = redis::cmd("CLIENT").arg("ID").query_async(&mut connection).await.map_err(PoolError::Backend)?;
        Ok(Self { generation: link.generation, connection, id })
    }

    /// Runs one command and waits for its answer, which is nothing if anybody ended the wait on the server.
    pub(super) async fn run(&mut self, command: &redis::Cmd) -> Result<Value, RedisError> {
        match self.connection.send_packed_command(command).await?.extract_error() {
            Err(error) if error.code() == Some("UNBLOCKED") => Ok(Value::Nil),
            answer => answer,
        }
    }

    /// The command for another connection that ends the read that blocks in this one.
    pub(super) fn unblock(&self) -> redis::Cmd {
        let mut command = redis::cmd("CLIENT");
        command.arg("UNBLOCK").arg(self.id);
        command
    }

    /// Closes the connection instead of giving it back.
    pub(super) fn discard(self) {
        drop(deadpool_redis::Connection::take(self.connection));
    }
}

#[cfg(test)]
mod tests {
    use super::is_supported;

    #[test]
    fn versions_from_7_on_are_supported() {
        for version in ["7.0.0", "7.0.15", "7.4.1", "8.2.0", "10.0"] {
            assert!(is_supported(version), "{version}");
        }
        for version in ["6.2.14", "6.9", "", "unknown"] {
            assert!(!is_supported(version), "{version}");
        }
    }
}
