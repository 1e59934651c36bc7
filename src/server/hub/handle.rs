//! `Hub`: the sockets of a program by rooms and users, across all its processes.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use tokio::time::{Instant, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::super::limits::Refused;
use super::super::options::SocketOptions;
use super::names::{Kind, Names};
use super::{ClientId, Handler, HubBuilder, HubError, Payload, serve};
use crate::layer::ChannelLayer;
use crate::server::asgi::connections::Connections;
use crate::server::asgi::messages::Reply;
use crate::server::hub::membership::index::Index;
use crate::server::hub::membership::reconciler::Keeper;
use crate::server::hub::peers::discovery::Others;
use crate::server::hub::peers::wire;
use crate::server::hub::status::spans as steps;
use crate::server::hub::status::state::{Mode, Status};
use crate::server::limits::origin::Origins;
use crate::server::websocket::upgrade::Upgrade;
use crate::trace::TraceParent;

/// The sockets of this process, and its share of the rooms and users of all processes. See the [module](super).
///
/// Cheap to clone. Its tasks end when it is [closed](Self::close), or with the last clone and the last client.
#[derive(Clone)]
pub struct Hub {
    inner: Arc<Inner>,
    _running: Arc<DropGuard>,
}

/// How long the end of the tasks may take, which the layer has a part in.
const END_WITHIN: Duration = Duration::from_secs(10);

pub(crate) struct Inner {
    pub(crate) layer: Arc<dyn ChannelLayer>,
    pub(crate) name: String,
    pub(crate) options: SocketOptions,
    pub(crate) origins: Origins,
    pub(crate) rooms_per_client: usize,
    /// Whether handlers are at places in traces.
    pub(crate) trace: bool,
    /// The code that a close closes clients with.
    pub(crate) close_code: u16,
    pub(crate) names: Arc<Names>,
    pub(crate) connections: Arc<Connections>,
    pub(crate) index: Arc<Index>,
    pub(crate) keeper: Arc<Keeper>,
    pub(crate) others: Arc<Others>,
    /// Counts the sockets, for the close to wait for.
    pub(crate) tracker: TaskTracker,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
}

impl Hub {
    /// A hub over `layer`, with the defaults.
    ///
    /// # Cancel safety
    ///
    /// As [`HubBuilder::start`].
    ///
    /// # Errors
    ///
    /// As [`HubBuilder::start`].
    pub async fn start(layer: Arc<dyn ChannelLayer>) -> Result<Self, HubError> {
        Self::builder(layer).start().await
    }

    /// A hub over `layer`, to be set up.
    pub fn builder(layer: Arc<dyn ChannelLayer>) -> HubBuilder {
        HubBuilder::new(layer)
    }

    /// The answer to a request for a WebSocket: its client is handled by `handler` from now on. Or it is refused: with 403
    /// if a page of another site asks than [may](HubBuilder::allowed_origins), with 503 if there are too many clients or
    /// the hub is closing.
    pub fn upgrade(&self, upgrade: Upgrade, handler: impl Handler) -> Response {
        if !self.inner.origins.permit(upgrade.origins()) {
            metrics::counter!("channel_layer_refused_total", "limit" => "origin").increment(1);
            return StatusCode::FORBIDDEN.into_response();
        }
        if self.inner.connections.is_closing() {
            return Refused::Closing.into_response();
        }
        match self.inner.connections.open(upgrade.address()) {
            Ok(connection) => serve::open(self.clone(), upgrade, connection, handler),
            Err(refused) => refused.into_response(),
        }
    }

    /// Sends to all clients in a room; gives how many of them are connected to this process.
    ///
    /// A client gets the messages of one room from one process in the order in which they were sent. While there is no
    /// other process, nothing leaves this one.
    ///
    /// # Cancel safety
    ///
    /// When dropped, clients of other processes get the message or not; those of this one have it.
    ///
    /// # Errors
    ///
    /// [`HubError::Layer`]: clients of other processes may have missed the message; those of this one have it.
    pub async fn broadcast(&self, room: &str, payload: impl Into<Payload>) -> Result<usize, HubError> {
        self.send(Some((Kind::Room, room)), payload.into()).await
    }

