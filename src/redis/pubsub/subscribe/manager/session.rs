//! The task of a `SubscriptionManager`: opens a connection, subscribes, applies changes and replaces a lost connection.

use std::collections::HashSet;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Progress, Reachability, SubscriptionManager};
use crate::backoff::Backoff;
use crate::config::Fallback;
use crate::error::Error;
use crate::layer::{Event, Hysteresis, Mode};
use crate::redis::node::connection::ServerConnection;
use crate::redis::node::fault::Fault;
use crate::redis::node::shard::NotConnected;
use crate::redis::pubsub::managers::partition::Partition;
use crate::redis::pubsub::subscribe::fence::DeliveryFence;
use crate::redis::pubsub::subscribe::protocol::Deliver;
use crate::redis::pubsub::subscribe::subscriber::Subscriber;
use crate::redis::pubsub::topic::Subscription;
use crate::supervise::{contain, contained, update_metric};

/// The name of the task in the metric of panics.
const TASK: &str = "subscription to Redis";
/// How often a subscribed connection is pinged. A half-open connection shows no other sign.
const PING_EVERY: Duration = Duration::from_secs(1);
const MIN_PING_INTERVAL: Duration = Duration::from_millis(10);
/// A Redis channel without subscribers.
const UNUSED_TOPIC: &str = "channel-layer.nobody";
/// How often refused subscriptions are requested again, because the access rights may have changed.
const RETRY_REFUSED_EVERY: Duration = Duration::from_secs(3);
/// How long a subscription waits that the server of a cluster does not serve now.
const RETRY_POSTPONED_AFTER: Duration = Duration::from_millis(100);
/// How long the messages of a replaced master are waited for.
const DRAINED_AFTER: Duration = Duration::from_secs(1);
/// A connection that lasted this long is replaced without a pause.
const STABLE_AFTER: Duration = Duration::from_secs(1);

/// The facts that a manager remembers of earlier connections.
struct History {
    /// The generation of the command connection beside which messages arrived last.
    generation: Option<u64>,
    hysteresis: Hysteresis,
}

/// Why [`SubscriptionManager::maintain`] returned.
enum Ended {
    Lost(Fault),
    /// The connection worked until the end of its trial.
    TrialPassed,
}

/// Subscriptions would not receive what is published over the connection for commands.
#[derive(Debug, thiserror::Error)]
#[error("the host name resolves to another server than before")]
struct ServerMismatch;

impl SubscriptionManager {
    /// Keeps a connection to the server subscribed until `closing` is cancelled. Messages go to `deliver`.
    pub(crate) async fn run(self: Arc<Self>, deliver: Deliver, closing: CancellationToken) {
        let working = async {
            tokio::select! {
                () = self.keep_subscribed(&deliver) => {}
                () = self.end_changes() => {}
            }
        };
        closing.run_until_cancelled(working).await;
        // Calls that wait for the server fail because the layer is closed.
        let closed = Reachability::Unreachable(Fault::unsent(Error::Closed));
        self.progress.send_modify(|progress| progress.reachability = closed);
    }

    async fn keep_subscribed(&self, deliver: &Deliver) {
        let mut backoff = Backoff::outage();
        let mut history = History { generation: None, hysteresis: Hysteresis::new(self.return_after) };
        loop {
            let connection = self.shard.up_or(|fault| self.set_lost(fault)).await;
            let began = Instant::now();
            let trial = self.required_trial(&connection, &history);
            let fault = self.subscribe_to(&connection, deliver, trial, &mut history).await;
            history.hysteresis.mark_lost();
            self.set_lost(&fault);
            self.shard.suspect();
            if began.elapsed() > STABLE_AFTER {
                backoff = Backoff::outage();
            } else {
                sleep(backoff.pause()).await;
            }
        }
    }

    /// The length of the trial of a new subscription beside `connection`. Messages go to the server only after the
    /// trial. `None` if they go there at once.
    fn required_trial(&self, connection: &ServerConnection, history: &History) -> Option<Duration> {
        let was_lost = matches!(self.progress.borrow().reachability, Reachability::Unreachable(_));
        if (history.generation.is_none() && !was_lost) || self.fallback == Fallback::Fail {
            return None;
        }
        // If the connection for commands is the same, only the subscription was lost. If the cluster is replacing the
        // master, the next one has not failed, and messages wait for it.
        let lost_alone = history.generation == Some(connection.generation);
        Some(if lost_alone || !was_lost && self.is_in_cluster() {
            Duration::ZERO
        } else {
            history.hysteresis.required(Instant::now())
        })
    }

