//! One server as a place to hear from: keeps a connection subscribed to what is wanted, and says whether it is.

use std::collections::HashSet;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, broadcast, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::backoff::Backoff;
use crate::config::Fallback;
use crate::error::{Error, Result};
use crate::layer::{Event, Hysteresis, Mode, Modes};
use crate::redis::node::connection::{ServerConnection, Timing};
use crate::redis::node::fault::Fault;
use crate::redis::node::shard::Shard;
use crate::redis::pubsub::inbox::Inbox;
use crate::redis::pubsub::subscribe::desired::{Change, DesiredSubscriptions, Wish};
use crate::redis::pubsub::subscribe::fence::DeliveryFence;
use crate::redis::pubsub::subscribe::subscriber::{Deliver, Subscriber};
use crate::redis::pubsub::topic::Subscription;
use crate::supervise::{contain, contained};

/// What stations are called where panics are counted.
const TASK: &str = "subscription to Redis";
/// How often a subscribed connection is asked whether it is there: nothing else tells of a half-open one.
const ASK_EVERY: Duration = Duration::from_secs(1);
const SHORTEST: Duration = Duration::from_millis(10);
/// A Redis channel that nobody listens to.
const NOBODY: &str = "channel-layer.nobody";
/// How often what the server refused is asked for again: somebody may have changed the rights.
const INSIST_EVERY: Duration = Duration::from_secs(3);
/// After a connection has lasted so long the next one is opened at once.
const LASTING: Duration = Duration::from_secs(1);

/// One server. [`run`](Self::run) keeps it subscribed until the layer closes.
pub(crate) struct SubscriptionManager {
    pub(crate) shard: Arc<Shard>,
    pub(crate) fallback: Fallback,
    /// The command that publishes.
    pub(crate) publish: &'static str,
    timing: Timing,
    return_after: Duration,
    /// Held to note wishes or to take them.
    wishes: Mutex<DesiredSubscriptions>,
    wished: Notify,
    /// Counts what the server refused.
    refusals: watch::Sender<u64>,
    progress: watch::Sender<Progress>,
    modes: Arc<Modes>,
    events: broadcast::Sender<Event>,
}

/// What stations are told to do.
#[derive(Clone, Copy)]
pub(crate) struct Behaviour {
    pub(crate) fallback: Fallback,
    pub(crate) return_after: Duration,
    /// The command that publishes.
    pub(crate) publish: &'static str,
}

/// How far a station is.
#[derive(Clone)]
pub(crate) struct Progress {
    pub(crate) reach: Reachability,
    /// The server has been told of the changes up to this one.
    told: Wish,
}

/// Whether messages of a server arrive.
#[derive(Clone)]
pub(crate) enum Reachability {
    /// Nobody has tried yet.
    Unknown,
    /// They do, over this connection, which belongs to the link of this generation.
    There(Subscriber, u64),
    /// They do not, and why. With [`Fallback::Local`] messages stay in this process.
    Away(Fault),
}

/// What a station remembers of the connections that it has had.
struct Past {
    /// The link beside which messages came last.
    generation: Option<u64>,
    hysteresis: Hysteresis,
}

/// How serving a connection ended.
enum Ended {
    Lost(Fault),
    /// It has answered for long enough.
    Proven,
}

/// What is published over the link would not be heard.
#[derive(Debug, thiserror::Error)]
#[error("the name of the server leads to another one than before")]
struct Elsewhere;

impl SubscriptionManager {
    pub(crate) fn new(
        shard: Arc<Shard>,
        timing: Timing,
        behaviour: Behaviour,
        modes: Arc<Modes>,
        events: broadcast::Sender<Event>,
    ) -> Self {
        let Behaviour { fallback, return_after, publish } = behaviour;
        Self {
            shard,
            fallback,
            publish,
            timing,
            return_after,
            wishes: Mutex::default(),
            wished: Notify::new(),
            refusals: watch::Sender::new(0),
            progress: watch::Sender::new(Progress { reach: Reachability::Unknown, told: 0 }),
            modes,
            events,
        }
    }

