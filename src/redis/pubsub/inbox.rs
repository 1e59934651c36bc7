//! The way in: what arrives from servers, and what stays in this process, to the queues of those who read here.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::interest::Interest;
use super::topic::{Target, Topics};
use super::wire::{Opened, Unreadable, Wire};
use crate::drops::{self, DropReason};
use crate::memory::MemoryLayer;
use crate::message::Message;
use crate::name::ChannelName;
use crate::redis::closing::Closing;
use crate::supervise::contain;

/// Different causes of unreadable messages that are logged.
const CAUSES: usize = 64;

/// How often it is looked for channels and groups that nobody here needs any more, within these limits.
const SWEEPS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// Delivers messages to the queues of this process.
pub(crate) struct Inbox {
    pub(crate) memory: MemoryLayer,
    pub(crate) interest: Interest,
    topics: Arc<Topics>,
    wire: Arc<Wire>,
    pub(crate) closing: Closing,
    /// Why messages could not be read so far. Held to look and to add.
    logged: Mutex<HashSet<String>>,
}

impl Inbox {
    pub(crate) fn new(
        memory: MemoryLayer,
        interest: Interest,
        topics: Arc<Topics>,
        wire: Arc<Wire>,
        closing: Closing,
    ) -> Self {
        Self { memory, interest, topics, wire, closing, logged: Mutex::default() }
    }

    /// Takes in what came from `shard` on the Redis channel `topic`.
    pub(crate) fn take_in(&self, shard: usize, topic: &[u8], payload: &Bytes) {
        let target = std::str::from_utf8(topic).ok().and_then(|topic| self.topics.target(topic));
        let opened = self.wire.open(payload).and_then(|opened| {
            let target = target.and_then(|target| addressed(target, &opened)).ok_or_else(Unreadable::unaddressed)?;
            Ok((target, opened.message))
        });
        match opened {
            // A message can come for a channel that was closed a moment ago.
            Ok((target, message)) => drop(self.deliver(&target, message)),
            Err(unreadable) => {
                drops::count(unreadable.drop, 1);
                let mut logged = self.logged.lock();
                if logged.len() < CAUSES && logged.insert(unreadable.reason.clone()) {
                    warn!(shard, reason = unreadable.reason, "a published message cannot be read");
                }
            }
        }
    }

    /// Delivers `message` to those in this process whom it is for; gives whether there can be any.
    ///
    /// The layer in memory refuses nothing unless it is closed, and then nobody reads.
    pub(crate) fn deliver(&self, target: &Target, message: Message) -> bool {
        match target {
            Target::Channel(channel) if self.interest.is_open(channel) => {
                self.memory.deliver(channel.as_str(), message).is_ok()
            }
            Target::Channel(_) => {
                drops::count(DropReason::NoReader, 1);
                false
            }
            Target::Group(group) => self.memory.deliver_to_group(group.as_str(), &message).is_ok(),
        }
    }
}

/// Whom a message is for: its topic tells, or a part of the topic and the message itself. A topic that stands for all
/// local parts is of no use without them.
pub(crate) fn addressed(target: Target, opened: &Opened) -> Option<Target> {
    match (target, &opened.channel) {
        (Target::Channel(channel), Some(full)) if channel.as_str().ends_with('!') => {
            let full = ChannelName::parse_target(full).ok()?;
            (full.non_local() == channel.as_str()).then_some(Target::Channel(full))
        }
        (Target::Channel(channel), _) if channel.as_str().ends_with(['!', '?']) => None,
        (target, _) => Some(target),
    }
}

/// Closes what nobody here needs any more, until `closing`, and then all. It is all closed, too, if the runtime ends, as
/// nothing can come any more.
pub(crate) fn sweep(
    inbox: Arc<Inbox>,
    expiry: Duration,
    closing: CancellationToken,
) -> impl Future<Output = ()> + Send {
    let ending = Ending(inbox.clone());
    async move {
        let (shortest, longest) = SWEEPS;
        let mut due = interval((expiry / 4).clamp(shortest, longest));
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let sweeping = async {
            loop {
                due.tick().await;
                contain("sweep of publish and subscribe", || {
                    inbox.interest.sweep(|group| inbox.memory.has_members(group.as_str()));
                });
            }
        };
        closing.run_until_cancelled(sweeping).await;
        drop(ending);
    }
}

/// Ends the queues of a layer when it is dropped.
struct Ending(Arc<Inbox>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.memory.end();
    }
}
