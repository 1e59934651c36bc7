//! `Request`: commands of one round trip, and how their answers are read and timed. `Retry`: the retries of a command that
//! cannot have run.

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

    /// Waits until the next retry is due. Returns `false` if there is none: the command may have run or is refused for good, no
    /// retry is left, or retries are cancelled.
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

    /// Sends the commands over `connection`, and returns the answer or the first error answer.
    fn send_over(
        &self,
        connection: &mut ServerConnection,
    ) -> impl Future<Output = Result<Self::Answer, RedisError>> + Send;
}

impl Request for Cmd {
    type Answer = Value;

    async fn send_over(&self, connection: &mut ServerConnection) -> Result<Value, RedisError> {
        connection.commands.send_packed_command(self).await?.extract_error()
    }
}

impl Request for redis::Pipeline {
    type Answer = Vec<Value>;

    async fn send_over(&self, connection: &mut ServerConnection) -> Result<Vec<Value>, RedisError> {
        let answers = connection.commands.send_packed_commands(self, 0, self.len()).await?;
        answers.into_iter().map(Value::extract_error).collect()
    }
}

/// `commands` in one transaction.
pub(crate) fn transaction(commands: Vec<Cmd>) -> redis::Pipeline {
    let mut transaction = redis::pipe();
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
