//! `FetchLoop`: reads channels of one shard, or one list of a cluster, and decides how much one read takes.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use redis::{Cmd, Value};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::layer::Event;
use crate::name::ChannelName;
use crate::redis::node::commands::asking::Node;
use crate::redis::node::commands::request::{executed, transaction};
use crate::redis::node::connection::blocking::{BlockingConnection, ServerClient};
use crate::redis::node::fault::Fault;
use crate::redis::node::shard::Shard;
use crate::redis::receive::buffer::held::Held;
use crate::redis::receive::fetch::blocking_read::wait_answers;
use crate::redis::receive::fetch::fetch_connection::FIRST_PAUSE;
use crate::redis::receive::fetch::fetched::Read;
use crate::redis::receive::format::{Popped, READ_BYTES, ReadFormat};
use crate::redis::receive::reader::context::ReaderContext;
use crate::redis::topology::lists::ListName;

/// The most entries that one read takes.
const MOST_ENTRIES: usize = 256;
/// The most entries that the first read takes, and the factor by which a read may exceed the last one.
const GROWTH: usize = 16;

/// Reads channels of one shard together. Either all of them are single-reader channels, or none is. In a cluster it
/// reads one list of one channel, because a node refuses a read of several keys while some of them are being migrated.
pub(crate) struct FetchLoop {
    /// The shard of the last read. In a cluster the next read may be on another one.
    pub(crate) shard: Arc<Shard>,
    /// Whether the channel is being migrated to the shard, so that reads need `ASKING`.
    pub(super) asking: bool,
    pub(super) channels: Vec<ChannelName>,
    /// The list of the channels that it reads. It is the first one, unless a cluster spreads the only channel.
    pub(super) list: ListName,
    pub(super) keys: Vec<String>,
    /// The index of the channel that the next read checks first: the one after the last channel that returned entries.
    next: usize,
    pub(super) connection: Option<BlockingConnection>,
    /// Whether a read is under way: from its first command until its messages are in the buffer. If the fetch loop is
    /// dropped then, the messages are lost.
    pub(super) reading: bool,
    /// The client of a connection that was discarded during a read, and its shard.
    pub(super) discarded: Option<(Arc<Shard>, ServerClient)>,
    /// How many entries make one read of [`READ_BYTES`], by the sizes of the last entries.
    batch_size: usize,
    /// The index of the channel in which the last read left entries.
    unfinished: Option<usize>,
    /// The index of the channel in which the last read found only expired entries.
    pub(super) expired: Option<usize>,
    /// By channel, whether the next read leaves it out.
    pub(super) left_out: Vec<bool>,
    /// Whether it takes a whole batch and not only what is wanted. Otherwise other processes may take the messages.
    pub(super) prefetches: bool,
    /// The generation of the shared connection at the start of the last read; `None` if the shard was unreachable.
    pub(super) generation: Option<u64>,
    pub(super) retry_pause: Duration,
    pub(super) context: Arc<ReaderContext>,
}

impl FetchLoop {
    /// The fetch loops for `channels`: for each shard, one for the normal channels and one for the single-reader
    /// channels. In a cluster, one for each list of each channel. Those for single-reader channels prefetch if
    /// `prefetches` is set.
    pub(crate) fn for_channels(context: &Arc<ReaderContext>, channels: &[ChannelName], prefetches: bool) -> Vec<Self> {
        let mut groups: Vec<((usize, bool), ListName, Vec<ChannelName>)> = Vec::new();
        for channel in channels {
            let one_reader = channel.kind().has_one_reader();
            for (list, shard) in context.places.lists(channel) {
                match groups.iter_mut().find(|(group, ..)| *group == (shard.index, one_reader)) {
                    Some((_, _, channels)) if !context.places.is_cluster() => channels.push(channel.clone()),
                    _ => groups.push(((shard.index, one_reader), list, vec![channel.clone()])),
                }
            }
        }
        let fetch_loops = groups.into_iter().map(|((shard, one_reader), list, channels)| {
            let shard = context.places.shard(shard).clone();
            Self::new(shard, channels, list, prefetches && one_reader, context.clone())
        });
        fetch_loops.collect()
    }

    fn new(
        shard: Arc<Shard>,
        channels: Vec<ChannelName>,
        list: ListName,
        prefetches: bool,
        context: Arc<ReaderContext>,
    ) -> Self {
        Self {
            shard,
            asking: false,
            keys: channels.iter().map(|channel| context.format.key(list.text(channel))).collect(),
            left_out: vec![false; channels.len()],
            channels,
            list,
            next: 0,
            connection: None,
            reading: false,
            discarded: None,
            batch_size: GROWTH,
            unfinished: None,
            expired: None,
            prefetches,
            generation: None,
            retry_pause: FIRST_PAUSE,
            context,
        }
    }

