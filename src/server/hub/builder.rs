//! `HubBuilder`: the settings of a hub, and its start.

use std::fmt;
use std::sync::Arc;

use rand::distr::{Alphanumeric, SampleString};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::super::options::SocketOptions;
use super::inner::{Inner, Rooms, Settings, Tasks};
use super::names::Names;
use super::{Hub, HubError};
use crate::error::Result;
use crate::layer::{ChannelLayer, RetryingReceiver};
use crate::server::asgi::connections::Connections;
use crate::server::hub::membership::index::Index;
use crate::server::hub::membership::reconciler::MembershipReconciler;
use crate::server::hub::peers::discovery::PeerDiscovery;
use crate::server::hub::peers::reader;
use crate::server::hub::status::gauges;
use crate::server::limits::origin::Origins;
use crate::server::websocket::close_code as code;

/// Builds a [`Hub`].
#[must_use]
pub struct HubBuilder {
    layer: Arc<dyn ChannelLayer>,
    settings: Settings,
}

impl HubBuilder {
    pub(crate) fn new(layer: Arc<dyn ChannelLayer>) -> Self {
        let settings = Settings {
            name: "main".to_owned(),
            sockets: SocketOptions::default(),
            origins: Origins::default(),
            rooms_per_client: 1_000,
            trace: false,
            close_code: code::GOING_AWAY,
        };
        Self { layer, settings }
    }

    /// Sets the name of the hub: up to 40 letters, digits, `_`, `.` and `-`. Hubs of different programs on one layer
    /// need different names. Defaults to `main`.
    pub fn name(mut self, name: &str) -> Self {
        name.clone_into(&mut self.settings.name);
        self
    }

    /// Sets the queues, timeouts and limits of sockets.
    pub fn sockets(mut self, options: SocketOptions) -> Self {
        self.settings.sockets = options;
        self
    }

    /// Sets the sites whose pages may open WebSockets, such as `https://example.org` or `https://*.example.org`, with
    /// the port if it is not the default of the scheme. Set this if the app trusts cookies: a browser sends the cookies
    /// of its user even if a page of another site opens the WebSocket. Requests without an `Origin` do not come from a
    /// browser, and pass. Defaults to all sites.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`](crate::Error::InvalidConfig) for an invalid origin.
    pub fn allowed_origins<T: AsRef<str>>(mut self, origins: impl IntoIterator<Item = T>) -> Result<Self> {
        self.settings.origins = Origins::parse(origins)?;
        Ok(self)
    }

    /// Sets how many rooms a client may be in at once; 0 is no limit. Each room with clients is a group on the layer
    /// whose membership is renewed. Defaults to 1,000.
    pub fn max_rooms_per_client(mut self, rooms: usize) -> Self {
        self.settings.rooms_per_client = if rooms == 0 { usize::MAX } else { rooms };
        self
    }

    /// Sets whether [`close`](Hub::close) closes clients with 1012 (service restart) instead of 1001 (going away).
    /// Defaults to `false`.
    pub fn restarts(mut self, restarts: bool) -> Self {
        self.settings.close_code = if restarts { code::SERVICE_RESTART } else { code::GOING_AWAY };
        self
    }

    /// Sets whether each method of a [`Handler`](super::Handler) runs in a span of a [trace](crate::trace). `connect`
    /// runs in a child span of the client's request if that has one (`traceparent`); every other method starts a new
    /// trace. A message sent in a span gets a child span, which travels with it to the sockets of all processes.
    /// Messages sent in a [scope](crate::trace::TraceParent::scope) of the app have spans with either setting.
    /// Each span is logged to `tracing` under the target `channel_layer::trace` at level debug. Defaults to `false`.
    pub fn trace(mut self, enabled: bool) -> Self {
        self.settings.trace = enabled;
        self
    }

    /// Starts the hub and announces it to the other processes. Waits for their answers, for up to 2 s if a process has
    /// ended without closing its hub.
    ///
    /// # Cancel safety
    ///
    /// When dropped, the started tasks end.
    ///
    /// # Errors
    ///
    /// [`HubError::Layer`] if the name is invalid, a timeout or size in the [options of sockets](Self::sockets) is 0,
    /// or the layer is unreachable.
    pub async fn start(self) -> Result<Hub, HubError> {
        let Self { layer, settings } = self;
        settings.sockets.validate()?;
        let process = Alphanumeric.sample_string(&mut rand::rng(), 16);
        let names = Arc::new(Names::new(&settings.name, &process)?);
        let receiver = layer.receiver(&[names.channel().as_str()])?;
        let index = Arc::new(Index::default());
        let reconciler = Arc::new(MembershipReconciler::new(layer.clone(), names.clone(), index.clone()));
        let stop = CancellationToken::new();
        let inner = Arc::new(Inner {
            connections: Connections::on(names.channel().clone(), settings.sockets),
            rooms: Rooms { index, reconciler: reconciler.clone() },
            peers: Arc::new(PeerDiscovery::new(layer.clone(), names.clone())),
            tasks: Tasks { sockets: TaskTracker::new(), background: TaskTracker::new(), stop: stop.clone() },
            settings,
            layer,
            names,
        });
        let hub = Hub::new(inner.clone());
        let receiver = RetryingReceiver::new(receiver, "messages of other processes");
        inner.tasks.background.spawn(reader::read(receiver, inner.clone(), stop.clone()));
        inner.tasks.background.spawn(reconciler.clone().run(stop.clone()));
        inner.tasks.background.spawn(gauges::update(inner.clone(), stop.clone()));
        let events = inner.layer.events();
        if let Err(error) = inner.peers.announce().await {
            // Otherwise the other processes would send messages to this one until its membership expires.
            inner.peers.leave().await;
            return Err(error.into());
        }
        inner.tasks.background.spawn(inner.peers.clone().watch(reconciler, events, stop));
        Ok(hub)
    }
}

impl fmt::Debug for HubBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubBuilder").field("name", &self.settings.name).finish_non_exhaustive()
    }
}
