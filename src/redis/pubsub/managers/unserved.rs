//! `Unserved`: the partitions for which the nodes of a cluster accept no commands.

use std::collections::HashMap;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::partition::Partition;
use crate::redis::node::fault::Fault;

/// After this time, or that of a command if it is longer, the last answer does not say how a partition is now.
const OLD_AFTER: Duration = Duration::from_secs(1);

/// The partitions whose commands the nodes have sent elsewhere or made wait, and none has accepted since. Calls wait
/// for a partition up to the time of a command after the first such answer.
pub(crate) struct Unserved {
    limit: Duration,
    partitions: watch::Sender<HashMap<Partition, Refusals>>,
}

/// The answers for a partition since the last accepted command.
struct Refusals {
    first: Instant,
    last: Instant,
    latest: Refusal,
    /// Whether there has been one since the time has passed that calls wait.
    expired: bool,
}

/// The answer of the server with this number.
#[derive(Clone)]
pub(crate) struct Refusal {
    pub(crate) shard: usize,
    pub(crate) fault: Fault,
}

impl Refusals {
    /// Whether no command has been sent lately. Commands are repeated until one is accepted.
    fn are_old(&self, limit: Duration) -> bool {
        self.last.elapsed() > limit.max(OLD_AFTER)
    }

    fn has_expired(&self, limit: Duration) -> bool {
        self.first.elapsed() >= limit && !self.are_old(limit)
    }
}

impl Unserved {
    /// Every partition is served, as far as is known. `limit` is the longest duration of a command.
    pub(crate) fn new(limit: Duration) -> Self {
        Self { limit, partitions: watch::Sender::default() }
    }

    /// Records that the server of `shard` has not accepted a command for `partition`, and why. Returns whether this is
    /// the first such answer since the time has passed that calls wait.
    pub(crate) fn record(&self, partition: Partition, shard: usize, fault: &Fault) -> bool {
        let (now, latest) = (Instant::now(), Refusal { shard, fault: fault.clone() });
        let mut has_just_expired = false;
        // Only the first answer wakes the waits.
        self.partitions.send_if_modified(|partitions| {
            match partitions.get_mut(&partition).filter(|refusals| !refusals.are_old(self.limit)) {
                Some(refusals) => {
                    (refusals.last, refusals.latest) = (now, latest);
                    let expired = refusals.has_expired(self.limit);
                    has_just_expired = expired && !std::mem::replace(&mut refusals.expired, true);
                    false
                }
                None => {
                    partitions.insert(partition, Refusals { first: now, last: now, latest, expired: false });
                    true
                }
            }
        });
        has_just_expired
    }

    /// Records that a server has accepted a command for `partition`.
    pub(crate) fn clear(&self, partition: Partition) {
        if self.partitions.borrow().contains_key(&partition) {
            self.partitions.send_if_modified(|partitions| partitions.remove(&partition).is_some());
        }
    }

    /// The last answer for `partition`, if it has not been served for longer than a command may take.
    pub(crate) fn expired(&self, partition: Partition) -> Option<Refusal> {
        let partitions = self.partitions.borrow();
        let refusals = partitions.get(&partition).filter(|refusals| refusals.has_expired(self.limit));
        refusals.map(|refusals| refusals.latest.clone())
    }

    /// The last answers for all partitions that have not been served for longer than a command may take.
    pub(crate) fn all_expired(&self) -> Vec<Refusal> {
        let partitions = self.partitions.borrow();
        let expired = partitions.values().filter(|refusals| refusals.has_expired(self.limit));
        expired.map(|refusals| refusals.latest.clone()).collect()
    }

    /// Waits until `partition` has not been served for longer than a command may take. Returns the last answer.
    pub(crate) async fn wait_until_expired(&self, partition: Partition) -> Refusal {
        let mut changes = self.partitions.subscribe();
        loop {
            changes.borrow_and_update();
            if let Some(refusal) = self.expired(partition) {
                return refusal;
            }
            let due = self.partitions.borrow().get(&partition).map(|refusals| refusals.first + self.limit);
            let expiry = async {
                match due.filter(|due| *due > Instant::now()) {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // The sender lives in `self`, so that the wait cannot fail.
                _ = changes.changed() => {}
                () = expiry => {}
            }
        }
    }

    /// Waits until `partition` is served again, as far as is known.
    pub(crate) async fn wait_until_served(&self, partition: Partition) {
        let mut changes = self.partitions.subscribe();
        let _ = changes.wait_for(|partitions| !partitions.contains_key(&partition)).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);
    const RETRY: Duration = Duration::from_millis(100);

    fn refuse(unserved: &Unserved) -> bool {
        unserved.record(Partition::at(7), 0, &Fault::busy("no").while_replaced())
    }

    /// Has commands refused for the limit. Returns how often that was reported.
    async fn refuse_for_the_limit(unserved: &Unserved) -> usize {
        let mut reported = 0;
        for _ in 0..=LIMIT.as_millis() / RETRY.as_millis() + 1 {
            reported += usize::from(refuse(unserved));
            advance(RETRY).await;
        }
        reported
    }

    #[tokio::test(start_paused = true)]
    async fn a_partition_expires_when_no_command_is_accepted_for_the_limit() {
        let unserved = Unserved::new(LIMIT);
        refuse(&unserved);
        let waiting = unserved.wait_until_expired(Partition::at(7));
        let (began, refusing) = (Instant::now(), refuse_for_the_limit(&unserved));
        let (refusal, reported) = tokio::join!(async { (waiting.await.shard, began.elapsed()) }, refusing);
        assert_eq!((refusal.0, reported), (0, 1));
        assert!(refusal.1 >= LIMIT, "{refusal:?}");
        assert!(unserved.expired(Partition::at(8)).is_none());
        assert_eq!(unserved.all_expired().len(), 1);
        unserved.clear(Partition::at(7));
        unserved.wait_until_served(Partition::at(7)).await;
        assert!(unserved.expired(Partition::at(7)).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn an_old_answer_does_not_count() {
        let unserved = Unserved::new(LIMIT);
        refuse_for_the_limit(&unserved).await;
        advance(2 * LIMIT).await;
        assert!(unserved.expired(Partition::at(7)).is_none());
        refuse(&unserved);
        assert!(unserved.expired(Partition::at(7)).is_none(), "calls wait again");
    }
}
