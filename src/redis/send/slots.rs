//! `SlotQueues`: which queue takes the messages to a slot of a cluster.
//!
//! The queues of a shard stand for its present slots. When a slot moves to another shard, its messages use the queues
//! of that shard only after the queued ones have been sent: otherwise a later message could overtake an earlier one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::redis::node::cluster::Slot;

/// For each slot the shard whose queues have its messages, in the high 32 bits, and in the low ones how many these are.
pub(crate) struct SlotQueues(Box<[AtomicU64]>);

/// One message that is queued or being sent.
pub(crate) struct PendingInSlot {
    queues: Arc<SlotQueues>,
    slot: Slot,
}

const COUNT_BITS: u32 = 32;

impl SlotQueues {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self((0..Slot::COUNT).map(|_| AtomicU64::new(0)).collect()))
    }

    /// Adds a message to `slot`, which `shard` serves now. Returns the shard whose queue has to take it.
    pub(crate) fn add(self: &Arc<Self>, slot: Slot, shard: usize) -> (usize, PendingInSlot) {
        let entry = &self.0[slot.index()];
        let own = (shard as u64) << COUNT_BITS;
        // There are far fewer than 2^32 messages, so that their count does not reach the high bits.
        let added = |entry: u64| if count(entry) == 0 { own + 1 } else { entry + 1 };
        let mut before = entry.load(Ordering::Acquire);
        while let Err(now) = entry.compare_exchange_weak(before, added(before), Ordering::AcqRel, Ordering::Acquire) {
            before = now;
        }
        let queue = usize::try_from(added(before) >> COUNT_BITS).expect("it is the index of a shard");
        (queue, PendingInSlot { queues: self.clone(), slot })
    }
}

impl Drop for PendingInSlot {
    fn drop(&mut self) {
        self.queues.0[self.slot.index()].fetch_sub(1, Ordering::AcqRel);
    }
}

fn count(entry: u64) -> u64 {
    entry & u64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_that_moves_keeps_its_queue_while_it_has_messages() {
        let (queues, slot) = (SlotQueues::new(), Slot::of("chat"));
        let (first, one) = queues.add(slot, 0);
        let (second, two) = queues.add(slot, 7);
        assert_eq!((first, second), (0, 0));
        drop(one);
        let (third, three) = queues.add(slot, 7);
        assert_eq!(third, 0, "a message is left");
        drop((two, three));
        assert_eq!(queues.add(slot, 7).0, 7);
        assert_eq!(queues.add(slot, 1).0, 1);
    }
}