    /// Opens a subscribed connection to the server of `connection` and maintains it. Returns why it was lost.
    async fn subscribe_to(
        &self,
        connection: &ServerConnection,
        deliver: &Deliver,
        trial: Option<Duration>,
        history: &mut History,
    ) -> Fault {
        let fence = Arc::new(DeliveryFence::new(deliver.clone()));
        let open_fence = fence.clone();
        let deliver: Deliver = Arc::new(move |topic, payload| {
            contain(TASK, || open_fence.pass(topic, payload));
        });
        let subscribed = async {
            match Subscriber::open(&connection.client, &self.timing, deliver, self.is_in_cluster()).await {
                Ok(subscriber) => {
                    let _lost_at_the_end = subscriber.lost_on_drop();
                    let fault = self.serve(connection, &subscriber, trial, history).await;
                    if self.is_in_cluster() && fault.redirect.is_some() {
                        self.drain(&subscriber).await;
                    }
                    fault
                }
                Err(fault) => fault,
            }
        };
        let fault = contained(TASK, Box::pin(subscribed)).await.unwrap_or_else(Fault::panicked);
        fence.close();
        self.desired.lock().disconnect();
        fault
    }

    /// Waits until the messages have arrived that a replaced master has accepted. It lives, and accepts messages as a
    /// replica too.
    async fn drain(&self, subscriber: &Subscriber) {
        let draining = async {
            let _published = self.publishing.write().await;
            let _ = subscriber.catch_up().await;
        };
        let _ = timeout(DRAINED_AFTER.min(self.timing.command), draining).await;
    }

    /// Subscribes everything over `subscriber`, and maintains the subscriptions. Returns why the connection was lost.
    async fn serve(
        &self,
        connection: &ServerConnection,
        subscriber: &Subscriber,
        trial: Option<Duration>,
        history: &mut History,
    ) -> Fault {
        match subscriber.identity().await {
            Ok(Some(identity)) if !connection.identity.accepts(&identity) => {
                let fault = Fault::unsent(ServerMismatch);
                self.shard.mark_down(connection.generation, fault.clone());
                return fault;
            }
            Err(fault) => return fault,
            Ok(_) => {}
        }
        let began = Instant::now();
        let mut held = HashSet::new();
        let all = self.desired.lock().take_all();
        if let Err(fault) = self.apply(subscriber, all, &mut held).await {
            return fault;
        }
        if let Some(time) = trial {
            if let Ended::Lost(fault) = self.maintain(connection, subscriber, &mut held, Some(began + time)).await {
                return fault;
            }
            if let Err(fault) = self.check_publishing(connection).await {
                return fault;
            }
        }
        // If the connection for commands was lost too, its shard has counted the reconnect.
        let lost_alone = history.generation.replace(connection.generation) == Some(connection.generation);
        history.hysteresis.mark_used();
        self.set_reachable(subscriber.clone(), connection.generation);
        update_metric(|| metrics::counter!("channel_layer_reconnects_total").increment(u64::from(lost_alone)));
        match self.maintain(connection, subscriber, &mut held, None).await {
            Ended::Lost(fault) => fault,
            Ended::TrialPassed => Fault::unexpected("the subscription ended"),
        }
    }

    /// Publishes a message without receivers. A server that is paused for writes answers everything else. Fails only
    /// for an outage, and not if the server refuses this message.
    async fn check_publishing(&self, connection: &ServerConnection) -> Result<(), Fault> {
        let Some(topic) = self.unused_topic() else { return Ok(()) };
        let mut pipeline = redis::pipe();
        pipeline.cmd(self.publish).arg(topic).arg("");
        let answers = self.shard.run_each(&pipeline, 1, Some(connection.generation)).await;
        answers.into_iter().find_map(|answer| answer.err().filter(|fault| fault.outage)).map_or(Ok(()), Err)
    }

    /// A Redis channel of the server without subscribers. `None` if it is a master of a cluster without a partition.
    fn unused_topic(&self) -> Option<String> {
        let Some(cluster) = self.places.cluster() else { return Some(UNUSED_TOPIC.to_owned()) };
        let mut partitions = Partition::all();
        let partition = partitions.find(|partition| cluster.shard_of(partition.slot()) == self.shard.index);
        Some(partition?.tagged(UNUSED_TOPIC))
    }

