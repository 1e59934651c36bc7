//! `Format`: how a layer keeps its messages in Redis, as far as reading them goes.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use redis::{Cmd, Value};

use super::parcel::Parcel;
use crate::drops::DropReason;
use crate::message::Message;
use crate::name::ChannelName;
use crate::redis::fault::Fault;
use crate::redis::frame::Entry;
use crate::redis::shard::Shard;

/// How messages are taken out of Redis, who they are for, and how they go back.
#[async_trait]
pub(crate) trait Format: Send + Sync + 'static {
    /// The key that holds what waits in a channel, by the non-local part of its name.
    fn key(&self, non_local: &str) -> String;

    /// How many bytes a message may have.
    fn largest(&self) -> usize;

    /// The command that takes up to `count` messages that are there from the first of `keys` that has any.
    fn take(&self, keys: &[&str], count: usize) -> Cmd;

    /// The command that waits up to `timeout` for the first of `keys` to have any, and takes up to `count`.
    fn wait(&self, keys: &[&str], count: usize, timeout: Duration) -> Cmd;

    /// Whether `count` messages that are there come faster by [`take`](Self::take) than by [`wait`](Self::wait).
    fn takes_first(&self, count: usize) -> bool;

    /// What the answer to either brought; `shard` is there for what has to be asked beyond it.
    ///
    /// Not cancel safe: what a dropped future had taken is lost.
    async fn popped(&self, shard: &Shard, answer: Value) -> Result<Option<Popped>, Fault>;

    /// A sorter for the task of one reader.
    fn sorter(&self) -> Box<dyn Sorter>;

    /// The message in an entry of the native format, which came in the list of `source`.
    fn open(&self, entry: &Entry, source: &ChannelName, now_ms: u64) -> Result<Message, Unreadable>;

    /// Keeps or forgets an entry that gave no message, which has been counted.
    fn refuse(&self, shard: &Arc<Shard>, entry: Bytes, reason: String);

    /// The command that puts parcels of one channel back at its head, in order, for those who have not got them. It
    /// answers how many had expired.
    fn put_back(&self, key: &str, parcels: &[Parcel]) -> Cmd;
}

/// Finds out who messages are for; each reader has one.
#[async_trait]
pub(crate) trait Sorter: Send + Sync {
    /// The parcels of what was taken from `source`. Those for nobody, and those that are no messages, are counted and
    /// left out; of some it may not be known who they are for.
    async fn parcels(&mut self, shard: &Arc<Shard>, source: &ChannelName, raw: Vec<Raw>) -> Vec<Parcel>;
}

/// What one read took from one key, in order.
#[derive(Debug)]
pub(crate) struct Popped {
    pub(crate) key: Vec<u8>,
    pub(crate) raw: Vec<Raw>,
}

/// A message as Redis gave it.
#[derive(Clone, Debug)]
pub(crate) struct Raw {
    pub(crate) body: Bytes,
    /// What Redis kept with it: the score of a sorted set, the key of a message. Empty in the native format.
    pub(crate) label: Bytes,
}

/// Why a body gives no message.
#[derive(Debug)]
pub(crate) struct Unreadable {
    pub(crate) drop: DropReason,
    /// What is wrong, the same text for the same cause, and never a word of the content.
    pub(crate) reason: String,
}