    /// Sends each message to its room, with one call of the layer; gives as many results, in their order.
    ///
    /// # Cancel safety
    ///
    /// As [`broadcast`](Self::broadcast).
    pub async fn broadcast_many<P: Into<Payload>>(
        &self,
        messages: impl IntoIterator<Item = (&str, P)>,
    ) -> Vec<Result<usize, HubError>> {
        let began = Instant::now();
        let messages: Vec<_> = messages.into_iter().map(|(room, payload)| (room, payload.into())).collect();
        let alone = self.inner.others.are_none();
        let trace = steps::sending(self.inner.names.member());
        let here: Vec<_> =
            messages.iter().map(|(room, payload)| self.send_here(Some((Kind::Room, *room)), payload, trace)).collect();
        if alone {
            broadcast_took(began);
            return here.into_iter().map(Ok).collect();
        }
        let remote = messages.into_iter().map(|(room, payload)| {
            let to = Some((Kind::Room, room));
            (self.group(to), wire::content(self.inner.names.member(), to, payload, trace))
        });
        let remote: Vec<_> = remote.collect();
        let remote: Vec<_> = remote.iter().map(|(group, message)| (group.as_str(), message.clone())).collect();
        let sent = self.inner.layer.group_send_many(&remote).await;
        broadcast_took(began);
        sent.into_iter().zip(here).map(|(sent, here)| sent.map(|()| here).map_err(HubError::from)).collect()
    }

    /// Sends to all clients; gives how many of them are connected to this process.
    ///
    /// # Cancel safety
    ///
    /// As [`broadcast`](Self::broadcast).
    ///
    /// # Errors
    ///
    /// As [`broadcast`](Self::broadcast).
    pub async fn broadcast_all(&self, payload: impl Into<Payload>) -> Result<usize, HubError> {
        self.send(None, payload.into()).await
    }

    /// Sends to all clients of a user; gives how many of them are connected to this process.
    ///
    /// # Cancel safety
    ///
    /// As [`broadcast`](Self::broadcast).
    ///
    /// # Errors
    ///
    /// As [`broadcast`](Self::broadcast).
    pub async fn send_to_user(&self, user: &str, payload: impl Into<Payload>) -> Result<usize, HubError> {
        self.send(Some((Kind::User, user)), payload.into()).await
    }

    /// Sends to one client, wherever it is connected.
    ///
    /// # Cancel safety
    ///
    /// When dropped, the client gets the message or not.
    ///
    /// # Errors
    ///
    /// [`HubError::Gone`] if it was connected to this process and is no more, or is a client of a hub with another name;
    /// whether it has gone from another process is not known. [`HubError::Layer`].
    pub async fn send_to(&self, client: &ClientId, payload: impl Into<Payload>) -> Result<(), HubError> {
        let (channel, payload) = (client.channel(), payload.into());
        if !self.inner.names.has(client) {
            return Err(HubError::Gone);
        }
        let trace = steps::sending(channel.as_str());
        if channel.non_local() == self.inner.names.channel().as_str() {
            let local = channel.local().unwrap_or_default();
            return self.inner.connections.send(local, Reply::of(payload.into(), trace)).ok_or(HubError::Gone);
        }
        Ok(self.inner.layer.send(channel.as_str(), wire::to_client(payload, trace)).await?)
    }

    /// The clients of this process that are in a room, in no order.
    pub fn members(&self, room: &str) -> Vec<ClientId> {
        let id = |id| self.inner.connections.name(id).map(ClientId::new).ok();
        self.inner.index.members(Kind::Room, room).into_iter().filter_map(id).collect()
    }

    /// How many clients of this process are in a room.
    pub fn count(&self, room: &str) -> usize {
        self.inner.index.count(Kind::Room, room)
    }

