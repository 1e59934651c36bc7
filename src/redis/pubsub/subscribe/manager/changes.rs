//! The changes of the subscriptions on a connection, and the answers of the server.

use std::collections::{HashMap, HashSet};

use tracing::warn;

use super::SubscriptionManager;
use crate::redis::node::fault::Fault;
use crate::redis::pubsub::managers::partition::Partition;
use crate::redis::pubsub::subscribe::desired::Change;
use crate::redis::pubsub::subscribe::subscriber::Subscriber;
use crate::redis::pubsub::topic::Subscription;

impl SubscriptionManager {
    /// Sends `change` to the server, updates `held`, and reports the progress.
    pub(super) async fn apply(
        &self,
        subscriber: &Subscriber,
        change: Change,
        held: &mut HashSet<Subscription>,
    ) -> Result<(), Fault> {
        let Change { subscribe, unsubscribe, up_to } = change;
        subscriber.unsubscribe(&unsubscribe).await?;
        for subscription in &unsubscribe {
            held.remove(subscription);
        }
        let refused = subscriber.subscribe(&subscribe).await?;
        held.extend(subscribe.iter().cloned());
        for (subscription, _) in &refused {
            held.remove(subscription);
        }
        self.desired.lock().confirm(held);
        if self.is_in_cluster() {
            let accepted = subscribe.iter().filter(|subscription| held.contains(*subscription));
            let partitions: HashSet<_> = accepted.map(|one| Partition::of_tagged(one.topic())).collect();
            for partition in partitions {
                self.record_accepted(partition);
            }
        }
        let mut redirected = HashMap::new();
        for (subscription, fault) in refused {
            if self.is_in_cluster() && fault.redirect.is_some() {
                self.desired.lock().postpone(&subscription);
                redirected.insert(Partition::of_tagged(subscription.topic()), fault);
            } else {
                self.refuse(&subscription, fault);
            }
        }
        for (partition, fault) in &redirected {
            self.record_refused(*partition, fault);
        }
        self.progress.send_modify(|progress| progress.applied = up_to);
        // Other partitions do not wait for this, which may have to connect to further nodes.
        for fault in redirected.values() {
            self.follow(fault).await;
        }
        Ok(())
    }

    fn refuse(&self, subscription: &Subscription, fault: Fault) {
        let known = self.desired.lock().refusal(subscription).is_some();
        if !known {
            let fault = self.shard.error(fault.clone());
            warn!(shard = self.shard.index, ?subscription, %fault, "a subscription was refused");
        }
        self.desired.lock().refuse(subscription, fault);
        self.refusals.send_modify(|refusals| *refusals += 1);
    }

    /// Records that the server has ended the subscriptions to these Redis channels, because it does not have their slot
    /// any more. They are requested again, and the answer says where the slot is.
    pub(super) fn end(&self, topics: &[String], held: &mut HashSet<Subscription>) {
        let mut desired = self.desired.lock();
        for topic in topics {
            let subscription = Subscription::Sharded(topic.clone());
            held.remove(&subscription);
            desired.postpone(&subscription);
        }
        desired.retry_postponed();
        self.changed.notify_one();
    }
}
