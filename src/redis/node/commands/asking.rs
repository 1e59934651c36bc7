//! `Node`: a server that runs a command, possibly for a slot of a cluster that is being migrated to it.

use redis::{Cmd, Value};

use crate::redis::node::commands::request::Request;
use crate::redis::node::fault::Fault;
use crate::redis::node::shard::Shard;

/// A server, and how commands reach it.
#[derive(Clone, Copy, Debug)]
pub struct Node<'s> {
    pub(crate) shard: &'s Shard,
    /// Whether the commands are preceded by `ASKING`, because their slot is being migrated to the server.
    pub(crate) asking: bool,
}

impl<'s> Node<'s> {
    /// The server that is responsible for the keys of the commands.
    pub(crate) fn owner(shard: &'s Shard) -> Self {
        Self { shard, asking: false }
    }

    /// As [`Shard::run_once`].
    pub(crate) async fn run_once<R: Request>(self, request: &R) -> Result<R::Answer, Fault> {
        self.shard.attempt(request, self.asking).await
    }

    /// Runs commands in one transaction, without retries, and returns their answers, including errors.
    pub(crate) async fn run_transaction(self, commands: Vec<Cmd>) -> Result<Vec<Value>, Fault> {
        self.shard.attempt_transaction(commands, self.asking).await
    }
}
