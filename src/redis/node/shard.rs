//! One server of a layer: whether it is there, and commands on it.

use std::sync::Arc;
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
use crate::redis::node::connect_error::ConnectError;
use crate::redis::node::connection;
use crate::redis::node::connection::{Greeting, Requirements, ServerConnection};
use crate::redis::node::fault::Fault;
use crate::redis::node::source::EndpointSource;
use crate::redis::node::status::ServerStatus;
use crate::supervise::contained;

/// How often a server that is there is asked for its time and its epoch. With the time that an answer may take it is how
/// soon a server that falls silent is left.
const PROBE_EVERY: Duration = Duration::from_millis(500);

/// One server. [`supervise`](Self::supervise) keeps it connected until the layer closes.
pub struct Shard {
    /// Position in the configured hosts.
    pub(crate) index: usize,
    /// The server's clock.
    pub(crate) clock: Clock,
    /// How the host is named in logs: without credentials.
    host: String,
    origin: EndpointSource,
    /// Where the server was last found, as errors say it. Held only to read or replace it.
    address: Mutex<Arc<str>>,
    pub(crate) needs: Requirements,
    state: watch::Sender<State>,
    pub(crate) vitals: ServerStatus,
    /// The epoch of the data that was there when the server was last reached. Held only to compare and replace it.
    epoch: Mutex<Option<String>>,
    /// Asks the supervisor to look at once.
    suspicion: Notify,
    /// Cancelled when no command may wait for the server any more.
    pub(crate) hurry: CancellationToken,
    events: broadcast::Sender<Event>,
}

#[derive(Clone)]
pub(crate) enum State {
    Up(ServerConnection),
    Down(Fault),
}

/// What a shard is made from.
pub(crate) struct ShardOptions {
    /// How the host is named in logs: without credentials.
    pub(crate) host: String,
    pub(crate) origin: EndpointSource,
    pub(crate) needs: Requirements,
}

#[derive(Debug, thiserror::Error)]
#[error("not connected yet")]
pub(crate) struct NotConnected;

#[derive(Debug, thiserror::Error)]
#[error("the sentinels name another master")]
struct MasterMoved;

#[derive(Debug, thiserror::Error)]
#[error("the layer is closed")]
struct LayerClosed;

impl Shard {
    pub(crate) fn new(index: usize, options: ShardOptions, events: broadcast::Sender<Event>) -> Self {
        let ShardOptions { host, origin, needs } = options;
        Self {
            index,
            clock: Clock::default(),
            host,
            address: Mutex::new(origin.place().into()),
            origin,
            needs,
            state: watch::Sender::new(State::Down(Fault::unsent(NotConnected))),
            vitals: ServerStatus::new(),
            epoch: Mutex::new(None),
            suspicion: Notify::new(),
            hurry: CancellationToken::new(),
            events,
        }
    }