    /// Asks for `subscription`.
    pub(crate) fn want(&self, subscription: &Subscription) -> Wish {
        let wish = self.wishes.lock().want(subscription);
        self.wished.notify_one();
        wish
    }

    /// Asks for `subscription` no more.
    pub(crate) fn give_up(&self, subscription: &Subscription) {
        self.wishes.lock().give_up(subscription);
        self.wished.notify_one();
    }

    /// How far the station is, and every change of it.
    pub(crate) fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// Waits until the server has confirmed `subscription`, or nobody needs it to.
    ///
    /// # Errors
    ///
    /// [`Error::Redis`] if the server refused, or is away and nothing stays in this process.
    pub(crate) async fn granted(&self, subscription: &Subscription, wish: Wish) -> Result<()> {
        let mut progress = self.progress();
        let done = |progress: &Progress| match progress.reach {
            Reachability::Unknown => false,
            Reachability::There(..) => progress.told >= wish,
            Reachability::Away(_) => true,
        };
        // The sender lives in `self`, so that the wait cannot fail.
        let reach = progress.wait_for(done).await.map_or(Reachability::Unknown, |progress| progress.reach.clone());
        let fault = match (reach, self.fallback) {
            (Reachability::Away(_), Fallback::Local) => None,
            (Reachability::Away(fault), Fallback::Fail) => Some(fault),
            _ => self.wishes.lock().refusal(subscription),
        };
        fault.map_or(Ok(()), |fault| Err(self.shard.error(fault)))
    }

    /// Waits until the server has refused `subscription`; for ever if it never does.
    pub(crate) async fn refused(&self, subscription: &Subscription, wish: Wish) -> Error {
        let answered = |progress: &Progress| matches!(progress.reach, Reachability::There(..)) && progress.told >= wish;
        let mut refusals = self.refusals.subscribe();
        let _ = self.progress().wait_for(answered).await;
        loop {
            let refusal = self.wishes.lock().refusal(subscription);
            if let Some(fault) = refusal {
                return self.shard.error(fault);
            }
            // The sender lives in `self`, so that the wait cannot fail.
            let _ = refusals.changed().await;
        }
    }

    /// Why something is not subscribed that should be, if it is.
    pub(crate) fn refusal(&self) -> Option<Fault> {
        self.wishes.lock().any_refusal()
    }

    /// Waits until everything has arrived that was published before the call, if anything arrives at all.
    pub(crate) async fn catch_up(&self) {
        let Reachability::There(subscriber, _) = self.reach() else { return };
        // If the connection fails the station finds out for itself; here it means that nothing more can arrive.
        let _ = subscriber.catch_up().await;
    }

    /// Whether messages of the server arrive now.
    pub(crate) fn reach(&self) -> Reachability {
        self.progress.borrow().reach.clone()
    }

    /// Waits until messages of the server do not arrive any more as they did when this was its `reach`.
    pub(crate) async fn departed(&self, reach: &Reachability) {
        let Reachability::There(_, before) = reach else { return };
        let same =
            |progress: &Progress| matches!(progress.reach, Reachability::There(_, present) if present == *before);
        let _ = self.progress().wait_for(|progress| !same(progress)).await;
    }

    /// Waits until it is known whether messages of the server arrive.
    pub(crate) async fn settled(&self) {
        let unknown = |progress: &Progress| matches!(progress.reach, Reachability::Unknown);
        let _ = self.progress().wait_for(|progress| !unknown(progress)).await;
    }

    /// Keeps a connection to the server subscribed until `closing`; messages go to `inbox`.
    pub(crate) async fn run(self: Arc<Self>, inbox: Arc<Inbox>, closing: CancellationToken) {
        closing.run_until_cancelled(self.keep_subscribed(&inbox)).await;
        // Whoever waits for the server finds the layer closed.
        self.progress.send_modify(|progress| progress.reach = Reachability::Away(Fault::unsent(Error::Closed)));
    }