    /// Applies changes to the subscriptions of the connection until it is lost, or until `trial_end`.
    async fn maintain(
        &self,
        connection: &ServerConnection,
        subscriber: &Subscriber,
        held: &mut HashSet<Subscription>,
        trial_end: Option<Instant>,
    ) -> Ended {
        let (mut retry_refused, mut retry_postponed) = (interval(RETRY_REFUSED_EVERY), interval(RETRY_POSTPONED_AFTER));
        retry_refused.set_missed_tick_behavior(MissedTickBehavior::Delay);
        retry_postponed.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let end = async {
            match trial_end {
                Some(end) => sleep_until(end).await,
                None => std::future::pending().await,
            }
        };
        // A connection on trial is pinged more often.
        let every = if trial_end.is_some() { PING_EVERY.min(self.return_after / 4) } else { PING_EVERY };
        let (mut end, mut gone) = (pin!(end), pin!(self.shard.wait_until_lost(connection.generation)));
        let (mut lost, mut silent) = (pin!(subscriber.lost()), pin!(ping(subscriber, every.max(MIN_PING_INTERVAL))));
        loop {
            let step = async {
                tokio::select! {
                    () = &mut end => subscriber.catch_up().await.map(|()| true),
                    () = self.changed.notified() => {
                        let change = self.desired.lock().take_change(held);
                        self.apply(subscriber, change, held).await.map(|()| false)
                    }
                    ended = subscriber.ended() => {
                        self.end(&ended, held);
                        Ok(false)
                    }
                    _ = retry_postponed.tick(), if self.desired.lock().has_postponed() => {
                        self.desired.lock().retry_postponed();
                        self.changed.notify_one();
                        Ok(false)
                    }
                    _ = retry_refused.tick() => {
                        self.desired.lock().retry_refused();
                        self.changed.notify_one();
                        Ok(false)
                    }
                }
            };
            let step = tokio::select! {
                biased;
                fault = &mut gone => Err(fault),
                fault = &mut lost => Err(fault),
                fault = &mut silent => Err(fault),
                step = step => step,
            };
            match step {
                Ok(false) => {}
                Ok(true) => return Ended::TrialPassed,
                Err(fault) => return Ended::Lost(fault),
            }
        }
    }

    fn set_reachable(&self, subscriber: Subscriber, generation: u64) {
        let shard = self.shard.index;
        let before = self.set_reachability(Reachability::Reachable(subscriber, generation));
        self.modes.mark_remote(shard);
        self.modes.report();
        if matches!(before, Reachability::Unreachable(_)) {
            if self.fallback == Fallback::Fail {
                info!(shard, "published messages arrive again");
            }
            let _ = self.events.send(Event::SubscriptionRestored { shard });
        }
    }

    /// Marks a lost server as unreachable, or for the time of a command as changing if a cluster is replacing it.
    fn set_lost(&self, fault: &Fault) {
        let is_replaced = self.is_in_cluster() && fault.redirect.is_some();
        let changing = match self.progress.borrow().reachability {
            Reachability::Changing(until) => Some(until),
            Reachability::Unreachable(_) => None,
            Reachability::Unknown | Reachability::Reachable(..) => Some(Instant::now() + self.timing.command),
        };
        match changing {
            Some(until) if is_replaced => drop(self.set_reachability(Reachability::Changing(until))),
            _ => self.set_unreachable(fault),
        }
    }

    /// Marks a server that has been changing for too long as unreachable. Never returns.
    async fn end_changes(&self) {
        let mut progress = self.progress();
        loop {
            let changing = progress.wait_for(|now| matches!(now.reachability, Reachability::Changing(_))).await;
            let Ok(Reachability::Changing(until)) = changing.map(|progress| progress.reachability.clone()) else {
                return std::future::pending().await;
            };
            sleep_until(until).await;
            if matches!(self.reachability(), Reachability::Changing(now) if now == until) {
                self.set_unreachable(&self.shard.fault().unwrap_or_else(|| Fault::unsent(NotConnected)));
            }
        }
    }

    fn set_unreachable(&self, fault: &Fault) {
        let (shard, reason) = (self.shard.index, self.shard.error(fault.clone()).to_string());
        let before = self.set_reachability(Reachability::Unreachable(fault.clone().before_sending()));
        if self.places.cluster().is_some_and(|cluster| !cluster.serves(shard)) {
            // It may be switched off, because it serves nothing.
            return;
        }
        if matches!(before, Reachability::Reachable(..) | Reachability::Changing(_)) {
            if self.fallback == Fallback::Fail {
                warn!(shard, reason, "published messages do not arrive");
            }
            let _ = self.events.send(Event::SubscriptionLost { shard, reason: reason.clone() });
        }
        let mode = if self.fallback == Fallback::Local { Mode::LocalOnly } else { Mode::Down };
        self.modes.mark_unreachable(shard, mode, &reason);
        self.modes.report();
    }

    /// Returns the reachability before.
    fn set_reachability(&self, reachability: Reachability) -> Reachability {
        let applied = self.progress.borrow().applied;
        self.progress.send_replace(Progress { reachability, applied }).reachability
    }
}

/// Pings the server over `subscriber` at this interval. Returns when an answer does not come in time. After a flood of
/// messages the answer comes behind them, which delays no other work.
async fn ping(subscriber: &Subscriber, every: Duration) -> Fault {
    let mut due = interval(every);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        due.tick().await;
        if let Err(fault) = subscriber.catch_up().await {
            return fault;
        }
    }
}
