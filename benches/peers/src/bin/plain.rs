//! What a user would write by hand: commands over one connection of redis-rs that all tasks share.

use std::time::Duration;

use peers::clock;
use peers::conversation::{Failure, Program, hold};
use peers::message::{Mark, body};
use redis::aio::MultiplexedConnection;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::task::JoinSet;

#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
enum Command {
    Connect { redis: String },
    Send { channels: Vec<String>, count: usize, senders: usize, size: usize },
    Ping { count: usize, gap_us: u64 },
}

#[derive(Default)]
struct Participant(Option<MultiplexedConnection>);

impl Program for Participant {
    type Command = Command;

    async fn answer(&mut self, command: Command) -> Result<Value, Failure> {
        match command {
            Command::Connect { redis } => {
                self.0 = Some(redis::Client::open(redis)?.get_multiplexed_async_connection().await?);
                Ok(json!({}))
            }
            Command::Send { channels, count, senders, size } => {
                rpush(self.connection()?, channels, count, senders, size).await
            }
            Command::Ping { count, gap_us } => ping(self.connection()?, count, gap_us).await,
        }
    }
}

impl Participant {
    fn connection(&self) -> Result<MultiplexedConnection, Failure> {
        Ok(self.0.clone().ok_or("not connected")?)
    }
}

async fn rpush(
    connection: MultiplexedConnection,
    channels: Vec<String>,
    count: usize,
    senders: usize,
    size: usize,
) -> Result<Value, Failure> {
    let start = clock::now();
    let mut tasks = JoinSet::new();
    for sender in 0..senders {
        let (mut connection, key) = (connection.clone(), channels[sender % channels.len()].clone());
        tasks.spawn(async move {
            let body = body(size, Mark::None, 0);
            for _ in (sender..count).step_by(senders) {
                let mut command = redis::cmd("RPUSH");
                command.arg(&key).arg(&body);
                let _: i64 = command.query_async(&mut connection).await?;
            }
            Ok::<_, redis::RedisError>(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(json!({ "start": start, "end": clock::now() }))
}

/// One after the other, with a pause before each.
async fn ping(mut connection: MultiplexedConnection, count: usize, gap_us: u64) -> Result<Value, Failure> {
    let mut nanos = Vec::with_capacity(count);
    for _ in 0..count {
        tokio::time::sleep(Duration::from_micros(gap_us)).await;
        let before = clock::now();
        let _: String = redis::cmd("PING").query_async(&mut connection).await?;
        nanos.push(clock::now() - before);
    }
    Ok(json!({ "nanos": nanos }))
}

#[tokio::main]
async fn main() {
    hold(Participant::default()).await;
}
