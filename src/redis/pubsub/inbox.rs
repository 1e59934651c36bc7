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
use crate::drops::{DropReason, Drops};
use crate::memory::MemoryLayer;
use crate::message::Message;
use crate::name::ChannelName;
use crate::redis::closing::Closing;
use crate::supervise::contain;

/// The name of the task that closes unused channels in the count of panics.
const TASK: &str = "sweep of publish and subscribe";

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
        let mut dropped = Drops::default();
        match opened {
            // A message can arrive for a channel that has just been closed.
            Ok((target, message)) => self.deliver(&target, message, &mut dropped),
            Err(unreadable) => {
                let is_new = {
                    let mut logged = self.logged.lock();
                    logged.len() < CAUSES && logged.insert(unreadable.reason.clone())
                };
                if is_new {
                    warn!(shard, reason = unreadable.reason, "cannot read a published message");
                }
                dropped.add(unreadable.drop, 1);
            }
        }
        dropped.count();
    }

    /// Closes unused channels, and unsubscribes from groups without members.
    pub(crate) fn sweep(&self) {
        self.interest.sweep(|group| self.memory.has_members(group.as_str()));
    }

    /// Delivers `message` to the queues of this process. Adds it to `dropped` if it can have no reader here.
    pub(crate) fn deliver(&self, target: &Target, message: Message, dropped: &mut Drops) {
        // The memory layer refuses nothing unless it is closed, and then it has no readers.
        match target {
            Target::Channel(channel) if self.interest.is_open(channel) => {
                let _ = self.memory.deliver(channel.as_str(), message);
            }
            Target::Channel(_) => dropped.add(DropReason::NoReader, 1),
            Target::Group(group) => {
                let _ = self.memory.deliver_to_group(group.as_str(), &message);
            }
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

/// Closes unused channels and groups regularly until `closing` is cancelled. Then ends all queues. They end too if the
/// runtime ends, because no message can arrive then.
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
                contain(TASK, || inbox.sweep());
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

#[cfg(test)]
mod tests {
    use super::super::managers::Managers;
    use super::super::managers::unserved::Unserved;
    use super::super::topic::Sharding;
    use super::*;
    use crate::config::Config;
    use crate::redis::topology::places::Places;
    use crate::redis::topology::ring::Ring;
    use crate::supervise::trap;

    #[tokio::test(start_paused = true)]
    async fn a_panic_costs_one_round_of_closing_unused_channels() {
        // Without servers nothing has to be unsubscribed.
        let (topics, expiry) = (Arc::new(Topics::new("p", Sharding::Classic(0))), Duration::from_secs(4));
        let wire = Arc::new(Wire::new(&Config::new()).unwrap());
        let places = Arc::new(Places::new(Vec::new(), Ring::crc(0)));
        let unserved = Arc::new(Unserved::new(Duration::ZERO));
        let managers = Arc::new(Managers::new(places, unserved, |_| unreachable!("there are no servers")));
        let interest = Interest::new(topics.clone(), managers, Duration::ZERO);
        let inbox = Arc::new(Inbox::new(MemoryLayer::new(), interest, topics, wire, Closing::default()));
        let closing = CancellationToken::new();
        let sweeping = tokio::spawn(sweep(inbox.clone(), expiry, closing.clone()));
        let channel = ChannelName::parse_sources(&["n!"]).unwrap().remove(0);
        inbox.interest.hold_open(&channel);
        trap::arm(TASK);
        while trap::is_armed() {
            tokio::task::yield_now().await;
        }
        assert!(inbox.interest.is_open(&channel));
        tokio::time::sleep(expiry).await;
        assert!(!inbox.interest.is_open(&channel));
        closing.cancel();
        sweeping.await.unwrap();
    }
}
