//! Commands over a link: their answers, how long these take, and trying again what cannot have run.

use std::time::{Duration, Instant};

use redis::{Cmd, RedisError, Value};
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::redis::node::connection::ServerConnection;
use crate::redis::node::fault::Fault;

/// The longest pause before a command is tried again.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// What is left of trying a command again.
pub(crate) struct Retry<'s> {
    attempts: usize,
    backoff: Backoff,
    hurry: &'s CancellationToken,
}

impl<'s> Retry<'s> {
    /// So many attempts, the first after the pause `first`, until `hurry` is cancelled.
    pub(crate) fn new(attempts: usize, first: Duration, hurry: &'s CancellationToken) -> Self {
        Self { attempts, backoff: Backoff::new(first, LONGEST_PAUSE), hurry }
    }

    /// Waits for the next attempt; there is none after what may have run, nor when the layer closes.
    pub(crate) async fn wait_after(&mut self, fault: &Fault) -> bool {
        if fault.may_have_run || self.attempts == 0 {
            return false;
        }
        self.attempts -= 1;
        self.hurry.run_until_cancelled(tokio::time::sleep(self.backoff.pause())).await.is_some()
    }
}

/// Measures a command that was sent when `asked`, and is answered now.
pub(crate) fn record_round_trip(asked: Instant) {
    metrics::histogram!("channel_layer_round_trip_seconds").record(asked.elapsed());
}

/// The answer to `command`, or the error that it is.
pub(crate) async fn answer(link: &mut ServerConnection, command: &Cmd) -> Result<Value, RedisError> {
    link.commands.send_packed_command(command).await?.extract_error()
}

/// The answers to `commands`, or the first error among them.
pub(crate) async fn answers(link: &mut ServerConnection, commands: &redis::Pipeline) -> Result<Vec<Value>, RedisError> {
    let answers = link.commands.send_packed_commands(commands, 0, commands.len()).await?;
    answers.into_iter().map(Value::extract_error).collect()
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

/// What the commands of a transaction gave, from the answers to `MULTI`, to each of them and to `EXEC`. If one was refused,
/// none has run.
pub(crate) fn executed(mut answers: Vec<Value>) -> Result<Vec<Value>, RedisError> {
    let executed = answers.pop();
    for answer in answers {
        answer.extract_error()?;
    }
    match executed {
        Some(Value::Array(values)) => Ok(values),
        Some(Value::ServerError(error)) => Err(error.into()),
        _ => Err((redis::ErrorKind::UnexpectedReturnType, "EXEC gave something else than a list").into()),
    }
}

/// Whether the server does not know a script, so that the command has not run.
pub(crate) fn is_unknown_script(error: &RedisError) -> bool {
    error.kind() == redis::ErrorKind::Server(redis::ServerErrorKind::NoScript)
}