    /// Takes up to `wanted` entries that are there now. The caller [hands over](Self::handed_over) what it returns.
    /// It waits until `deadline` until a server of the cluster serves the channel.
    ///
    /// Not cancel safe: the answer of Redis to a dropped future is lost.
    pub(crate) async fn take(&mut self, wanted: usize, deadline: Instant) -> Result<Option<Read>, Fault> {
        let (context, home) = (self.context.clone(), self.shard.clone());
        let mut routing = context.places.routing(&home, self.name()).until(deadline);
        let result = loop {
            self.turn_to(routing.node());
            let result = self.take_once(wanted).await;
            match &result {
                Err(fault) if routing.follow(fault).await => {}
                _ => break result,
            }
        };
        self.reading = matches!(result, Ok(Some(_)));
        result
    }

    /// Makes the next read one of `node`.
    fn turn_to(&mut self, node: Node<'_>) {
        if node.shard.index != self.shard.index {
            self.shard = self.context.places.shard(node.shard.index).clone();
        }
        self.asking = node.asking;
    }

    async fn take_once(&mut self, wanted: usize) -> Result<Option<Read>, Fault> {
        if let Some(expired) = self.drop_expired().await? {
            return Ok(Some(expired));
        }
        let count = self.count(wanted);
        let mut commands = self.format().take(&self.rotated_keys(), count);
        self.generation = self.shard.generation().ok();
        self.reading = true;
        let node = Node { shard: &self.shard, asking: self.asking };
        let answer = if commands.len() > 1 {
            node.run_transaction(commands).await.map(Value::Array)
        } else {
            node.run_once(&commands.remove(0)).await
        };
        match answer {
            Ok(answer) => Ok(self.parse(answer).await?.map(|(_, read)| read)),
            Err(fault) => {
                self.interrupted(fault.may_have_run);
                Err(fault)
            }
        }
    }

    /// Waits for entries and takes up to `wanted`, or a whole batch if it prefetches. Returns `None` when the wait
    /// times out or `stop` is cancelled. The caller [hands over](Self::handed_over) what it returns.
    ///
    /// Not cancel safe: the answer of Redis to a dropped future is lost.
    pub(crate) async fn wait(&mut self, wanted: usize, stop: &CancellationToken) -> Result<Option<Read>, Fault> {
        let (context, home) = (self.context.clone(), self.shard.clone());
        let mut routing = context.places.routing(&home, self.name());
        let mut is_repeated = false;
        let result = loop {
            self.turn_to(routing.node());
            if !is_repeated {
                self.generation = self.shard.generation().ok();
            }
            let result = self.wait_once(wanted, stop).await;
            match &result {
                // The read was to end, and the next one goes to the other node.
                Err(fault) if stop.is_cancelled() && context.places.postpones(fault) => break Ok(None),
                Err(_) if stop.is_cancelled() => break result,
                Err(fault) if routing.follow(fault).await => {}
                // One connection may break on its own. A second one shows whether the server is unreachable.
                Err(fault) if fault.broken && !is_repeated => is_repeated = true,
                _ => break result,
            }
        };
        self.reading = matches!(result, Ok(Some(_)));
        result
    }

    async fn wait_once(&mut self, wanted: usize, stop: &CancellationToken) -> Result<Option<Read>, Fault> {
        if let Some(expired) = self.drop_expired().await? {
            return Ok(Some(expired));
        }
        let count = self.count(wanted);
        if self.format().takes_first(count)
            && let Some(read) = self.take_once(wanted).await?
        {
            return Ok(Some(read));
        }
        // A wait returns one entry too, so a single one needs no other command.
        if count > 1
            && let Some(read) = self.take_rest(count, stop).await?
        {
            return Ok(Some(read));
        }
        let mut wait = redis::pipe();
        wait.add_command(self.format().wait(&self.rotated_keys(), self.shard.blocking_timeout()));
        let is_cluster = self.context.places.is_cluster();
        if count > 1 && !is_cluster {
            // The length says whether there are entries behind the message, so no command runs in vain. A node of a
            // cluster that becomes a replica ends the wait with an error and closes the connection, so that a second
            // answer would never arrive.
            self.keys.iter().filter_map(|key| self.format().length(key)).for_each(|length| {
                wait.add_command(length);
            });
        }
        let mut answers = self.run(&wait, wait_answers, stop).await?;
        let lengths = answers.split_off(answers.len().min(1));
        let Some((index, mut read)) = self.parse(answers.pop().unwrap_or(Value::Nil)).await? else { return Ok(None) };
        // The size of the first entry is known now.
        let count = self.count(wanted) - 1;
        if count > 0 && is_cluster {
            // The next read looks.
            self.unfinished = Some(index);
        } else if count > 0 && matches!(lengths.get(index), Some(Value::Int(1..))) {
            self.unfinished = Some(index);
            // If this fails, the first entry is returned all the same, and the next read reports the failure.
            if let Ok(Some(rest)) = self.take_rest(count, stop).await {
                read.raw.extend(rest.raw);
                read.expired += rest.expired;
            }
        }
        Ok(Some(read))
    }

