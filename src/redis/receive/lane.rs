//! Reading some channels of one shard.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use redis::{Cmd, RedisError, Value};
use tokio_util::sync::CancellationToken;

use super::format::{Format, Popped, Raw};
use super::reader::Surroundings;
use crate::layer::Event;
use crate::name::ChannelName;
use crate::redis::connection::BlockingConnection;
use crate::redis::fault::Fault;
use crate::redis::shard::Shard;

/// A read aims at so many bytes, so that large messages come a few at a time: an answer that does not arrive in time is
/// lost, and all of it is in memory at once.
const READ_BYTES: usize = 1 << 20;
/// The most entries that one read takes.
const MOST_ENTRIES: usize = 256;
/// A read that knows nothing of the sizes takes so many bytes at most, if every message is as large as it may be.
const FIRST_BYTES: usize = 8 << 20;
/// How many times as many the next read takes at most.
const GROWTH: usize = 16;
/// Pauses between attempts after a failure, doubling from the first to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// The pause before the server is told again to end a read.
const TELL_AGAIN: Duration = Duration::from_millis(20);

/// Channels of one shard that are read together: either all have one reader, or none has.
pub(super) struct Lane {
    pub(super) shard: Arc<Shard>,
    channels: Vec<ChannelName>,
    keys: Vec<String>,
    /// The channel that is looked at first in the next read: the one behind that which gave something last.
    first: usize,
    connection: Option<BlockingConnection>,
    /// Ends the read on a connection that was given up.
    left_behind: Option<Cmd>,
    /// Whether its channels have one reader, who gets nothing while the shard is away.
    pub(super) has_one_reader: bool,
    /// How many entries one read may take, by the sizes of those that came last.
    fits: usize,
    /// Whether it takes as many as fit, and not only what is wanted; else messages are for whoever asks first.
    ahead: bool,
    /// The link over which the last read began; `None` if the shard was away.
    link: Option<u64>,
    pause: Duration,
    surroundings: Arc<Surroundings>,
}

/// What one read brought: messages of one channel, in order.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) channel: ChannelName,
    pub(super) raw: Vec<Raw>,
}

impl Lane {
    /// A lane over `channels` with these `keys`; it reads `ahead` of demand if their only reader wants much.
    pub(super) fn new(
        shard: Arc<Shard>,
        channels: Vec<ChannelName>,
        keys: Vec<String>,
        ahead: bool,
        surroundings: Arc<Surroundings>,
    ) -> Self {
        let has_one_reader = channels.iter().any(|channel| channel.kind().has_one_reader());
        Self {
            has_one_reader,
            shard,
            channels,
            keys,
            first: 0,
            connection: None,
            left_behind: None,
            fits: first_fits(&*surroundings.format),
            ahead,
            link: None,
            pause: FIRST_PAUSE,
            surroundings,
        }
    }

    /// Takes up to `wanted` entries that are there now.
    ///
    /// Not cancel safe: what Redis answers to a dropped future is lost.
    pub(super) async fn take(&mut self, wanted: usize) -> Result<Option<Read>, Fault> {
        let command = self.format().take(&self.rotated_keys(), self.count(wanted));
        self.link = self.shard.generation().ok();
        match self.shard.run_once(&command).await {
            Ok(answer) => self.parse(answer).await,
            Err(fault) => {
                self.interrupted(fault.may_have_run);
                Err(fault)
            }
        }
    }

    /// Waits for entries and takes up to `wanted`, or somewhat more if it reads ahead; gives nothing when the wait
    /// has been long or `stop` is cancelled.
    ///
    /// Not cancel safe: what Redis answers to a dropped future is lost.
    pub(super) async fn wait(&mut self, wanted: usize, stop: &CancellationToken) -> Result<Option<Read>, Fault> {
        self.link = self.shard.generation().ok();
        match self.wait_once(wanted, stop).await {
            // A connection may break alone: what a second one meets is the state of the server.
            Err(fault) if fault.broken && !stop.is_cancelled() => self.wait_once(wanted, stop).await,
            result => result,
        }
    }

    async fn wait_once(&mut self, wanted: usize, stop: &CancellationToken) -> Result<Option<Read>, Fault> {
        if self.format().takes_first(self.count(wanted))
            && let Some(read) = self.take(wanted).await?
        {
            return Ok(Some(read));
        }
        self.end_what_was_left_behind().await?;
        let mut connection = self.shard.blocking(self.connection.take()).await?;
        let timeout = self.shard.blocking_timeout();
        let command = self.format().wait(&self.rotated_keys(), self.count(wanted), timeout);
        let answer = read(&self.shard, &mut connection, &command, stop).await.map_err(Fault::from);
        match answer {
            Err(fault) if fault.broken => {
                self.shard.read_failed(connection.generation, &fault);
                // The server may go on waiting for messages that nobody would hear of.
                self.left_behind = Some(connection.unblock());
                connection.discard();
                self.interrupted(fault.may_have_run);
                Err(fault)
            }
            answer => {
                self.connection = Some(connection);
                self.parse(answer?).await
            }
        }
    }

