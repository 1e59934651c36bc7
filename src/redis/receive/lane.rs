//! Reading some channels of one shard.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use redis::{Cmd, RedisError, Value};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use crate::layer::Event;
use crate::name::ChannelName;
use crate::redis::connection::BlockingConnection;
use crate::redis::fault::Fault;
use crate::redis::shard::Shard;

/// A read aims at so many bytes, so that large messages come a few at a time.
const READ_BYTES: usize = 1 << 20;
/// The most entries that one read takes ahead.
const MOST_AHEAD: usize = 256;
const FIRST_AHEAD: usize = 16;
/// Pauses between attempts after a failure, doubling from the first to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Channels of one shard that are read together: either all have one reader, or none has.
pub(super) struct Lane {
    pub(super) shard: Arc<Shard>,
    channels: Vec<ChannelName>,
    keys: Vec<String>,
    /// The channel that is looked at first in the next read: the one behind that which gave something last.
    first: usize,
    connection: Option<BlockingConnection>,
    /// Whether its channels have one reader, who gets nothing while the shard is away.
    pub(super) has_one_reader: bool,
    /// How many entries to take ahead of demand; nothing where messages are for whoever asks first.
    ahead: Option<usize>,
    pause: Duration,
    events: broadcast::Sender<Event>,
}

/// What one read brought: entries of one channel, in order.
#[derive(Debug)]
pub(super) struct Popped {
    pub(super) channel: ChannelName,
    pub(super) entries: Vec<Bytes>,
}

impl Lane {
    /// A lane over `channels` with these `keys`; it reads `ahead` of demand if their only reader wants much.
    pub(super) fn new(
        shard: Arc<Shard>,
        channels: Vec<ChannelName>,
        keys: Vec<String>,
        ahead: bool,
        events: broadcast::Sender<Event>,
    ) -> Self {
        let ahead = ahead.then_some(FIRST_AHEAD);
        let has_one_reader = channels.iter().any(|channel| channel.kind().has_one_reader());
        Self { has_one_reader, shard, channels, keys, first: 0, connection: None, ahead, pause: FIRST_PAUSE, events }
    }

    /// Takes up to `wanted` entries that are there now.
    ///
    /// Not cancel safe: what Redis answers to a dropped future is lost.
    pub(super) async fn take(&mut self, wanted: usize) -> Result<Option<Popped>, Fault> {
        let mut command = redis::cmd("LMPOP");
        self.add_channels(&mut command, wanted);
        match self.shard.run(&command).await {
            Ok(answer) => self.parse(answer),
            Err(fault) => {
                self.announce(fault.may_have_run);
                Err(fault)
            }
        }
    }

    /// Waits for entries and takes up to `wanted`, or somewhat more if it reads ahead; gives nothing when the wait
    /// has been long or `stop` is cancelled.
    ///
    /// Not cancel safe: what Redis answers to a dropped future is lost.
    pub(super) async fn wait(&mut self, wanted: usize, stop: &CancellationToken) -> Result<Option<Popped>, Fault> {
        match self.wait_once(wanted, stop).await {
            // A connection may break alone: what a second one meets is the state of the server.
            Err(fault) if fault.broken && !stop.is_cancelled() => self.wait_once(wanted, stop).await,
            result => result,
        }
    }

    async fn wait_once(&mut self, wanted: usize, stop: &CancellationToken) -> Result<Option<Popped>, Fault> {
        let mut connection = self.shard.blocking(self.connection.take()).await?;
        let mut command = redis::cmd("BLMPOP");
        command.arg(self.shard.blocking_timeout().as_secs_f64());
        self.add_channels(&mut command, wanted);
        let answer = read(&self.shard, &mut connection, &command, stop).await.map_err(Fault::from);
        match answer {
            Err(fault) if fault.broken => {
                connection.discard();
                self.shard.suspect();
                self.announce(fault.may_have_run);
                Err(fault)
            }
            answer => {
                self.connection = Some(connection);
                self.parse(answer?)
            }
        }
    }

    /// Waits until another attempt makes sense; tells whether it does, and not `stop` has ended the wait.
    pub(super) async fn recover(&mut self, stop: &CancellationToken) -> bool {
        let attempt = async {
            tokio::time::sleep(self.pause).await;
            self.shard.up().await;
        };
        let recovered = stop.run_until_cancelled(attempt).await.is_some();
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        recovered
    }

    /// Gives the connection back to those who wait for one.
    pub(super) fn release(&mut self) {
        self.connection = None;
    }

    /// Whether it holds a connection.
    pub(super) fn is_connected(&self) -> bool {
        self.connection.is_some()
    }

    fn add_channels(&self, command: &mut Cmd, wanted: usize) {
        command.arg(self.keys.len());
        for step in 0..self.keys.len() {
            command.arg(&self.keys[(self.first + step) % self.keys.len()]);
        }
        let count = self.ahead.map_or(wanted, |ahead| ahead.max(wanted)).clamp(1, MOST_AHEAD);
        command.arg("LEFT").arg("COUNT").arg(count);
    }

    fn parse(&mut self, answer: Value) -> Result<Option<Popped>, Fault> {
        let unexpected = || Fault::unexpected("a pop gave something else than a key and a list");
        self.pause = FIRST_PAUSE;
        let Value::Array(parts) = answer else {
            return if answer == Value::Nil { Ok(None) } else { Err(unexpected()) };
        };
        let Ok([Value::BulkString(key), Value::Array(values)]) = <[Value; 2]>::try_from(parts) else {
            return Err(unexpected());
        };
        let place = self.keys.iter().position(|known| known.as_bytes() == key).ok_or_else(unexpected)?;
        self.first = (place + 1) % self.keys.len();
        let entries = values.into_iter().filter_map(|value| match value {
            Value::BulkString(entry) => Some(Bytes::from(entry)),
            _ => None,
        });
        let entries: Vec<_> = entries.collect();
        self.look_ahead(&entries);
        Ok(Some(Popped { channel: self.channels[place].clone(), entries }))
    }

    fn look_ahead(&mut self, entries: &[Bytes]) {
        if let Some(ahead) = &mut self.ahead {
            let bytes: usize = entries.iter().map(Bytes::len).sum();
            *ahead = (READ_BYTES * entries.len() / bytes.max(1)).clamp(1, MOST_AHEAD);
        }
    }

    /// Tells that what Redis may have popped for a connection that broke is lost.
    fn announce(&self, may_have_popped: bool) {
        if may_have_popped {
            let event = Event::ReadInterrupted {
                shard: self.shard.index,
                channels: self.channels.clone(),
                at: SystemTime::now(),
            };
            let _ = self.events.send(event);
        }
    }
}

/// Runs a blocking read; a cancelled `stop` ends the wait on the server, so that the answer is always heard.
async fn read(
    shard: &Shard,
    connection: &mut BlockingConnection,
    command: &Cmd,
    stop: &CancellationToken,
) -> Result<Value, RedisError> {
    let unblock = connection.unblock();
    let mut answer = std::pin::pin!(connection.run(command));
    tokio::select! {
        biased;
        answer = &mut answer => return answer,
        () = stop.cancelled() => {}
    }
    // A command that the server has not begun yet is not ended, so that it has to be told again.
    loop {
        shard.unblock(&unblock).await;
        tokio::select! {
            answer = &mut answer => return answer,
            () = tokio::time::sleep(Duration::from_millis(20)) => {}
        }
    }
}