    /// Takes up to `count` entries from the channel in which the last read left entries.
    async fn take_rest(&mut self, count: usize, stop: &CancellationToken) -> Result<Option<Read>, Fault> {
        let Some(index) = self.unfinished.take().filter(|index| !self.left_out[*index]) else { return Ok(None) };
        let answer = match <[Cmd; 1]>::try_from(self.format().take(&[&self.keys[index]], count)) {
            Ok([command]) => {
                let mut alone = redis::pipe();
                alone.add_command(command);
                self.run(&alone, wait_answers, stop).await.map(|mut answers| answers.pop().unwrap_or(Value::Nil))
            }
            Err(commands) => self.run(&transaction(commands, false), executed, stop).await.map(Value::Array),
        };
        // A read that was redirected has taken nothing, and goes on at the other node.
        let answer = answer.inspect_err(|fault| self.unfinished = fault.redirect.is_some().then_some(index))?;
        let Some((index, read)) = self.parse(answer).await? else { return Ok(None) };
        // The other channels are read before this one is read again.
        self.unfinished = (self.keys.len() == 1 && read.is_full(count)).then_some(index);
        Ok(Some(read))
    }

    /// The name of the list that it reads in a cluster.
    pub(super) fn name(&self) -> &str {
        self.list.text(&self.channels[0])
    }

    /// Whether its channels are on this shard only, so that their reader gets no message while it is unreachable.
    pub(crate) fn is_pinned(&self) -> bool {
        self.channels.iter().all(|channel| self.context.places.pins(channel))
    }

    /// Returns the connection to the pool.
    pub(crate) fn release(&mut self) {
        self.connection = None;
    }

    /// Leaves the channels that held messages block out of the next read, because their entries could not be delivered.
    /// Returns whether any channel is left.
    pub(crate) fn leave_out_blocked(&mut self, held: &Held) -> bool {
        let is_up = self.shard.is_up();
        for (left_out, channel) in self.left_out.iter_mut().zip(&self.channels) {
            *left_out = is_up && held.blocks(channel, &self.shard);
        }
        self.left_out.contains(&false)
    }

    /// The channels that the next read leaves out.
    pub(crate) fn left_out(&self) -> impl Iterator<Item = &ChannelName> {
        self.channels.iter().zip(&self.left_out).filter(|(_, left_out)| **left_out).map(|(channel, _)| channel)
    }

    /// Records that the messages of the last read are in the buffer.
    pub(crate) fn handed_over(&mut self) {
        self.reading = false;
    }

    /// Whether it has a dedicated connection.
    pub(crate) fn is_connected(&self) -> bool {
        self.connection.is_some()
    }

    pub(super) fn format(&self) -> &dyn ReadFormat {
        &*self.context.format
    }

    fn rotated_keys(&self) -> Vec<&str> {
        let keys = || self.keys.iter().zip(&self.left_out);
        let rotated = keys().skip(self.next).chain(keys().take(self.next));
        rotated.filter(|(_, left_out)| !**left_out).map(|(key, _)| key.as_str()).collect()
    }

    fn count(&self, wanted: usize) -> usize {
        if self.prefetches { self.batch_size } else { wanted.clamp(1, self.batch_size) }
    }

    /// Parses an answer. Returns the messages with the index of their channel.
    async fn parse(&mut self, answer: Value) -> Result<Option<(usize, Read)>, Fault> {
        self.retry_pause = FIRST_PAUSE;
        let parsed = self.popped(answer).await.inspect_err(|_| self.interrupted(true))?;
        self.reading = parsed.is_some();
        if let Some((index, read)) = &parsed {
            self.next = (index + 1) % self.keys.len();
            self.measure(read);
            self.find_expired(*index, read);
        }
        Ok(parsed)
    }

    async fn popped(&self, answer: Value) -> Result<Option<(usize, Read)>, Fault> {
        let Some(Popped { key, raw, expired }) = self.format().popped(&self.shard, answer).await? else {
            return Ok(None);
        };
        let index = self.keys.iter().position(|known| known.as_bytes() == key);
        let index = index.ok_or_else(|| Fault::unexpected("a pop returned a key that was not requested"))?;
        let (channel, list) = (self.channels[index].clone(), self.list.clone());
        Ok(Some((index, Read { channel, list, raw, expired })))
    }

    fn measure(&mut self, read: &Read) {
        let fitting = (READ_BYTES * read.raw.len() / read.bytes().max(1)).min(self.batch_size * GROWTH);
        self.batch_size = fitting.clamp(1, MOST_ENTRIES);
    }

    /// Ends a read that failed. Announces that messages that Redis may have popped for a broken connection are lost.
    /// They may have been too much for the connection, so the next read is small.
    pub(super) fn interrupted(&mut self, may_have_popped: bool) {
        self.reading = false;
        if may_have_popped {
            self.batch_size = 1;
            let event = Event::ReadInterrupted {
                shard: self.shard.index,
                channels: self.channels.clone(),
                at: SystemTime::now(),
            };
            let _ = self.context.events.send(event);
        }
    }
}

impl Drop for FetchLoop {
    fn drop(&mut self) {
        if self.reading {
            self.interrupted(true);
        }
    }
}