    /// Ends the read on a connection that was given up, if the server still waits in it: what it gave there would be lost.
    /// Where it has come back since, the id may be that of another reader, which then begins its read again.
    async fn end_what_was_left_behind(&mut self) -> Result<(), Fault> {
        if let Some(unblock) = &self.left_behind {
            match self.shard.run_once(unblock).await {
                Err(fault) if fault.outage => return Err(fault),
                _ => self.left_behind = None,
            }
        }
        Ok(())
    }

    /// Waits until another attempt makes sense: at once when the shard has another link, after a pause over the same one.
    /// Returns `false` if `stop` has ended the wait.
    pub(super) async fn recover(&mut self, stop: &CancellationToken) -> bool {
        let (shard, link) = (self.shard.clone(), self.link);
        let attempt = async {
            if let Some(link) = link {
                tokio::select! {
                    () = tokio::time::sleep(self.pause) => self.pause = (self.pause * 2).min(LONGEST_PAUSE),
                    _ = shard.gone(link) => {}
                }
            }
            shard.up().await;
        };
        stop.run_until_cancelled(attempt).await.is_some()
    }

    /// Gives the connection back to those who wait for one.
    pub(super) fn release(&mut self) {
        self.connection = None;
    }

    /// Whether it holds a connection.
    pub(super) fn is_connected(&self) -> bool {
        self.connection.is_some()
    }

    fn format(&self) -> &dyn Format {
        &*self.surroundings.format
    }

    fn rotated_keys(&self) -> Vec<&str> {
        let (before, from) = self.keys.split_at(self.first);
        from.iter().chain(before).map(String::as_str).collect()
    }

    fn count(&self, wanted: usize) -> usize {
        if self.ahead { self.fits } else { wanted.clamp(1, self.fits) }
    }

    async fn parse(&mut self, answer: Value) -> Result<Option<Read>, Fault> {
        self.pause = FIRST_PAUSE;
        let popped = self.format().popped(&self.shard, answer).await;
        let Some(Popped { key, raw }) = popped.inspect_err(|_| self.interrupted(true))? else {
            return Ok(None);
        };
        let place = self.keys.iter().position(|known| known.as_bytes() == key);
        let place = place.ok_or_else(|| Fault::unexpected("a pop gave a key that it was not asked for"))?;
        self.first = (place + 1) % self.keys.len();
        self.measure(&raw);
        Ok(Some(Read { channel: self.channels[place].clone(), raw }))
    }

    fn measure(&mut self, raw: &[Raw]) {
        let bytes: usize = raw.iter().map(|raw| raw.body.len()).sum();
        let fits = (READ_BYTES * raw.len() / bytes.max(1)).min(self.fits * GROWTH);
        self.fits = fits.clamp(1, MOST_ENTRIES);
    }

    /// Tells that what Redis may have popped for a connection that broke is lost. It may have been too much for the
    /// connection, so that the next read is small.
    fn interrupted(&mut self, may_have_popped: bool) {
        self.fits = first_fits(self.format());
        if may_have_popped {
            let event = Event::ReadInterrupted {
                shard: self.shard.index,
                channels: self.channels.clone(),
                at: SystemTime::now(),
            };
            let _ = self.surroundings.events.send(event);
        }
    }
}

fn first_fits(format: &dyn Format) -> usize {
    (FIRST_BYTES / format.largest()).clamp(1, GROWTH)
}

/// Runs a blocking read. A cancelled `stop` ends the wait on the server, so that the answer is always heard; so does the
/// end of the link that the connection belongs to, over the next one, since nothing else may tell that the connection is
/// dead too. If the server has a message for it then, it has the time of an answer to arrive.
async fn read(
    shard: &Shard,
    connection: &mut BlockingConnection,
    command: &Cmd,
    stop: &CancellationToken,
) -> Result<Value, RedisError> {
    let (unblock, generation) = (connection.unblock(), connection.generation);
    let mut answer = std::pin::pin!(connection.run(command));
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
            let told = shard.run_once(&unblock).await;
            if matches!(told, Ok(Value::Int(1))) && shard.generation().is_ok_and(|now| now != generation) {
                // It has ended with nothing, whether or not that can be heard.
                return Ok(Value::Nil);
            }
            tokio::time::sleep(TELL_AGAIN).await;
        }
    };
    let late = async {
        shard.gone(generation).await;
        tokio::time::sleep(shard.answer_time()).await;
    };
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        ended = tell => ended,
        () = late => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
    }
}