    /// Tries once to reach the server.
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
                // That the other does not accept us may end before the next attempt; now it is worth an error.
                self.state.send_replace(State::Down(fault.clone().of_an_outage()));
                Err(self.error(fault))
            }
        }
    }

    async fn open(&self) -> Result<(), ConnectError> {
        let client = self.origin.locate().await?;
        *self.address.lock() = self.origin.address(&client).into();
        let (mut link, greeting) = ServerConnection::open(&client, self.origin.is_service(), &self.needs).await?;
        let (asked, time, _) = connection::probe(&mut link.commands, None).await?;
        self.clock.observe(asked, time);
        self.vitals.answered(asked.elapsed());
        self.exchange_settings(&link).await;
        let server = link.client.get_connection_info().addr().to_string();
        let Greeting { version, role, .. } = &greeting;
        info!(shard = self.index, host = self.host, server, version, role, "redis shard is up");
        self.vitals.came_up(server, &greeting);
        self.state.send_replace(State::Up(link));
        let _ = self.events.send(Event::ShardUp { shard: self.index });
        self.compare_epoch(greeting.epoch);
        Ok(())
    }

    /// Announces the loss of the data if `epoch` is another than before.
    fn compare_epoch(&self, epoch: Option<String>) {
        let lost = {
            let mut known = self.epoch.lock();
            let lost = known.is_some() && *known != epoch;
            *known = epoch;
            lost
        };
        if lost {
            warn!(shard = self.index, host = self.host, "redis shard has lost its data");
            let _ = self.events.send(Event::DataLost { shard: self.index });
        }
    }

    /// Keeps the server connected until `closing`, and then closes its connections; asks it for its time now and then.
    pub(crate) async fn supervise(self: Arc<Self>, closing: CancellationToken) {
        let work = async {
            loop {
                let connected = async {
                    self.watch_link().await;
                    self.reconnect().await;
                };
                if contained("connection to Redis", Box::pin(connected)).await.is_none() {
                    tokio::time::sleep(self.needs.timing.backoff).await;
                }
            }
        };
        closing.run_until_cancelled(work).await;
        self.vitals.went_down();
        self.state.send_replace(State::Down(Fault::unsent(LayerClosed)));
    }

    /// Ends when the server is lost.
    async fn watch_link(&self) {
        let Ok(link) = self.link() else { return };
        let mut moved = std::pin::pin!(self.origin.moved(&link.client));
        let mut settings = std::pin::pin!(self.keep_exchanging_settings(&link));
        loop {
            if let Err(error) = self.probe(link.clone()).await {
                self.lost(link.generation, error.into());
                return;
            }
            let mut states = self.state.subscribe();
            tokio::select! {
                () = tokio::time::sleep(PROBE_EVERY) => {}
                () = self.suspicion.notified() => {}
                () = &mut settings => {}
                () = &mut moved => {
                    self.lost(link.generation, Fault::unsent(MasterMoved));
                    return;
                }
                _ = states.wait_for(|state| matches!(state, State::Down(_))) => return,
            }
        }
    }

    async fn probe(&self, mut link: ServerConnection) -> Result<(), RedisError> {
        let key = self.needs.epoch_key.as_deref();
        let (asked, time, epoch) = connection::probe(&mut link.commands, key).await?;
        link.heard.note();
        self.clock.observe(asked, time);
        self.vitals.answered(asked.elapsed());
        if let (Some(key), None) = (key, &epoch) {
            // Somebody emptied the server under us. The next one that connects shall see an epoch.
            connection::make_epoch(&mut link.commands, key).await?;
        }
        self.compare_epoch(epoch);
        Ok(())
    }

    async fn reconnect(&self) {
        let mut backoff = Backoff::new(self.needs.timing.backoff, self.origin.longest_pause());
        let lost = self.vitals.was_reached();
        let mut reasons = Reasons::default();
        // The first one has been told, by the log or to the caller that connects.
        if let Some(fault) = self.fault() {
            reasons.is_new(&fault.line(&self.address()));
        }
        while let Err(error) = self.open().await {
            self.stays_down(Fault::from(error).of_an_outage(), &mut reasons);
            tokio::time::sleep(backoff.pause()).await;
        }
        metrics::counter!("channel_layer_reconnects_total").increment(u64::from(lost));
    }

    /// Notes why the server cannot be reached again, and tells each new reason.
    fn stays_down(&self, fault: Fault, reasons: &mut Reasons) {
        let reason = fault.line(&self.address());
        self.state.send_replace(State::Down(fault));
        if reasons.is_new(&reason) {
            warn!(shard = self.index, host = self.host, reason, "redis shard is still down");
            let _ = self.events.send(Event::ShardDown { shard: self.index, reason });
        }
    }

    /// Notes that the link of this generation is of no more use.
    pub(crate) fn lost(&self, generation: u64, fault: Fault) {
        let reason = fault.line(&self.address());
        let changed = self.state.send_if_modified(|state| {
            let current = matches!(state, State::Up(link) if link.generation == generation);
            if current {
                *state = State::Down(fault.before_sending());
            }
            current
        });
        if changed {
            self.vitals.went_down();
            warn!(shard = self.index, host = self.host, reason, "redis shard is down");
            let _ = self.events.send(Event::ShardDown { shard: self.index, reason });
        }
    }

    /// The present connections.
    pub(crate) fn link(&self) -> Result<ServerConnection, Fault> {
        match &*self.state.borrow() {
            State::Up(link) => Ok(link.clone()),
            State::Down(fault) => Err(fault.clone()),
        }
    }

    /// By what the present connections are told apart from others.
    pub(crate) fn generation(&self) -> Result<u64, Fault> {
        match &*self.state.borrow() {
            State::Up(link) => Ok(link.generation),
            State::Down(fault) => Err(fault.clone()),
        }
    }

    /// Why the server is not there, if it is not.
    pub(crate) fn fault(&self) -> Option<Fault> {
        self.generation().err()
    }

    /// The time of the server in ms since the epoch, if it is there.
    pub(crate) fn now_ms(&self) -> Result<u64, Fault> {
        match &*self.state.borrow() {
            // It told its time before it counted as up.
            State::Up(_) => self.clock.now_ms().ok_or_else(|| Fault::unsent(NotConnected)),
            State::Down(fault) => Err(fault.clone()),
        }
    }

    /// Whether the server is there.
    pub(crate) fn is_up(&self) -> bool {
        matches!(&*self.state.borrow(), State::Up(_))
    }

    /// Waits until the server is there.
    pub(crate) async fn up(&self) -> ServerConnection {
        self.up_or(|_| {}).await
    }

    /// Waits until the server is there; shows why it is not to `away`, whenever it has been tried.
    pub(crate) async fn up_or(&self, mut away: impl FnMut(&Fault)) -> ServerConnection {
        let mut states = self.state.subscribe();
        loop {
            let state = states.borrow_and_update().clone();
            match state {
                State::Up(link) => return link,
                State::Down(fault) => away(&fault),
            }
            // The sender lives in `self`, so that the wait cannot fail.
            let _ = states.changed().await;
        }
    }

    /// Waits until the link of `generation` is no more, and tells why.
    pub(crate) async fn gone(&self, generation: u64) -> Fault {
        let mut states = self.state.subscribe();
        loop {
            match &*states.borrow_and_update() {
                State::Up(link) if link.generation == generation => {}
                State::Up(_) => return Fault::unsent(NotConnected),
                State::Down(fault) => return fault.clone(),
            }
            // The sender lives in `self`, so that the wait cannot fail.
            let _ = states.changed().await;
        }
    }

    /// Ends all waiting for a server that is away.
    pub(crate) fn hurry(&self) {
        self.hurry.cancel();
    }

    /// Has the server asked at once whether it is there, since a connection to it broke.
    pub(crate) fn suspect(&self) {
        self.suspicion.notify_one();
    }

    /// What is known of it, without asking.
    pub(crate) fn health(&self) -> ShardHealth {
        let reason = self.fault().map(|fault| fault.line(&self.address()));
        self.vitals.report(self.index, &self.host, reason, self.epoch.lock().clone(), self.clock.offset_seconds())
    }

    /// How long a command and its answer may take.
    pub(crate) fn patience(&self) -> Duration {
        self.needs.timing.command
    }

    /// The error of a call that met this fault of the server.
    pub(crate) fn error(&self, fault: Fault) -> Error {
        Error::Redis { shard: self.index, cause: Box::new(fault.at(&self.address())) }
    }

    fn address(&self) -> Arc<str> {
        self.address.lock().clone()
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
