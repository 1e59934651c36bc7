//! Reads that wait for messages, on connections of their own.

use std::time::Duration;

use deadpool_redis::{PoolError, TimeoutType};
use redis::{RedisError, Value};

use crate::redis::node::connect_error::ConnectError;
use crate::redis::node::connection::{Heard, Identity, ServerConnection};
use crate::redis::node::fault::Fault;
use crate::redis::node::shard::Shard;

/// A connection that blocks in one read at a time, and the id by which the server can be told to end that read.
pub(crate) struct BlockingConnection {
    /// The link that it belongs to.
    pub(crate) generation: u64,
    /// When something was last heard over that link.
    pub(crate) heard: Heard,
    pub(crate) client: ServerClient,
    /// `None` once it is closed.
    connection: Option<deadpool_redis::Connection>,
    /// Whether commands have been sent whose answers have not come.
    busy: bool,
}

#[derive(Debug, thiserror::Error)]
#[error("the connection is closed")]
struct Discarded;

/// A connection as its server knows it.
#[derive(Clone, Debug)]
pub(crate) struct ServerClient {
    pub(crate) server: Identity,
    pub(crate) id: i64,
}

impl BlockingConnection {
    /// Takes a connection from the pool of `link` or opens one, which answers within `patience`.
    pub(crate) async fn take(link: &ServerConnection, patience: Duration) -> Result<Self, PoolError> {
        let mut connection = link.blocking.get().await?;
        let mut commands = redis::pipe();
        commands.cmd("CLIENT").arg("ID").cmd("INFO").arg("server");
        let told = tokio::time::timeout(patience, commands.query_async::<(i64, String)>(&mut connection)).await;
        let (id, info) = told.map_err(|_| PoolError::Timeout(TimeoutType::Recycle))?.map_err(PoolError::Backend)?;
        // A name may lead to another server now than when the link was made.
        let client = ServerClient { server: Identity::in_info(&info), id };
        Ok(Self {
            generation: link.generation,
            heard: link.heard.clone(),
            client,
            connection: Some(connection),
            busy: false,
        })
    }

    /// Sends commands together and waits for their answers, errors among them.
    pub(crate) async fn run(&mut self, commands: &redis::Pipeline) -> Result<Vec<Value>, RedisError> {
        let Some(connection) = &mut self.connection else { return Err(std::io::Error::other(Discarded).into()) };
        self.busy = true;
        let answers = connection.send_packed_commands(commands, 0, commands.len()).await;
        self.busy = false;
        answers
    }

    /// Closes the connection instead of giving it back.
    pub(crate) fn discard(mut self) {
        self.close();
    }

    fn close(&mut self) {
        drop(self.connection.take().map(deadpool_redis::Connection::take));
    }
}

impl Drop for BlockingConnection {
    fn drop(&mut self) {
        // The server would give what comes to a read that nobody hears of.
        if self.busy {
            self.close();
        }
    }
}

/// What became of the read of a client that was told to end it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unblocked {
    /// It waited and has taken nothing.
    Ended,
    /// It does not wait: it has not begun, has its answer, or is not there any more.
    NotWaiting,
    /// It is a client of another server than the one that is here now.
    Elsewhere,
}

#[derive(Debug, thiserror::Error)]
#[error("its name leads to another server now")]
struct NameMoved;

#[derive(Debug, thiserror::Error)]
#[error("all {0} connections of pool_size are taken by readers that wait")]
struct AllTaken(usize);

impl Shard {
    /// A connection for blocking reads: `held`, if it still belongs to the present link.
    pub(crate) async fn blocking(&self, held: Option<BlockingConnection>) -> Result<BlockingConnection, Fault> {
        let link = self.link()?;
        if let Some(held) = held.filter(|held| held.generation == link.generation) {
            return Ok(held);
        }
        let connection = match BlockingConnection::take(&link, self.patience()).await {
            Ok(connection) => connection,
            Err(PoolError::Timeout(TimeoutType::Wait)) => return Err(Fault::busy(AllTaken(self.needs.pool_size))),
            Err(error) => {
                self.suspect();
                let explained = ConnectError::from(error).explained(&link.client, self.patience()).await;
                return Err(Fault::from(explained).of_an_outage());
            }
        };
        if connection.client.server != link.identity {
            let fault = Fault::unsent(NameMoved);
            self.lost(link.generation, fault.clone());
            connection.discard();
            return Err(fault);
        }
        Ok(connection)
    }

    /// Ends the read in which `client` waits. A client of another server may have the same id, and is left alone.
    ///
    /// While writes are paused (`CLIENT PAUSE`), Redis 7.0 crashes when a postponed read is ended. So a write comes
    /// first, which the server postpones as well, and with it what follows on the connection. The epoch is a string, so
    /// that `ZREM` changes nothing.
    pub(crate) async fn unblock(&self, client: &ServerClient) -> Result<Unblocked, Fault> {
        let link = self.link()?;
        if link.identity != client.server {
            return Ok(Unblocked::Elsewhere);
        }
        let mut commands = redis::pipe();
        if let Some(key) = &self.needs.epoch_key {
            commands.cmd("ZREM").arg(key).arg("");
        }
        commands.cmd("CLIENT").arg("UNBLOCK").arg(client.id);
        let answer = self.run_each(&commands, commands.len(), Some(link.generation)).await.pop();
        let ended = matches!(answer.transpose()?, Some(Value::Int(1)));
        Ok(if ended { Unblocked::Ended } else { Unblocked::NotWaiting })
    }

    /// Notes that a blocking read by a connection of `generation` ended with `fault` and the connection is of no more use.
    /// It may have broken alone, but what a server refuses on one, as a master that became a replica does, it refuses on
    /// all.
    pub(crate) fn read_failed(&self, generation: u64, fault: &Fault) {
        if fault.may_have_run {
            self.suspect();
        } else {
            self.lost(generation, fault.clone());
        }
    }

    /// How long one blocking read waits.
    pub(crate) fn blocking_timeout(&self) -> Duration {
        self.needs.timing.blocking
    }

    /// How long the answer of a blocking read may be on its way.
    pub(crate) fn answer_time(&self) -> Duration {
        self.needs.timing.answer()
    }
}
