//! The dedicated connection of a fetch loop: how reads run on it, and what follows when it breaks.

use std::time::Duration;

use redis::{Pipeline, RedisError, Value};
use tokio_util::sync::CancellationToken;

use super::blocking_read::{is_unblocked, read};
use super::fetch_loop::FetchLoop;
use crate::redis::node::commands::request::{asking_before_each, without_asking};
use crate::redis::node::fault::Fault;

/// The pauses between attempts after a failure, which double from the first to the longest.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

impl FetchLoop {
    /// Runs commands on the connection of this fetch loop, and checks the answers.
    pub(super) async fn run(
        &mut self,
        commands: &Pipeline,
        check: fn(Vec<Value>) -> Result<Vec<Value>, RedisError>,
        stop: &CancellationToken,
    ) -> Result<Vec<Value>, Fault> {
        self.unblock_discarded().await?;
        let mut connection = self.shard.blocking(self.connection.take()).await?;
        self.reading = true;
        let answers = if self.asking {
            read(&self.shard, &mut connection, &asking_before_each(commands), stop).await.map(without_asking)
        } else {
            read(&self.shard, &mut connection, commands, stop).await
        };
        let is_closing = answers.as_ref().is_ok_and(|answers| is_unblocked(answers));
        match answers.and_then(check).map_err(Fault::from) {
            Err(fault) if fault.broken => {
                self.shard.read_failed(connection.generation, &fault);
                // The server may still wait, and pop a message whose answer would be lost.
                self.discarded = Some((self.shard.clone(), connection.client.clone()));
                connection.discard();
                self.interrupted(fault.may_have_run);
                Err(fault)
            }
            // A server that becomes a replica ends the waits of its clients, and closes their connections.
            answer if is_closing => {
                connection.discard();
                answer
            }
            answer => {
                self.connection = Some(connection);
                answer
            }
        }
    }

    /// Ends the read of a discarded connection on the server, because a message that it popped would be lost.
    async fn unblock_discarded(&mut self) -> Result<(), Fault> {
        if let Some((shard, client)) = &self.discarded {
            match shard.unblock(client).await {
                // If the channel has moved, nothing depends on the old shard.
                Err(fault) if fault.outage && shard.index == self.shard.index => return Err(fault),
                _ => self.discarded = None,
            }
        }
        Ok(())
    }

    /// Waits until another attempt makes sense: when the shard has another shared connection, or after a pause with the
    /// same one. Returns `false` if `stop` ended the wait.
    pub(crate) async fn recover(&mut self, stop: &CancellationToken) -> bool {
        let (context, name) = (self.context.clone(), self.name().to_owned());
        let (shard, generation) = (self.shard.clone(), self.generation);
        let attempt = async {
            if let Some(generation) = generation {
                tokio::select! {
                    () = tokio::time::sleep(self.retry_pause) => self.retry_pause = (self.retry_pause * 2).min(LONGEST_PAUSE),
                    _ = shard.wait_until_lost(generation) => {}
                }
            }
            context.places.up(&shard, &name).await;
        };
        stop.run_until_cancelled(attempt).await.is_some()
    }
}