    async fn keep_subscribed(&self, inbox: &Arc<Inbox>) {
        let mut backoff = Backoff::outage();
        let mut past = Past { generation: None, hysteresis: Hysteresis::new(self.return_after) };
        loop {
            let link = self.shard.up_or(|fault| self.depart(fault)).await;
            let began = Instant::now();
            let proof = self.required_proof(&link, &past);
            let fault = self.follow(&link, inbox, proof, &mut past).await;
            past.hysteresis.departed();
            self.depart(&fault);
            self.shard.suspect();
            if began.elapsed() > LASTING {
                backoff = Backoff::outage();
            } else {
                sleep(backoff.pause()).await;
            }
        }
    }

    /// How long `link` has to hold before messages go there, and then the server has to take one; `None` if they go there
    /// at once.
    fn required_proof(&self, link: &ServerConnection, past: &Past) -> Option<Duration> {
        let first = past.generation.is_none() && matches!(self.progress.borrow().reach, Reachability::Unknown);
        if first || self.fallback == Fallback::Fail {
            return None;
        }
        // If the link still stands, only the subscription was lost.
        let stands = past.generation == Some(link.generation);
        Some(if stands { Duration::ZERO } else { past.hysteresis.required(Instant::now()) })
    }

    /// Hears what comes over `link` until that ends. Messages go there when it has given the `proof` that is required.
    async fn follow(
        &self,
        link: &ServerConnection,
        inbox: &Arc<Inbox>,
        proof: Option<Duration>,
        past: &mut Past,
    ) -> Fault {
        let gate = Arc::new(DeliveryFence::new(inbox.clone(), self.shard.index));
        let shut = gate.clone();
        let deliver: Deliver = Arc::new(move |topic, payload| {
            contain(TASK, || gate.pass(topic, &payload));
        });
        let subscribed = async {
            match Subscriber::open(&link.client, &self.timing, deliver).await {
                Ok(subscriber) => self.serve(link, &subscriber, proof, past).await,
                Err(fault) => fault,
            }
        };
        let fault = contained(TASK, Box::pin(subscribed)).await.unwrap_or_else(Fault::panicked);
        shut.shut();
        self.wishes.lock().hang_up();
        fault
    }

    async fn serve(
        &self,
        link: &ServerConnection,
        subscriber: &Subscriber,
        proof: Option<Duration>,
        past: &mut Past,
    ) -> Fault {
        match subscriber.identity().await {
            Ok(Some(identity)) if identity != link.identity => {
                let fault = Fault::unsent(Elsewhere);
                self.shard.lost(link.generation, fault.clone());
                return fault;
            }
            Err(fault) => return fault,
            Ok(_) => {}
        }
        let began = Instant::now();
        let mut held = HashSet::new();
        let all = self.wishes.lock().take_all();
        if let Err(fault) = self.tell(subscriber, all, &mut held).await {
            return fault;
        }
        if let Some(time) = proof {
            if let Ended::Lost(fault) = self.attend(link, subscriber, &mut held, Some(began + time)).await {
                return fault;
            }
            if let Err(fault) = self.takes_messages(link).await {
                return fault;
            }
        }
        // A link that was lost with it has been counted.
        let lost_alone = past.generation.replace(link.generation) == Some(link.generation);
        metrics::counter!("channel_layer_reconnects_total").increment(u64::from(lost_alone));
        past.hysteresis.arrived();
        self.arrive(subscriber.clone(), link.generation);
        match self.attend(link, subscriber, &mut held, None).await {
            Ended::Lost(fault) => fault,
            Ended::Proven => Fault::unexpected("the subscription ended"),
        }
    }

    /// Finds out whether the server takes messages: one that is paused for writes answers everything else. That it refuses
    /// this one is no outage.
    async fn takes_messages(&self, link: &ServerConnection) -> Result<(), Fault> {
        let mut pipeline = redis::pipe();
        pipeline.cmd(self.publish).arg(NOBODY).arg("");
        let answers = self.shard.run_each(&pipeline, 1, Some(link.generation)).await;
        answers.into_iter().find_map(|answer| answer.err().filter(|fault| fault.outage)).map_or(Ok(()), Err)
    }

