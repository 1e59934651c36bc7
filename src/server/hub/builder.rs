//! What a hub is started with, and its start.

use std::fmt;
use std::sync::Arc;

use rand::Rng;
use rand::distr::Alphanumeric;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::super::options::SocketOptions;
use super::handle::Inner;
use super::names::Names;
use super::{Hub, HubError};
use crate::error::Result;
use crate::layer::{ChannelLayer, RetryingReceiver};
use crate::server::asgi::connections::Connections;
use crate::server::asgi::messages::code;
use crate::server::hub::membership::index::Index;
use crate::server::hub::membership::reconciler::Keeper;
use crate::server::hub::peers::discovery::Others;
use crate::server::hub::peers::reader;
use crate::server::hub::status::gauges;
use crate::server::limits::origin::Origins;

/// What a hub is started with.
#[must_use]
pub struct HubBuilder {
    layer: Arc<dyn ChannelLayer>,
    name: String,
    options: SocketOptions,
    origins: Origins,
    rooms_per_client: usize,
    trace: bool,
    close_code: u16,
}

impl HubBuilder {
    pub(crate) fn new(layer: Arc<dyn ChannelLayer>) -> Self {
        Self {
            layer,
            name: "main".to_owned(),
            options: SocketOptions::default(),
            origins: Origins::default(),
            rooms_per_client: 1_000,
            trace: false,
            close_code: code::GOING_AWAY,
        }
    }

    /// The hubs of different programs on one layer need different names: up to 40 letters, digits, `_`, `.` and `-`.
    /// Defaults to `main`.
    pub fn name(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// How sockets are held: their queues, times and limits.
    pub fn sockets(mut self, options: SocketOptions) -> Self {
        self.options = options;
        self
    }

    /// The sites whose pages may open WebSockets, such as `https://example.org` or `https://*.example.org`; with the port
    /// if it is not the scheme's own. A browser sends a user's cookies whichever page asks, so who trusts cookies has to
    /// say this. Requests without an `Origin`, which come from no browser, pass. Defaults to all.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`](crate::Error::InvalidConfig) for what is no origin.
    pub fn allowed_origins<T: AsRef<str>>(mut self, origins: impl IntoIterator<Item = T>) -> Result<Self> {
        self.origins = Origins::parse(origins)?;
        Ok(self)
    }

    /// How many rooms a client may be in at once; 0 is no limit. Each that has a client is a group on the layer, which is
    /// renewed. Defaults to 1,000.
    pub fn max_rooms_per_client(mut self, rooms: usize) -> Self {
        self.rooms_per_client = if rooms == 0 { usize::MAX } else { rooms };
        self
    }

    /// Whether [`close`](Hub::close) closes clients with 1012 (the service restarts) rather than 1001 (it is going away).
    /// Defaults to `false`.
    pub fn restarts(mut self, restarts: bool) -> Self {
        self.close_code = if restarts { code::SERVICE_RESTART } else { code::GOING_AWAY };
        self
    }

    /// Whether each method of a [`Handler`](super::Handler) runs at a place in a [trace](crate::trace): `connect` at a step of
    /// the trace of the client's request, if that has one (`traceparent`), and every other one in a new trace. What is sent
    /// there is a further step, and travels with its place to the sockets of all processes; so is what is sent in a
    /// [scope](crate::trace::TraceParent::scope) of the app's own, whatever this says. Each step is told to `tracing` under
    /// the target `channel_layer::trace` at level debug. Defaults to `false`.
    pub fn trace(mut self, enabled: bool) -> Self {
        self.trace = enabled;
        self
    }

    /// Starts the hub, and makes it known to the processes that are there already. One that ended without closing is
    /// waited for, 2 s at the longest.
    ///
    /// # Cancel safety
    ///
    /// When dropped, the tasks that were started end.
    ///
    /// # Errors
    ///
    /// [`HubError::Layer`] if the name is not valid or the layer cannot be reached.
    pub async fn start(self) -> Result<Hub, HubError> {
        let Self { layer, name, options, origins, rooms_per_client, trace, close_code } = self;
        let process: String = rand::rng().sample_iter(Alphanumeric).take(16).map(char::from).collect();
        let names = Arc::new(Names::new(&name, &process)?);
        let receiver = layer.receiver(&[names.channel().as_str()])?;
        let index = Arc::new(Index::default());
        let stop = CancellationToken::new();
        let inner = Arc::new(Inner {
            connections: Connections::on(names.channel().clone(), options),
            keeper: Arc::new(Keeper::new(layer.clone(), names.clone(), index.clone())),
            others: Arc::new(Others::new(layer.clone(), names.clone())),
            tracker: TaskTracker::new(),
            tasks: TaskTracker::new(),
            stop: stop.clone(),
            layer,
            name,
            options,
            origins,
            rooms_per_client,
            trace,
            close_code,
            names,
            index,
        });
        let hub = Hub::new(inner.clone());
        let receiver = RetryingReceiver::new(receiver, "messages of other processes");
        inner.tasks.spawn(reader::read(receiver, inner.clone(), stop.clone()));
        inner.tasks.spawn(inner.keeper.clone().run(stop.clone()));
        inner.tasks.spawn(gauges::keep(inner.clone(), stop.clone()));
        let events = inner.layer.events();
        if let Err(error) = inner.others.come().await {
            // Otherwise the others count this process in until its membership ends.
            inner.others.go().await;
            return Err(error.into());
        }
        inner.tasks.spawn(inner.others.clone().watch(inner.keeper.clone(), events, stop));
        Ok(hub)
    }
}

impl fmt::Debug for HubBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubBuilder").field("name", &self.name).finish_non_exhaustive()
    }
}
