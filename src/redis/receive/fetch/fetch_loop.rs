//! Reading some channels of one shard.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use redis::{Cmd, Pipeline, RedisError, Value};
use tokio_util::sync::CancellationToken;

use crate::layer::Event;
use crate::name::ChannelName;
use crate::redis::node::answer::{executed, transaction};
use crate::redis::node::blocking::{BlockingConnection, ServerClient};
use crate::redis::node::fault::Fault;
use crate::redis::node::shard::Shard;
use crate::redis::receive::buffer::held::Held;
use crate::redis::receive::fetch::blocking::{read, wait_answers};
use crate::redis::receive::format::{Popped, READ_BYTES, Raw, ReadFormat};
use crate::redis::receive::reader::ReaderContext;

/// The most entries that one read takes.
const MOST_ENTRIES: usize = 256;
/// How many entries the first read takes at most, and how many times as many the next one.
const GROWTH: usize = 16;
/// Pauses between attempts after a failure, doubling from the first to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Channels of one shard that are read together: either all have one reader, or none has.
pub(crate) struct FetchLoop {
    pub(crate) shard: Arc<Shard>,
    channels: Vec<ChannelName>,
    keys: Vec<String>,
    /// The channel that is looked at first in the next read: the one behind that which gave something last.
    first: usize,
    connection: Option<BlockingConnection>,
    /// Whether a read is under way whose answer nobody would hear if the lane were dropped.
    reads: bool,
    /// A connection that was given up in the middle of a read.
    left_behind: Option<ServerClient>,
    /// Whether its channels have one reader, who gets nothing while the shard is away.
    pub(crate) has_one_reader: bool,
    /// How many entries one read aims at, by the sizes of those that came last.
    fits: usize,
    /// The channel from which the last read has left something.
    more: Option<usize>,
    /// Whether it takes as many as fit, and not only what is wanted; else messages are for whoever asks first.
    ahead: bool,
    /// The link over which the last read began; `None` if the shard was away.
    link: Option<u64>,
    pause: Duration,
    surroundings: Arc<ReaderContext>,
}

/// What one read brought: messages of one channel, in order.
#[derive(Debug)]
pub(crate) struct Read {
    pub(crate) channel: ChannelName,
    pub(crate) raw: Vec<Raw>,
}

impl FetchLoop {
    /// A lane over `channels` with these `keys`; it reads `ahead` of demand if their only reader wants much.
    pub(crate) fn new(
        shard: Arc<Shard>,
        channels: Vec<ChannelName>,
        keys: Vec<String>,
        ahead: bool,
        surroundings: Arc<ReaderContext>,
    ) -> Self {
        let has_one_reader = channels.iter().any(|channel| channel.kind().has_one_reader());
        Self {
            has_one_reader,
            shard,
            channels,
            keys,
            first: 0,
            connection: None,
            reads: false,
            left_behind: None,
            fits: GROWTH,
            more: None,
            ahead,
            link: None,
            pause: FIRST_PAUSE,
            surroundings,
        }
    }