    /// Keeps the connection up to date until it is lost, or `until`.
    async fn attend(
        &self,
        link: &ServerConnection,
        subscriber: &Subscriber,
        held: &mut HashSet<Subscription>,
        until: Option<Instant>,
    ) -> Ended {
        let mut insist = interval(INSIST_EVERY);
        insist.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let end = async {
            match until {
                Some(until) => sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        // While it has to prove itself it is asked more often.
        let every = if until.is_some() { ASK_EVERY.min(self.return_after / 4) } else { ASK_EVERY };
        let (mut end, mut gone) = (pin!(end), pin!(self.shard.gone(link.generation)));
        let (mut lost, mut silent) = (pin!(subscriber.lost()), pin!(silent(subscriber, every.max(SHORTEST))));
        loop {
            let step = async {
                tokio::select! {
                    () = &mut end => subscriber.catch_up().await.map(|()| true),
                    () = self.wished.notified() => {
                        let change = self.wishes.lock().take_change(held);
                        self.tell(subscriber, change, held).await.map(|()| false)
                    }
                    _ = insist.tick() => {
                        let mut wishes = self.wishes.lock();
                        wishes.insist();
                        self.wished.notify_one();
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
                Ok(true) => return Ended::Proven,
                Err(fault) => return Ended::Lost(fault),
            }
        }
    }

    /// Tells the server of a change, and those who wait for it.
    async fn tell(
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
        held.extend(subscribe);
        for (subscription, _) in &refused {
            held.remove(subscription);
        }
        self.wishes.lock().grant(held);
        for (subscription, fault) in refused {
            let known = self.wishes.lock().refusal(&subscription).is_some();
            if !known {
                let fault = self.shard.error(fault.clone());
                warn!(shard = self.shard.index, ?subscription, %fault, "a subscription was refused");
            }
            self.wishes.lock().refuse(&subscription, fault);
            self.refusals.send_modify(|refusals| *refusals += 1);
        }
        self.progress.send_modify(|progress| progress.told = up_to);
        Ok(())
    }

    fn arrive(&self, subscriber: Subscriber, generation: u64) {
        let shard = self.shard.index;
        let before = self.set_reach(Reachability::There(subscriber, generation));
        self.modes.arrive(shard);
        if matches!(before, Reachability::Away(_)) {
            if self.fallback == Fallback::Fail {
                info!(shard, "published messages arrive again");
            }
            let _ = self.events.send(Event::SubscriptionRestored { shard });
        }
    }

    fn depart(&self, fault: &Fault) {
        let (shard, reason) = (self.shard.index, self.shard.error(fault.clone()).to_string());
        let before = self.set_reach(Reachability::Away(fault.clone().before_sending()));
        if matches!(before, Reachability::There(..)) {
            if self.fallback == Fallback::Fail {
                warn!(shard, reason, "published messages do not arrive");
            }
            let _ = self.events.send(Event::SubscriptionLost { shard, reason: reason.clone() });
        }
        let mode = if self.fallback == Fallback::Local { Mode::LocalOnly } else { Mode::Down };
        self.modes.leave(shard, mode, &reason);
    }

    fn set_reach(&self, reach: Reachability) -> Reachability {
        let told = self.progress.borrow().told;
        self.progress.send_replace(Progress { reach, told }).reach
    }
}

/// Asks `subscriber` so often whether it is there; ends when it does not answer. Where much has come the answer waits for its
/// turn behind that, which holds up nothing else.
async fn silent(subscriber: &Subscriber, every: Duration) -> Fault {
    let mut ask = interval(every);
    ask.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ask.tick().await;
        if let Err(fault) = subscriber.catch_up().await {
            return fault;
        }
    }
}
