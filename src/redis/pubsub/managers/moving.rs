//! Partitions that move between the servers of a cluster.
//!
//! A partition ends its subscriptions at the former server before it begins them at the next one. So the messages of a
//! sender arrive in their order, although they come over two connections, and none arrives twice. Messages that other
//! processes publish in between are lost. This process publishes only when its own subscriptions are back, and a batch
//! under way is published before they end.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{Assignment, Managers, Settled};
use crate::layer::Modes;
use crate::redis::node::cluster::Cluster;
use crate::redis::pubsub::managers::partition::Partition;
use crate::redis::pubsub::subscribe::desired::ChangeNumber;
use crate::redis::pubsub::subscribe::manager::{Reachability, SubscriptionManager};
use crate::redis::pubsub::topic::Subscription;
use crate::supervise::contained;

/// The name of the task in the metric of panics.
const TASK: &str = "partitions of publish and subscribe";
/// How long a server keeps a partition that the layout gives to another one, unless the server itself sends commands
/// elsewhere. A layout may come from a node that has not learnt of a move yet. Two more layouts are fetched meanwhile.
const TRUSTED_FOR: Duration = Duration::from_secs(25);
/// How often partitions are compared with the layout if it does not change.
const CHECK_EVERY: Duration = Duration::from_secs(5);
/// The pause before a partition moves again. Nodes may disagree for a moment about which of them has a slot.
const PAUSE: Duration = Duration::from_millis(20);

/// A partition whose subscriptions end at its former server.
pub(super) struct Leaving {
    /// The subscriptions that the next server gets.
    pub(super) kept: HashSet<Subscription>,
    /// The number of the former manager, and of the change that ends them there.
    from: usize,
    removed: ChangeNumber,
    /// The number of the next manager, unless the slot moves again meanwhile.
    target: usize,
    not_before: Instant,
}

impl Settled {
    /// Whether the partition moves to the manager `target`, to which the layout gives it now. `claims` says whether the
    /// present server serves the partition as far as it has said.
    fn leaves_for(&mut self, target: usize, claims: bool) -> bool {
        if self.manager == target {
            self.doubted = None;
            return false;
        }
        let doubted_for = self.doubted.get_or_insert_with(Instant::now).elapsed();
        !claims || doubted_for >= TRUSTED_FOR
    }
}

impl Managers {
    /// Moves partitions as the cluster moves their slots, until `ending` is cancelled. `start` starts the task of the
    /// manager of a new shard.
    pub(crate) async fn follow_cluster(
        self: Arc<Self>,
        modes: Arc<Modes>,
        start: impl Fn(Arc<SubscriptionManager>) + Send + Sync,
        ending: CancellationToken,
    ) {
        let following =
            async { while contained(TASK, Box::pin(self.move_partitions(&modes, &start))).await.is_none() {} };
        ending.run_until_cancelled(following).await;
    }

    async fn move_partitions(&self, modes: &Modes, start: &(impl Fn(Arc<SubscriptionManager>) + Sync)) {
        let Some(cluster) = self.places.cluster() else { return };
        let mut under_way = FuturesUnordered::new();
        under_way.extend(Partition::all().filter_map(|partition| self.resume(partition, cluster)));
        loop {
            let changed = cluster.changed_since(cluster.changes());
            self.add_new().into_iter().for_each(start);
            for (number, manager) in &self.all {
                if !cluster.serves(number) {
                    modes.forget(number);
                } else if matches!(manager.reachability(), Reachability::Reachable(..)) {
                    modes.add(number);
                }
            }
            modes.report();
            under_way.extend(Partition::all().filter_map(|partition| self.move_away(partition, cluster)));
            tokio::select! {
                () = changed => {}
                () = sleep(CHECK_EVERY) => {}
                Some(()) = under_way.next() => {}
            }
        }
    }

