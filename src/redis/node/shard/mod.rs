//! `Shard`: one server of a layer, its state, and the supervisor that keeps it connected.

mod availability;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use redis::RedisError;
use tokio::sync::{Notify, broadcast, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::backoff::Backoff;
use crate::error::{Error, Result};
use crate::health::ShardHealth;
use crate::layer::{Event, Reasons};
use crate::redis::node::clock::Clock;
use crate::redis::node::connection;
use crate::redis::node::connection::connect_error::ConnectError;
use crate::redis::node::connection::{Greeting, Requirements, ServerConnection};
use crate::redis::node::endpoint::source;
use crate::redis::node::endpoint::source::EndpointSource;
use crate::redis::node::epoch;
use crate::redis::node::epoch::{EpochAnswer, KnownEpoch};
use crate::redis::node::fault::Fault;
use crate::redis::node::status::ServerStatus;
use crate::supervise::contained;

/// How often a connected server is asked for its time and its epoch. A server that falls silent counts as down after
/// this interval and the command timeout.
const PROBE_EVERY: Duration = Duration::from_millis(500);

/// One server of a layer. [`supervise`](Self::supervise) keeps it connected until the layer closes.
pub struct Shard {
    /// Position in the configured hosts, or the number of a shard of a cluster.
    pub(crate) index: usize,
    /// The server's clock.
    pub(crate) clock: Clock,
    /// How the host is named in logs: without credentials.
    host: String,
    source: EndpointSource,
    /// The last known address of the server, as errors show it. Held only to read or replace it.
    address: Mutex<Arc<str>>,
    pub(crate) requirements: Requirements,
    state: watch::Sender<State>,
    /// Whether the connection to a node of a cluster was lost, and the layout has not been asked since whether another
    /// node has its slots.
    is_doubtful: AtomicBool,
    pub(crate) status: ServerStatus,
    /// The last known epoch of the server's data. Held only to compare and replace it.
    epoch: Mutex<KnownEpoch>,
    /// Asks the supervisor to probe the server at once.
    suspicion: Notify,
    /// How many connections for blocking reads the log says that it needs, beyond its pool.
    pub(crate) reported_need: AtomicUsize,
    /// Cancelled when no command of the layer may be retried any more.
    pub(crate) retries_cancelled: CancellationToken,
    events: broadcast::Sender<Event>,
}

#[derive(Clone)]
pub(crate) enum State {
    Up(ServerConnection),
    Down(Fault),
}

/// The options of [`Shard::new`].
pub(crate) struct ShardOptions {
    /// How the host is named in logs: without credentials.
    pub(crate) host: String,
    pub(crate) source: EndpointSource,
    pub(crate) requirements: Requirements,
    /// Cancelled when no command of the layer may be retried any more.
    pub(crate) retries_cancelled: CancellationToken,
}

#[derive(Debug, thiserror::Error)]
#[error("not connected yet")]
pub(crate) struct NotConnected;

#[derive(Debug, thiserror::Error)]
#[error("its nodes have left the cluster")]
struct Retired;

#[derive(Debug, thiserror::Error)]
#[error("the layer is closed")]
struct LayerClosed;

impl Shard {
    pub(crate) fn new(index: usize, options: ShardOptions, events: broadcast::Sender<Event>) -> Self {
        let ShardOptions { host, source, requirements, retries_cancelled } = options;
        let unconnected = Fault::unsent(NotConnected);
        let unconnected = if source.is_cluster() { unconnected.while_replaced() } else { unconnected };
        Self {
            index,
            clock: Clock::default(),
            host,
            address: Mutex::new(source.place().into()),
            source,
            requirements,
            state: watch::Sender::new(State::Down(unconnected)),
            is_doubtful: AtomicBool::new(false),
            status: ServerStatus::new(),
            epoch: Mutex::default(),
            suspicion: Notify::new(),
            reported_need: AtomicUsize::new(0),
            retries_cancelled,
            events,
        }
    }

    /// Tries once to connect to the server.
    ///
    /// # Errors
    ///
    /// [`Error::Redis`], [`Error::UnsupportedServer`].
    pub(crate) async fn connect(&self) -> Result<()> {
        match self.open().await {
            Ok(()) => Ok(()),
            Err(ConnectError::TooOld { version, needed }) => {
                let (address, needed) = (self.address().to_string(), needed.to_string());
                Err(Error::UnsupportedServer { shard: self.index, address, version, needed })
            }
            Err(error) => {
                let fault = Fault::from(error);
                // A refusal may have ended by the next attempt, so later commands see an outage. This caller sees the
                // refusal.
                self.state.send_replace(State::Down(fault.clone().into_outage()));
                Err(self.error(fault))
            }
        }
    }

    async fn open(&self) -> Result<(), ConnectError> {
        let client = self.source.locate().await?;
        *self.address.lock() = self.source.address(&client).into();
        let key = self.epoch_key();
        let (mut connection, greeting) = ServerConnection::open(
            &client,
            self.source.follows_master(),
            key.as_deref(),
            self.index,
            &self.requirements,
        )
        .await?;
        let (asked, time, _) = connection::probe(&mut connection.commands, None).await?;
        self.clock.observe(asked, time);
        self.status.record_latency(asked.elapsed());
        self.compare_settings(&connection).await;
        let server = connection.client.get_connection_info().addr().to_string();
        let Greeting { version, role, .. } = &greeting;
        info!(shard = self.index, host = self.host, server, version, role, "redis shard is up");
        self.status.record_up(server, &greeting);
        self.state.send_replace(State::Up(connection));
        let _ = self.events.send(Event::ShardUp { shard: self.index });
        self.compare_epoch(greeting.epoch);
        Ok(())
    }

    /// The key of the epoch of the server's data, if it has one.
    fn epoch_key(&self) -> Option<String> {
        let key = self.requirements.epoch_key.as_deref()?;
        if !self.source.is_cluster() {
            return Some(key.to_owned());
        }
        self.epoch.lock().key_in_slot(key, |slot| self.source.serves(slot)).map(str::to_owned)
    }

    /// Announces the loss of the server's data if its epoch is another than the known one.
    fn compare_epoch(&self, epoch: EpochAnswer) {
        let epoch = match epoch {
            // The master has been replaced, and its replica has to have the same epoch.
            EpochAnswer::Elsewhere(Some(target)) if self.source.has_node(&target.seen_from(&self.connected_host())) => {
                EpochAnswer::Unknown
            }
            epoch => epoch,
        };
        let lost = self.epoch.lock().record(epoch);
        if lost {
            warn!(shard = self.index, host = self.host, "redis shard has lost its data");
            let _ = self.events.send(Event::DataLost { shard: self.index });
        }
    }

    /// Keeps the server connected, and probes it regularly, until `closing` is cancelled or its nodes have left the
    /// cluster. Then closes its connections.
    pub(crate) async fn supervise(self: Arc<Self>, closing: CancellationToken) {
        let work = async {
            loop {
                let connected = async {
                    self.watch_connection().await;
                    self.reconnect().await;
                };
                if contained("connection to Redis", Box::pin(connected)).await.is_none() {
                    tokio::time::sleep(self.requirements.timing.backoff).await;
                }
            }
        };
        let ended = tokio::select! {
            _ = closing.run_until_cancelled(work) => Fault::unsent(LayerClosed),
            () = self.source.retired() => {
                info!(shard = self.index, host = self.host, "redis shard has left the cluster");
                let _ = self.events.send(Event::ShardRemoved { shard: self.index });
                Fault::unsent(Retired).while_replaced()
            }
        };
        self.status.record_down();
        self.state.send_replace(State::Down(ended));
    }

    /// Probes the connected server. Returns when the connection is lost.
    async fn watch_connection(&self) {
        let Ok(connection) = self.connection() else { return };
        let mut moved = std::pin::pin!(self.source.moved(&connection));
        let mut settings = std::pin::pin!(self.keep_publishing_settings(&connection));
        loop {
            if let Err(error) = self.probe(connection.clone()).await {
                self.mark_down(connection.generation, error.into());
                return;
            }
            let mut states = self.state.subscribe();
            tokio::select! {
                () = tokio::time::sleep(PROBE_EVERY) => {}
                () = self.suspicion.notified() => {}
                () = &mut settings => {}
                reason = &mut moved => {
                    self.mark_down(connection.generation, Fault::unsent(reason).while_replaced());
                    return;
                }
                _ = states.wait_for(|state| matches!(state, State::Down(_))) => return,
            }
        }
    }

    async fn probe(&self, mut connection: ServerConnection) -> Result<(), RedisError> {
        let key = self.epoch_key();
        let (asked, time, epoch) = connection::probe(&mut connection.commands, key.as_deref()).await?;
        connection.heard.note();
        self.clock.observe(asked, time);
        self.status.record_latency(asked.elapsed());
        if let (Some(key), EpochAnswer::Epoch(None)) = (key, &epoch) {
            // The server was emptied while it was connected. The next process that connects has to find an epoch.
            epoch::create(&mut connection.commands, &key).await?;
        }
        self.compare_epoch(epoch);
        Ok(())
    }

    async fn reconnect(&self) {
        let mut backoff = Backoff::new(self.requirements.timing.backoff, self.source.longest_pause());
        let lost = self.status.has_been_reached();
        let mut reasons = Reasons::default();
        if self.is_doubtful.swap(false, Ordering::Relaxed) {
            self.confirm_loss(&mut reasons).await;
        }
        // The first reason of an outage has been reported already, in the log or to the caller of `connect`.
        if let Some(fault) = self.outage() {
            reasons.is_new(&fault.line(&self.address()));
        }
        while let Err(error) = self.open().await {
            self.record_still_down(Fault::from(error).into_outage(), &mut reasons);
            tokio::time::sleep(backoff.pause()).await;
        }
        metrics::counter!("channel_layer_reconnects_total").increment(u64::from(lost));
    }

    /// Asks for the layout after a connection was lost. Up to then, calls wait. If the node is still the master, they
    /// fail.
    async fn confirm_loss(&self, reasons: &mut Reasons) {
        let located = self.source.locate().await;
        let is_same = located.map_or(true, |client| *self.source.address(&client) == *self.address());
        if let Some(fault) = self.fault().filter(|_| is_same) {
            self.record_still_down(fault.without_redirect(), reasons);
        }
    }

    /// Records why the server stays unreachable, and reports each new reason.
    fn record_still_down(&self, fault: Fault, reasons: &mut Reasons) {
        let reason = fault.line(&self.address());
        // An outage that has been reported ends with a connection: calls do not wait for a server that returns and
        // loads its data.
        let fault = if reasons.is_empty() { fault } else { fault.without_redirect() };
        let is_outage = !self.is_being_replaced(&fault);
        self.state.send_replace(State::Down(fault));
        if is_outage && reasons.is_new(&reason) {
            warn!(shard = self.index, host = self.host, reason, "redis shard is still down");
            let _ = self.events.send(Event::ShardDown { shard: self.index, reason });
        }
    }

    /// Marks the server as down if its connection is still the one of `generation`.
    pub(crate) fn mark_down(&self, generation: u64, fault: Fault) {
        let fault = fault.into_outage().before_sending();
        // A node that has no slots any more may have been removed.
        let is_doubtful = self.source.is_cluster() && fault.redirect.is_none();
        let fault = if is_doubtful { fault.while_replaced() } else { fault };
        let changed = self.state.send_if_modified(|state| {
            let current = matches!(state, State::Up(connection) if connection.generation == generation);
            if current {
                *state = State::Down(fault.clone());
                self.is_doubtful.store(is_doubtful, Ordering::Relaxed);
                self.status.record_down();
            }
            current
        });
        let reason = fault.line(&self.address());
        if !changed {
        } else if self.is_being_replaced(&fault) {
            info!(shard = self.index, host = self.host, reason, "the redis shard waits for its master");
        } else {
            warn!(shard = self.index, host = self.host, reason, "redis shard is down");
            let _ = self.events.send(Event::ShardDown { shard: self.index, reason });
        }
    }

    /// Ends all retries of commands of the layer.
    pub(crate) fn cancel_retries(&self) {
        self.retries_cancelled.cancel();
    }

    /// Has the supervisor probe the server at once, because a connection to it broke.
    pub(crate) fn suspect(&self) {
        self.suspicion.notify_one();
    }

    /// The last known state of the server. Sends no command.
    pub(crate) fn health(&self) -> ShardHealth {
        let reason = self.fault().map(|fault| fault.line(&self.address()));
        let epoch = self.epoch.lock().value.clone();
        let (offset, connections) = (self.clock.offset_seconds(), self.blocking_connections());
        self.status.report(self.index, &self.host, reason, epoch, offset, connections)
    }

    /// The longest duration of a command.
    pub(crate) fn command_timeout(&self) -> Duration {
        self.requirements.timing.command
    }

    /// The error of a call that failed with `fault`.
    pub(crate) fn error(&self, fault: Fault) -> Error {
        Error::Redis { shard: self.index, cause: Box::new(fault.at(&self.address())) }
    }

    fn address(&self) -> Arc<str> {
        self.address.lock().clone()
    }

    /// The host at which the server is connected; empty while it is down.
    pub(crate) fn connected_host(&self) -> String {
        let address = self.connection().ok().and_then(|connection| source::address(&connection.client));
        address.map(|(host, _)| host).unwrap_or_default()
    }

    /// Whether the server has to hold `key`. In a cluster only one of them has.
    pub(crate) fn holds(&self, key: &str) -> bool {
        self.source.holds(key)
    }

    /// Whether the answer to a `PUBLISH` counts all subscribers.
    pub(crate) fn knows_all_subscribers(&self) -> bool {
        self.source.knows_all_subscribers()
    }

    /// How the host is named in logs.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }
}

impl std::fmt::Debug for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shard").field("index", &self.index).field("host", &self.host).finish_non_exhaustive()
    }
}
