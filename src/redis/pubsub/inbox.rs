//! `Inbox`: puts messages into the queues of this process, whether they come from servers or stayed here.

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

/// The most causes of unreadable messages that are logged.
const CAUSES: usize = 64;

/// The limits of the interval at which unused channels and groups are closed.
const SWEEP_INTERVALS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// Delivers messages to the queues of this process.
pub(crate) struct Inbox {
    pub(crate) memory: MemoryLayer,
    pub(crate) interest: Interest,
    topics: Arc<Topics>,
    wire: Arc<Wire>,
    pub(crate) closing: Closing,
    /// The logged causes of unreadable messages. Held only to look up and add one.
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

    /// Delivers a message that arrived from `shard` on the Redis channel `topic`.
    pub(crate) fn receive(&self, shard: usize, topic: &[u8], payload: &Bytes) {
        let target = std::str::from_utf8(topic).ok().and_then(|topic| self.topics.target(topic));
        let opened = self.wire.open(payload).and_then(|opened| {
            let target = target.and_then(|target| addressed(target, &opened)).ok_or_else(Unreadable::unaddressed)?;
            Ok((target, opened.message))
        });
        match opened {
            // A message can arrive for a channel that has just been closed.
            Ok((target, message)) => drop(self.deliver(&target, message)),
            Err(unreadable) => {
                drops::count(unreadable.drop, 1);
                let mut logged = self.logged.lock();
                if logged.len() < CAUSES && logged.insert(unreadable.reason.clone()) {
                    warn!(shard, reason = unreadable.reason, "cannot read a published message");
                }
            }
        }
    }

    /// Delivers `message` to the queues of this process. Returns whether it can have a reader here.
    ///
    /// The memory layer refuses nothing unless it is closed, and then it has no readers.
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

/// The target of a message. A topic that stands for all local parts of a channel is completed by the full name in the
/// message. Returns `None` if the name is missing or belongs to another channel.
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

/// Closes unused channels and groups regularly until `closing` is cancelled. Then ends all queues. They end too if the runtime
/// ends, because no message can arrive then.
pub(crate) fn sweep(
    inbox: Arc<Inbox>,
    expiry: Duration,
    closing: CancellationToken,
) -> impl Future<Output = ()> + Send {
    let ending = Ending(inbox.clone());
    async move {
        let (shortest, longest) = SWEEP_INTERVALS;
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

/// Ends the queues of a layer on drop.
struct Ending(Arc<Inbox>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.memory.end();
    }
}