    /// Takes up to `wanted` entries that are there now.
    ///
    /// Not cancel safe: what Redis answers to a dropped future is lost.
    pub(crate) async fn take(&mut self, wanted: usize) -> Result<Option<Read>, Fault> {
        let count = self.count(wanted);
        let mut commands = self.format().take(&self.rotated_keys(), count);
        self.link = self.shard.generation().ok();
        self.reads = true;
        let answer = if commands.len() > 1 {
            self.shard.run_transaction(commands).await.map(Value::Array)
        } else {
            self.shard.run_once(&commands.remove(0)).await
        };
        self.reads = false;
        match answer {
            Ok(answer) => Ok(self.parse(answer).await?.map(|(_, read)| read)),
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
    pub(crate) async fn wait(&mut self, wanted: usize, stop: &CancellationToken) -> Result<Option<Read>, Fault> {
        self.link = self.shard.generation().ok();
        match self.wait_once(wanted, stop).await {
            // A connection may break alone: what a second one meets is the state of the server.
            Err(fault) if fault.broken && !stop.is_cancelled() => self.wait_once(wanted, stop).await,
            result => result,
        }
    }

    async fn wait_once(&mut self, wanted: usize, stop: &CancellationToken) -> Result<Option<Read>, Fault> {
        let count = self.count(wanted);
        if self.format().takes_first(count)
            && let Some(read) = self.take(wanted).await?
        {
            return Ok(Some(read));
        }
        // One entry alone comes as well by a wait.
        if count > 1
            && let Some(read) = self.take_more(count, stop).await?
        {
            return Ok(Some(read));
        }
        let mut wait = redis::pipe();
        wait.add_command(self.format().wait(&self.rotated_keys(), self.shard.blocking_timeout()));
        if count > 1 {
            // What is behind the message is known when it comes, and nothing is asked in vain.
            self.keys.iter().filter_map(|key| self.format().length(key)).for_each(|length| {
                wait.add_command(length);
            });
        }
        let mut answers = self.run(&wait, wait_answers, stop).await?;
        let lengths = answers.split_off(answers.len().min(1));
        let Some((place, mut read)) = self.parse(answers.pop().unwrap_or(Value::Nil)).await? else { return Ok(None) };
        // Its size is known now.
        let rest = self.count(wanted) - 1;
        if rest > 0 && matches!(lengths.get(place), Some(Value::Int(1..))) {
            self.more = Some(place);
            // Should it fail, what has been taken is there all the same, and the next read tells.
            if let Ok(Some(behind)) = self.take_more(rest, stop).await {
                read.raw.extend(behind.raw);
            }
        }
        Ok(Some(read))
    }

    /// Takes up to `count` entries from a channel from which the last read has left something.
    async fn take_more(&mut self, count: usize, stop: &CancellationToken) -> Result<Option<Read>, Fault> {
        let Some(place) = self.more.take() else { return Ok(None) };
        let answer = match <[Cmd; 1]>::try_from(self.format().take(&[&self.keys[place]], count)) {
            Ok([command]) => {
                let mut alone = redis::pipe();
                alone.add_command(command);
                self.run(&alone, wait_answers, stop).await?.pop().unwrap_or(Value::Nil)
            }
            Err(commands) => Value::Array(self.run(&transaction(commands), executed, stop).await?),
        };
        let Some((place, read)) = self.parse(answer).await? else { return Ok(None) };
        // Other channels have their turns before there is another read of the same one.
        self.more = (self.keys.len() == 1 && is_full(&read.raw, count)).then_some(place);
        Ok(Some(read))
    }

    /// Runs commands on a connection of this lane.
    async fn run(
        &mut self,
        commands: &Pipeline,
        judge: fn(Vec<Value>) -> Result<Vec<Value>, RedisError>,
        stop: &CancellationToken,
    ) -> Result<Vec<Value>, Fault> {
        self.end_what_was_left_behind().await?;
        let mut connection = self.shard.blocking(self.connection.take()).await?;
        self.reads = true;
        let answers = read(&self.shard, &mut connection, commands, stop).await;
        self.reads = false;
        match answers.and_then(judge).map_err(Fault::from) {
            Err(fault) if fault.broken => {
                self.shard.read_failed(connection.generation, &fault);
                // The server may go on waiting for messages that nobody would hear of.
                self.left_behind = Some(connection.client.clone());
                connection.discard();
                self.interrupted(fault.may_have_run);
                Err(fault)
            }
            answer => {
                self.connection = Some(connection);
                answer
            }
        }
    }

    /// Ends the read on a connection that was given up, if the server still waits in it: what it gave there would be lost.
    async fn end_what_was_left_behind(&mut self) -> Result<(), Fault> {
        if let Some(client) = &self.left_behind {
            match self.shard.unblock(client).await {
                Err(fault) if fault.outage => return Err(fault),
                _ => self.left_behind = None,
            }
        }
        Ok(())
    }

    /// Waits until another attempt makes sense: at once when the shard has another link, after a pause over the same one.
    /// Returns `false` if `stop` has ended the wait.
    pub(crate) async fn recover(&mut self, stop: &CancellationToken) -> bool {
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
    pub(crate) fn release(&mut self) {
        self.connection = None;
    }

    /// Whether a held message blocks one of its channels: what a read would bring could not be handed over.
    pub(crate) fn is_blocked_by(&self, held: &Held) -> bool {
        self.shard.is_up() && self.channels.iter().any(|channel| held.blocks(channel, &self.shard))
    }

    /// Whether it holds a connection.
    pub(crate) fn is_connected(&self) -> bool {
        self.connection.is_some()
    }

    fn format(&self) -> &dyn ReadFormat {
        &*self.surroundings.format
    }

    fn rotated_keys(&self) -> Vec<&str> {
        let (before, from) = self.keys.split_at(self.first);
        from.iter().chain(before).map(String::as_str).collect()
    }

    fn count(&self, wanted: usize) -> usize {
        if self.ahead { self.fits } else { wanted.clamp(1, self.fits) }
    }

    /// What an answer has brought, with the place of its channel.
    async fn parse(&mut self, answer: Value) -> Result<Option<(usize, Read)>, Fault> {
        self.pause = FIRST_PAUSE;
        let popped = self.format().popped(&self.shard, answer).await;
        let Some(Popped { key, raw }) = popped.inspect_err(|_| self.interrupted(true))? else {
            return Ok(None);
        };
        let place = self.keys.iter().position(|known| known.as_bytes() == key);
        let place = place.ok_or_else(|| Fault::unexpected("a pop gave a key that it was not asked for"))?;
        self.first = (place + 1) % self.keys.len();
        self.measure(&raw);
        Ok(Some((place, Read { channel: self.channels[place].clone(), raw })))
    }

    fn measure(&mut self, raw: &[Raw]) {
        let fits = (READ_BYTES * raw.len() / bytes(raw).max(1)).min(self.fits * GROWTH);
        self.fits = fits.clamp(1, MOST_ENTRIES);
    }

    /// Tells that what Redis may have popped for a connection that broke is lost. It may have been too much for the
    /// connection, so that the next read is small.
    fn interrupted(&mut self, may_have_popped: bool) {
        self.fits = 1;
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

impl Drop for FetchLoop {
    fn drop(&mut self) {
        if self.reads {
            self.interrupted(true);
        }
    }
}

/// Whether a read that aimed at `count` messages has brought as much as one read may.
fn is_full(raw: &[Raw], count: usize) -> bool {
    raw.len() >= count || bytes(raw) >= READ_BYTES
}

fn bytes(raw: &[Raw]) -> usize {
    raw.iter().map(|raw| raw.body.len()).sum()
}
