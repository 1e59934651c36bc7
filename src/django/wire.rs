//! `Wire`: what is particular to one of Python's formats, beside how it is read.

use std::time::Duration;

use async_trait::async_trait;
use redis::Cmd;

use super::keys::Keys;
use super::send::{Letter, Outgoing};
use crate::error::Result;
use crate::layer::Statistics;
use crate::message::Message;
use crate::name::ChannelName;
use crate::redis::fault::Fault;
use crate::redis::shard::Shard;

/// How messages are written, counted and deleted.
#[async_trait]
pub(super) trait Wire: Send + Sync + 'static {
    fn keys(&self) -> &Keys;

    /// How many bytes a message may have.
    fn max_message_size(&self) -> usize;

    /// Whether `message` can be carried.
    fn check(&self, message: &Message) -> Result<()>;

    /// What carries `message` to `channel`, written at `now`, counted from the epoch.
    fn letter(&self, channel: &ChannelName, message: &Message, now: Duration) -> Result<Letter>;

    /// What carries `message` to the members of a group.
    fn group_letters(&self, members: &[ChannelName], message: &Message, now: Duration) -> Result<Vec<Letter>>;

    /// The call that sends the messages of each channel. It answers for each channel how many were taken, from the first
    /// on, or -1 if its key holds something else; last, how many expired ones made room.
    fn send(&self, channels: &[Vec<Outgoing>]) -> Cmd;

    /// A name for a channel of this process, from a pattern that does not end in `?`; nothing where the format has none.
    fn new_local_channel(&self, pattern: &str) -> Option<Result<ChannelName>>;

    /// The figures of a channel on `shard`, by the non-local part of its name.
    async fn channel_statistics(&self, shard: &Shard, non_local: &str) -> Result<Statistics, Fault>;

    /// The figures of all channels on `shard`.
    async fn global_statistics(&self, shard: &Shard) -> Result<Statistics, Fault>;

    /// What to look through when flushing: beginnings of keys, and their type in Redis.
    fn flushed(&self) -> Vec<(&str, &'static str)>;

    /// Whether a key of this type is of this deployment.
    fn owns(&self, key: &str, kind: &str) -> bool;
}
