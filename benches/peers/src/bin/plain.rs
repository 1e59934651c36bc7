//! The work of a layer by hand: commands over one connection of redis-rs that all tasks share.

use std::sync::Arc;
use std::time::Duration;

use peers::clock;
use peers::conversation::{Failure, Program, hold};
use peers::message::{Mark, body, mark_of};
use peers::arrivals::Arrivals;
use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::task::JoinSet;

#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
enum Command {
    Connect { redis: String },
    Receive { channel: String, mark: Mark },
    Progress,
    Collect,
    Send { channels: Vec<String>, count: usize, senders: usize, size: usize, mark: Mark },
    Ping { count: usize, gap_us: u64 },
}

#[derive(Default)]
struct Participant {
    client: Option<redis::Client>,
    connection: Option<MultiplexedConnection>,
    arrivals: Arc<Arrivals>,
}

impl Program for Participant {
    type Command = Command;

    async fn answer(&mut self, command: Command) -> Result<Value, Failure> {
        match command {
            Command::Connect { redis } => {
                let client = redis::Client::open(redis)?;
                self.connection = Some(client.get_multiplexed_async_connection().await?);
                self.client = Some(client);
                Ok(json!({}))
            }
            Command::Receive { channel, mark } => self.receive(channel, mark).await,
            Command::Progress => Ok(self.arrivals.progress()),
            Command::Collect => Ok(self.arrivals.take()),
            Command::Send { channels, count, senders, size, mark } => {
                rpush(self.connection()?, channels, Messages { count, size, mark }, senders).await
            }
            Command::Ping { count, gap_us } => ping(self.connection()?, count, gap_us).await,
        }
    }
}

impl Participant {
    fn connection(&self) -> Result<MultiplexedConnection, Failure> {
        Ok(self.connection.clone().ok_or("not connected")?)
    }

    /// Reads one message at a time, over a separate connection.
    async fn receive(&self, key: String, mark: Mark) -> Result<Value, Failure> {
        let client = self.client.as_ref().ok_or("not connected")?;
        // Without a response timeout, because blocking reads end by themselves.
        let blocking = AsyncConnectionConfig::new().set_response_timeout(None);
        let (connection, arrivals) =
            (client.get_multiplexed_async_connection_with_config(&blocking).await?, self.arrivals.clone());
        tokio::spawn(async move {
            if let Err(error) = pop(connection, &key, mark, &arrivals).await {
                arrivals.fail(error);
            }
        });
        Ok(json!({}))
    }
}

#[derive(Clone, Copy)]
struct Messages {
    count: usize,
    size: usize,
    mark: Mark,
}

async fn pop(mut connection: MultiplexedConnection, key: &str, mark: Mark, arrivals: &Arrivals) -> redis::RedisResult<()> {
    let mut command = redis::cmd("BLMPOP");
    command.arg(5).arg(1).arg(key).arg("LEFT").arg("COUNT").arg(1);
    loop {
        let popped: Option<(String, Vec<Vec<u8>>)> = command.query_async(&mut connection).await?;
        for body in popped.into_iter().flat_map(|(_, bodies)| bodies) {
            arrivals.add_marked(mark, mark_of(&body).unwrap_or_default());
        }
    }
}

async fn rpush(
    connection: MultiplexedConnection,
    channels: Vec<String>,
    all: Messages,
    senders: usize,
) -> Result<Value, Failure> {
    let start = clock::now();
    let mut tasks = JoinSet::new();
    for sender in 0..senders {
        let (mut connection, key) = (connection.clone(), channels[sender % channels.len()].clone());
        tasks.spawn(async move {
            let same = body(all.size, Mark::None, 0);
            for id in (sender..all.count).step_by(senders) {
                let mut command = redis::cmd("RPUSH");
                command.arg(&key);
                match all.mark {
                    Mark::None => command.arg(&same),
                    mark => command.arg(body(all.size, mark, id as u64)),
                };
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

/// Sends one `PING` at a time, with a pause before each.
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
