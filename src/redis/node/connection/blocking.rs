//! `BlockingConnection`: a connection for reads that wait for messages.

use std::sync::atomic::Ordering;
use std::time::Duration;

use deadpool_redis::{PoolError, TimeoutType};
use redis::{RedisError, Value};

use crate::health::BlockingConnections;
use crate::redis::node::connection::connect_error::ConnectError;
use crate::redis::node::connection::gauges::{Connections, InGauge};
use crate::redis::node::connection::{Heard, Identity, ServerConnection};
use crate::redis::node::fault::Fault;
use crate::redis::node::shard::Shard;

/// A connection that blocks in one read at a time, and the client id with which the server ends that read on request.
pub(crate) struct BlockingConnection {
    /// The generation of the [`ServerConnection`] from whose pool it was taken.
    pub(crate) generation: u64,
    /// The time of the last sign of life over that `ServerConnection`.
    pub(crate) heard: Heard,
    pub(crate) client: ServerClient,
    /// `None` once it is closed.
    connection: Option<deadpool_redis::Connection>,
    /// Whether answers to commands are outstanding.
    busy: bool,
    /// Shows that it is in use.
    _in_use: InGauge,
}

#[derive(Debug, thiserror::Error)]
#[error("the connection is closed")]
struct Discarded;

/// The client id of a connection and the server that assigned it.
#[derive(Clone, Debug)]
pub(crate) struct ServerClient {
    pub(crate) server: Identity,
    pub(crate) id: i64,
}

impl BlockingConnection {
    /// Takes a connection from the pool of `server`, or opens one. The server has to answer on it within `timeout`.
    /// `shard` is the label of its gauge.
    pub(crate) async fn take(server: &ServerConnection, shard: usize, timeout: Duration) -> Result<Self, PoolError> {
        let mut connection = server.blocking.get().await?;
        let mut commands = redis::pipe();
        commands.cmd("CLIENT").arg("ID").cmd("INFO").arg("server");
        let answer = tokio::time::timeout(timeout, commands.query_async::<(i64, String)>(&mut connection)).await;
        let (id, info) = answer.map_err(|_| PoolError::Timeout(TimeoutType::Recycle))?.map_err(PoolError::Backend)?;
        // The host name may resolve to another server now than when `server` was opened.
        let client = ServerClient { server: Identity::in_info(&info), id };
        Ok(Self {
            generation: server.generation,
            heard: server.heard.clone(),
            client,
            connection: Some(connection),
            busy: false,
            _in_use: InGauge::add(Connections::InUse, shard, 1),
        })
    }

    /// Sends commands together and waits for their answers, including errors.
    pub(crate) async fn run(&mut self, commands: &redis::Pipeline) -> Result<Vec<Value>, RedisError> {
        let Some(connection) = &mut self.connection else { return Err(std::io::Error::other(Discarded).into()) };
        self.busy = true;
        let answers = connection.send_packed_commands(commands, 0, commands.len()).await;
        self.busy = false;
        answers
    }

    /// Closes the connection instead of returning it to the pool.
    pub(crate) fn discard(mut self) {
        self.close();
    }

    fn close(&mut self) {
        drop(self.connection.take().map(deadpool_redis::Connection::take));
    }
}

impl Drop for BlockingConnection {
    fn drop(&mut self) {
        // Otherwise the server would hand the next messages to a read without a reader.
        if self.busy {
            self.close();
        }
    }
}

/// The result of [`Shard::unblock`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unblocked {
    /// The read waited, and has ended without a message.
    Ended,
    /// The client waits in no read: the read has not begun or has its answer, or the client is gone.
    NotWaiting,
    /// The client belongs to another server than the current one.
    Elsewhere,
}

#[derive(Debug, thiserror::Error)]
#[error("the host name resolves to another server now")]
struct HostMoved;

#[derive(Debug, thiserror::Error)]
#[error("readers use all {pool_size} connections of the pool, and need {needed}: raise pool_size")]
struct PoolExhausted {
    needed: usize,
    pool_size: usize,
}

/// How many connections the blocking reads use and want.
fn pool_use(server: &ServerConnection) -> BlockingConnections {
    let deadpool_redis::Status { max_size, size, available, waiting } = server.blocking.status();
    BlockingConnections::of(size - available + waiting, max_size)
}

