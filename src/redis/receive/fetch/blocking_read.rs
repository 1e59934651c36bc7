//! One blocking read on a dedicated connection, from the command to its answer. An answer that is not awaited is lost.

use std::time::Duration;

use redis::{Pipeline, RedisError, Value};
use tokio_util::sync::CancellationToken;

use crate::redis::node::connection::blocking::{BlockingConnection, Unblocked};
use crate::redis::node::shard::Shard;

/// The pause between attempts to unblock a read on the server.
const UNBLOCK_AGAIN: Duration = Duration::from_millis(20);

/// Runs commands. The first may wait for messages.
///
/// Two events make the server end the wait, over the shared connection: `stop` is cancelled, or the shared connection
/// of the same generation is lost. In the second case this dedicated connection may be dead too, without an error. The
/// read is then unblocked over the next shared connection, and fails if its answer is later than [`Shard::answer_time`]
/// after the last answer of the server to a probe.
pub(crate) async fn read(
    shard: &Shard,
    connection: &mut BlockingConnection,
    commands: &Pipeline,
    stop: &CancellationToken,
) -> Result<Vec<Value>, RedisError> {
    let (client, generation, heard) = (connection.client.clone(), connection.generation, connection.heard.clone());
    let mut answer = std::pin::pin!(connection.run(commands));
    tokio::select! {
        biased;
        answer = &mut answer => return answer,
        () = stop.cancelled() => {}
        _ = shard.wait_until_lost(generation) => {}
    }
    // The server does not unblock a command that it has not begun, so the request is repeated.
    let unblock = async {
        loop {
            // If the request fails, the read ends by its own timeout or with its connection.
            let unblocked = shard.unblock(&client).await;
            if matches!(unblocked, Ok(Unblocked::Ended)) && shard.generation().is_ok_and(|now| now != generation) {
                // The read has ended without messages, and its answer may never arrive.
                return Ok(Vec::new());
            }
            tokio::time::sleep(UNBLOCK_AGAIN).await;
        }
    };
    let late = async {
        shard.wait_until_lost(generation).await;
        tokio::time::sleep_until(heard.last() + shard.answer_time()).await;
    };
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        ended = unblock => ended,
        () = late => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
    }
}

/// Whether the server has ended the wait itself.
pub(crate) fn is_unblocked(answers: &[Value]) -> bool {
    matches!(answers.first(), Some(Value::ServerError(error)) if error.code() == "UNBLOCKED")
}

/// Checks the answers to a wait and to the commands behind it. If the first answer is an error, that is the result. A
/// wait that was unblocked counts as answered by nil.
pub(crate) fn wait_answers(mut answers: Vec<Value>) -> Result<Vec<Value>, RedisError> {
    let is_unblocked = is_unblocked(&answers);
    if let Some(first) = answers.first_mut() {
        let answer = std::mem::replace(first, Value::Nil);
        if !is_unblocked {
            *first = answer.extract_error()?;
        }
    }
    Ok(answers)
}
