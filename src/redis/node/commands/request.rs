//! `Request`: commands of one round trip, and how their answers are read and timed. `Retry`: the retries of a command
//! that cannot have run.

use std::time::Duration;

use redis::{Cmd, RedisError, Value};
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::redis::node::connection::ServerConnection;
use crate::redis::node::fault::Fault;

/// The longest pause before a retry.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// The retries that a command has left.
pub(crate) struct Retry<'s> {
    attempts: usize,
    backoff: Backoff,
    cancelled: &'s CancellationToken,
}

impl<'s> Retry<'s> {
    /// `attempts` retries until `cancelled` is cancelled. The pause before the first one is `first`.
    pub(crate) fn new(attempts: usize, first: Duration, cancelled: &'s CancellationToken) -> Self {
        Self { attempts, backoff: Backoff::new(first, LONGEST_PAUSE), cancelled }
    }

    /// Waits until the next retry is due. Returns `false` if there is none: the command may have run or is refused for
    /// good, no retry is left, or retries are cancelled.
    pub(crate) async fn wait_after(&mut self, fault: &Fault) -> bool {
        if !fault.is_retryable() || self.attempts == 0 {
            return false;
        }
        self.attempts -= 1;
        self.cancelled.run_until_cancelled(tokio::time::sleep(self.backoff.pause())).await.is_some()
    }
}

/// Records how long the answer to a command took.
pub(crate) fn record_round_trip(round_trip: Duration) {
    metrics::histogram!("channel_layer_round_trip_seconds").record(round_trip);
}

/// One command, or a pipeline of commands that travel in one round trip.
pub(crate) trait Request: Sync {
    type Answer: Send;

    /// Sends the commands over `connection`, and returns the answer or the first error answer. With `asking`, each
    /// command is preceded by `ASKING`.
    fn send_over(
        &self,
        connection: &mut ServerConnection,
        asking: bool,
    ) -> impl Future<Output = Result<Self::Answer, RedisError>> + Send;
}

impl Request for Cmd {
    type Answer = Value;

    async fn send_over(&self, connection: &mut ServerConnection, asking: bool) -> Result<Value, RedisError> {
        if !asking {
            return connection.commands.send_packed_command(self).await?.extract_error();
        }
        let mut alone = redis::pipe();
        alone.add_command(self.clone());
        Ok(alone.send_over(connection, true).await?.pop().unwrap_or(Value::Nil))
    }
}

impl Request for redis::Pipeline {
    type Answer = Vec<Value>;

    async fn send_over(&self, connection: &mut ServerConnection, asking: bool) -> Result<Vec<Value>, RedisError> {
        let commands = &mut connection.commands;
        let answers = if asking {
            let asking = asking_before_each(self);
            without_asking(commands.send_packed_commands(&asking, 0, asking.len()).await?)
        } else {
            commands.send_packed_commands(self, 0, self.len()).await?
        };
        answers.into_iter().map(Value::extract_error).collect()
    }
}

/// `commands`, each of them behind `ASKING`, with which a node runs it for a slot that is being migrated to it.
pub(crate) fn asking_before_each(commands: &redis::Pipeline) -> redis::Pipeline {
    let mut asking = redis::pipe();
    for command in commands.cmd_iter() {
        asking.cmd("ASKING").add_command(command.clone());
    }
    asking
}

/// The answers to the commands of [`asking_before_each`], without those to `ASKING`.
pub(crate) fn without_asking(answers: Vec<Value>) -> Vec<Value> {
    answers.into_iter().skip(1).step_by(2).collect()
}

/// `commands` in one transaction. With `asking`, it is preceded by `ASKING`, which holds up to its end.
pub(crate) fn transaction(commands: Vec<Cmd>, asking: bool) -> redis::Pipeline {
    let mut transaction = redis::pipe();
    if asking {
        transaction.cmd("ASKING");
    }
    transaction.cmd("MULTI");
    for command in commands {
        transaction.add_command(command);
    }
    transaction.cmd("EXEC");
    transaction
}

/// The results of the commands of a transaction. `answers` are those to `MULTI`, to each command and to `EXEC`. If one
/// command was refused, none has run.
pub(crate) fn executed(mut answers: Vec<Value>) -> Result<Vec<Value>, RedisError> {
    let executed = answers.pop();
    for answer in answers {
        answer.extract_error()?;
    }
    match executed {
        Some(Value::Array(values)) => Ok(values),
        Some(Value::ServerError(error)) => Err(error.into()),
        _ => Err((redis::ErrorKind::UnexpectedReturnType, "EXEC did not return a list").into()),
    }
}

/// Whether the server does not know the script. The command has not run.
pub(crate) fn is_unknown_script(error: &RedisError) -> bool {
    error.kind() == redis::ErrorKind::Server(redis::ServerErrorKind::NoScript)
}