    /// How the hub stands in this process.
    pub fn status(&self) -> Status {
        let inner = &self.inner;
        let mode = match () {
            () if inner.others.are_none() => Mode::Alone,
            () if inner.others.are_reachable() => Mode::Together,
            () => Mode::CutOff,
        };
        Status {
            name: inner.name.clone(),
            process: inner.names.channel().to_string(),
            connections: inner.connections.len(),
            rooms: inner.index.len(Kind::Room),
            users: inner.index.len(Kind::User),
            queues: inner.connections.depths(),
            mode,
            options: inner.options,
        }
    }

    /// Closes all clients with 1001, or [1012](HubBuilder::restarts), after what is queued for them, spread evenly over
    /// `over` so that they do not come back all at once; then leaves the groups and puts back what was not read, for some
    /// seconds at the longest if the layer does not answer. The layer stays open.
    ///
    /// # Cancel safety
    ///
    /// When dropped, it is closed in part; a second call goes on.
    pub async fn close(&self, over: Duration) {
        let inner = &self.inner;
        inner.connections.drain(over, inner.close_code).await;
        inner.tracker.close();
        let options = &inner.options;
        let patience = options.write_timeout.saturating_add(options.close_timeout);
        if timeout(patience, inner.tracker.wait()).await.is_err() {
            tracing::warn!(connections = inner.connections.len(), "the close does not wait any longer");
        }
        inner.stop.cancel();
        inner.tasks.close();
        if timeout(END_WITHIN, inner.tasks.wait()).await.is_err() {
            tracing::warn!("the layer does not answer, and the close does not wait for it any longer");
        }
    }

    /// The hub runs for as long as this or a clone of it is kept.
    pub(crate) fn new(inner: Arc<Inner>) -> Self {
        let running = inner.stop.clone().drop_guard();
        Self { inner, _running: Arc::new(running) }
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }

    async fn send(&self, to: Option<(Kind, &str)>, payload: Payload) -> Result<usize, HubError> {
        let began = Instant::now();
        // Before the message is handed over here, for a process that comes later does not miss it.
        let alone = self.inner.others.are_none();
        let trace = steps::sending(self.inner.names.member());
        let here = self.send_here(to, &payload, trace);
        if !alone {
            let message = wire::content(self.inner.names.member(), to, payload, trace);
            self.inner.layer.group_send(&self.group(to), message).await?;
        }
        broadcast_took(began);
        Ok(here)
    }

    fn send_here(&self, to: Option<(Kind, &str)>, payload: &Payload, trace: Option<TraceParent>) -> usize {
        let reply = || Reply::of(payload.clone().into(), trace);
        self.inner.fan_out(|hub| match to {
            Some((kind, name)) => hub.index.send(kind, name, reply),
            None => hub.connections.push_all(&reply()),
        })
    }

    fn group(&self, to: Option<(Kind, &str)>) -> String {
        match to {
            Some((kind, name)) => self.inner.names.group(kind, name),
            None => self.inner.names.everyone().to_owned(),
        }
    }
}

fn broadcast_took(began: Instant) {
    metrics::histogram!("channel_layer_broadcast_seconds").record(began.elapsed());
}

impl Inner {
    /// Another process greets; it is answered beside everything else, for the layer may take its time.
    pub(crate) fn greeted(&self, channel: String) {
        if self.others.greeted(&channel) {
            let others = self.others.clone();
            self.tasks.spawn(async move { others.answer(&channel).await });
        }
    }

    /// Hands a message over to clients of this process; gives how many.
    pub(crate) fn fan_out(&self, send: impl FnOnce(&Self) -> usize) -> usize {
        let reached = send(self);
        if reached > 0 {
            metrics::histogram!("channel_layer_fan_out").record(u32::try_from(reached).unwrap_or(u32::MAX));
        }
        reached
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").field("name", &self.inner.name).finish_non_exhaustive()
    }
}
