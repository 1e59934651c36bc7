//! One read on a connection of its own, to its end: an answer that nobody hears is lost.

use std::time::Duration;

use redis::{Pipeline, RedisError, Value};
use tokio_util::sync::CancellationToken;

use crate::redis::node::blocking::{BlockingConnection, Unblocked};
use crate::redis::node::shard::Shard;

/// The pause before the server is told again to end a read.
const TELL_AGAIN: Duration = Duration::from_millis(20);

/// Runs commands, of which the first may wait for messages. A cancelled `stop` ends the wait on the server, so that the
/// answer is always heard. So does the end of the link that the connection belongs to, over the next one, since nothing else
/// may tell that the connection is dead too. The answer then has to come within the time of an answer, counted from when
/// something was last heard over that link.
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
        _ = shard.gone(generation) => {}
    }
    // A command that the server has not begun yet is not ended, so that it has to be told again.
    let tell = async {
        loop {
            // If it fails the read ends by its own timeout, or with its connection.
            let told = shard.unblock(&client).await;
            if matches!(told, Ok(Unblocked::Ended)) && shard.generation().is_ok_and(|now| now != generation) {
                // It has ended with nothing, whether or not that can be heard.
                return Ok(Vec::new());
            }
            tokio::time::sleep(TELL_AGAIN).await;
        }
    };
    let late = async {
        shard.gone(generation).await;
        tokio::time::sleep_until(heard.last() + shard.answer_time()).await;
    };
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        ended = tell => ended,
        () = late => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
    }
}

/// The answers to a wait and to what was asked behind it, or the error that the first is. It is nothing if anybody ended
/// the wait on the server.
pub(crate) fn wait_answers(mut answers: Vec<Value>) -> Result<Vec<Value>, RedisError> {
    if let Some(first) = answers.first_mut() {
        *first = match std::mem::replace(first, Value::Nil).extract_error() {
            Err(error) if error.code() == Some("UNBLOCKED") => Value::Nil,
            answer => answer?,
        };
    }
    Ok(answers)
}