impl Shard {
    /// A connection for blocking reads: `held`, if it belongs to the current `ServerConnection`, or one from the pool.
    pub(crate) async fn blocking(&self, held: Option<BlockingConnection>) -> Result<BlockingConnection, Fault> {
        let server = self.connection()?;
        if let Some(held) = held.filter(|held| held.generation == server.generation) {
            return Ok(held);
        }
        let connection = match BlockingConnection::take(&server, self.index, self.command_timeout()).await {
            Ok(connection) => connection,
            Err(PoolError::Timeout(TimeoutType::Wait)) => {
                // This read no longer waits.
                let needed = pool_use(&server).needed() + 1;
                self.report_need(needed);
                return Err(Fault::busy(PoolExhausted { needed, pool_size: self.requirements.pool_size }));
            }
            Err(error) => {
                self.suspect();
                let explained = ConnectError::from(error).explained(&server.client, self.command_timeout()).await;
                return Err(Fault::from(explained).into_outage());
            }
        };
        if connection.client.server != server.identity {
            let fault = Fault::unsent(HostMoved);
            self.mark_down(server.generation, fault.clone());
            connection.discard();
            return Err(fault);
        }
        Ok(connection)
    }

    /// The connections that blocking reads use now; `None` while the server is down, or without blocking reads.
    pub(crate) fn blocking_connections(&self) -> Option<BlockingConnections> {
        let server = self.connection().ok().filter(|_| self.requirements.writable)?;
        Some(pool_use(&server))
    }

    /// Logs that readers need more connections than the pool has: when that first happens, and when they need twice as
    /// many as the log says.
    fn report_need(&self, needed: usize) {
        let grown = |reported| (needed >= 2 * reported).then_some(needed);
        if self.reported_need.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown).is_ok() {
            let (shard, host, pool_size) = (self.index, self.host(), self.requirements.pool_size);
            tracing::warn!(
                shard,
                host,
                needed,
                pool_size,
                "readers need more connections than the pool has, and further readers get errors: raise pool_size"
            );
        }
    }

    /// Ends the read in which `client` waits. Sends nothing to another server, where another client may have the same
    /// id.
    ///
    /// While writes are paused (`CLIENT PAUSE`), Redis 7.0 crashes when a postponed read is ended. So a write precedes
    /// the `CLIENT UNBLOCK`: the server postpones it, and with it the following commands of the connection. The epoch
    /// is a string, so `ZREM` changes nothing. In a cluster the epoch may be on another node by now. A node postpones a
    /// script without keys as it does a write.
    pub(crate) async fn unblock(&self, client: &ServerClient) -> Result<Unblocked, Fault> {
        let server = self.connection()?;
        if server.identity != client.server {
            return Ok(Unblocked::Elsewhere);
        }
        let mut commands = redis::pipe();
        match &self.requirements.epoch_key {
            Some(key) if !self.requirements.is_cluster() => commands.cmd("ZREM").arg(key).arg(""),
            _ => commands.cmd("EVAL").arg("return 0").arg(0),
        };
        commands.cmd("CLIENT").arg("UNBLOCK").arg(client.id);
        let answer = self.run_each(&commands, commands.len(), Some(server.generation)).await.pop();
        let ended = matches!(answer.transpose()?, Some(Value::Int(1)));
        Ok(if ended { Unblocked::Ended } else { Unblocked::NotWaiting })
    }

    /// Reports that a blocking read on a connection of `generation` failed with `fault`, so that the connection has to
    /// be replaced. If the connection broke, the others may work. If the server refused the read, as a master that
    /// became a replica does, it refuses the reads on all of them.
    pub(crate) fn read_failed(&self, generation: u64, fault: &Fault) {
        if fault.may_have_run {
            self.suspect();
        } else {
            self.mark_down(generation, fault.clone());
        }
    }

    /// How long one blocking read waits.
    pub(crate) fn blocking_timeout(&self) -> Duration {
        self.requirements.timing.blocking
    }

    /// How long after its timeout a blocking read may be answered.
    pub(crate) fn answer_time(&self) -> Duration {
        self.requirements.timing.answer()
    }
}