    /// Moves `partition` to the server that has its slot, if that is another one than its settled one.
    fn move_away<'m>(&'m self, partition: Partition, cluster: &'m Cluster) -> Option<BoxFuture<'m, ()>> {
        let target = cluster.shard_of(partition.slot());
        let Assignment::Settled(settled) = &mut self.partitions.lock()[partition.index()] else { return None };
        let claims = self.all[settled.manager].claims(partition);
        if settled.leaves || !settled.leaves_for(target, claims) || !self.has(target) {
            return None;
        }
        settled.leaves = true;
        let moving = async move {
            self.leave(partition, target).await;
            self.finish(partition, cluster).await;
        };
        Some(moving.boxed())
    }

    /// Removes the subscriptions of `partition` from its settled manager, behind the batch under way.
    async fn leave(&self, partition: Partition, target: usize) {
        let _published = self.publishing[partition.index()].lock().await;
        {
            let assignment = &mut self.partitions.lock()[partition.index()];
            let Assignment::Settled(settled) = assignment else { return };
            let (from, not_before) = (settled.manager, settled.since + PAUSE);
            let (kept, removed) = self.all[from].remove_partition(partition);
            let kept = kept.into_iter().collect();
            *assignment = Assignment::Leaving(Leaving { kept, from, removed, target, not_before });
        }
        self.record_change();
    }

    /// Ends a move of `partition` that a panic has interrupted.
    fn resume<'m>(&'m self, partition: Partition, cluster: &'m Cluster) -> Option<BoxFuture<'m, ()>> {
        let assignment = &mut self.partitions.lock()[partition.index()];
        match assignment {
            Assignment::Leaving(_) => return Some(self.finish(partition, cluster).boxed()),
            Assignment::Arriving(to) => *assignment = Assignment::Settled(Settled::now(*to)),
            Assignment::Settled(settled) => settled.leaves = false,
        }
        None
    }

    /// Waits until the subscriptions of `partition` have ended at the former server, and begins them at the server that
    /// has its slot now.
    async fn finish(&self, partition: Partition, cluster: &Cluster) {
        let (from, removed, target, not_before) = match &self.partitions.lock()[partition.index()] {
            Assignment::Leaving(Leaving { from, removed, target, not_before, .. }) => {
                (*from, *removed, *target, *not_before)
            }
            _ => return,
        };
        self.all[from].ended(removed).await;
        sleep_until(not_before).await;
        // The manager of a new shard is added before the next move.
        let to = Some(cluster.shard_of(partition.slot())).filter(|&number| self.has(number)).unwrap_or(target);
        let manager = &self.all[to];
        let added = {
            let assignment = &mut self.partitions.lock()[partition.index()];
            let kept = match std::mem::replace(assignment, Assignment::Arriving(to)) {
                Assignment::Leaving(leaving) => leaving.kept,
                _ => HashSet::new(),
            };
            manager.trust(partition);
            kept.iter().map(|subscription| manager.add(subscription)).last()
        };
        self.record_change();
        if let Some(added) = added {
            manager.answered(added).await;
        }
        self.partitions.lock()[partition.index()] = Assignment::Settled(Settled::now(to));
        self.record_change();
    }

    fn record_change(&self) {
        self.changes.send_modify(|changes| *changes += 1);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_partition_leaves_a_server_that_claims_it_only_if_several_layouts_say_so() {
        let mut settled = Settled::now(0);
        assert!(settled.leaves_for(1, false), "the server has sent commands elsewhere");
        let mut settled = Settled::now(0);
        assert!(!settled.leaves_for(1, true), "the layout may be old");
        advance(TRUSTED_FOR / 2).await;
        assert!(!settled.leaves_for(0, true));
        for _ in 0..2 {
            assert!(!settled.leaves_for(1, true));
            advance(TRUSTED_FOR / 2).await;
        }
        assert!(settled.leaves_for(1, true), "a server that is cut off does not know the move");
    }
}
