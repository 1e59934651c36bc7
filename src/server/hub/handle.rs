//! `Hub`: the handle that an app uses to accept clients and to send to rooms and users.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use tokio::time::{Instant, timeout};
use tokio_util::sync::DropGuard;

use super::super::limits::Refused;
use super::inner::Inner;
use super::names::Kind;
use super::{ClientId, Handler, HubBuilder, HubError, Payload};
use crate::layer::ChannelLayer;
use crate::server::hub::client::serve;
use crate::server::hub::peers::wire;
use crate::server::hub::status::spans;
use crate::server::hub::status::state::{Mode, Status};
use crate::server::websocket::reply::Reply;
use crate::server::websocket::upgrade::Upgrade;
use crate::supervise::update_metric;
use crate::trace::TraceParent;

/// The sockets of this process, in the rooms and users of all processes. The [module](super) explains how it works.
///
/// Cheap to clone. Its tasks end when it is [closed](Self::close), or with the last clone and the last client.
#[derive(Clone)]
pub struct Hub {
    inner: Arc<Inner>,
    _running: Arc<DropGuard>,
}

/// How long a close waits for the tasks of the hub, which use the layer.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

impl Hub {
    /// Starts a hub over `layer` with the default settings.
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

    /// Returns a builder of a hub over `layer`.
    pub fn builder(layer: Arc<dyn ChannelLayer>) -> HubBuilder {
        HubBuilder::new(layer)
    }

    /// Accepts a WebSocket request; `handler` handles its client. Refuses the request with 403 if the page comes from a
    /// site that is not [allowed](HubBuilder::allowed_origins), and with 503 if there are too many clients or the hub
    /// is closing.
    pub fn upgrade(&self, upgrade: Upgrade, handler: impl Handler) -> Response {
        if !self.inner.settings.origins.permit(upgrade.origins()) {
            update_metric(|| metrics::counter!("channel_layer_refused_total", "limit" => "origin").increment(1));
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

    /// Sends to all clients in a room. Returns how many of them are connected to this process.
    ///
    /// A client gets the messages to one room from one process in the order in which they were sent. While there is no
    /// other process, messages do not leave this one.
    ///
    /// # Cancel safety
    ///
    /// When dropped, clients of other processes may miss the message. Those of this process have it.
    ///
    /// # Errors
    ///
    /// [`HubError::Layer`]: clients of other processes may have missed the message. Those of this process have it.
    pub async fn broadcast(&self, room: &str, payload: impl Into<Payload>) -> Result<usize, HubError> {
        self.send(Some((Kind::Room, room)), payload.into()).await
    }

    /// Sends each message to its room with one call of the layer. Returns one result per message, in order.
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
        let alone = self.inner.peers.is_alone();
        let trace = spans::sending(self.inner.names.member());
        let here: Vec<_> =
            messages.iter().map(|(room, payload)| self.send_local(Some((Kind::Room, *room)), payload, trace)).collect();
        if alone {
            record_broadcast(began);
            return here.into_iter().map(Ok).collect();
        }
        let remote = messages.into_iter().map(|(room, payload)| {
            let to = Some((Kind::Room, room));
            (self.group(to), wire::content(self.inner.names.member(), to, payload, trace))
        });
        let remote: Vec<_> = remote.collect();
        let remote: Vec<_> = remote.iter().map(|(group, message)| (group.as_str(), message.clone())).collect();
        let sent = self.inner.layer.group_send_many(&remote).await;
        record_broadcast(began);
        sent.into_iter().zip(here).map(|(sent, here)| sent.map(|()| here).map_err(HubError::from)).collect()
    }

    /// Sends to all clients. Returns how many of them are connected to this process.
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

    /// Sends to all clients of a user. Returns how many of them are connected to this process.
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

    /// Sends to one client, which may be connected to any process.
    ///
    /// # Cancel safety
    ///
    /// When dropped, the client either gets the message or not.
    ///
    /// # Errors
    ///
    /// [`HubError::Gone`] if the client belongs to another hub, or was connected to this process and has left. A client
    /// that has left another process is not reported. [`HubError::Layer`].
    pub async fn send_to(&self, client: &ClientId, payload: impl Into<Payload>) -> Result<(), HubError> {
        let (channel, payload) = (client.channel(), payload.into());
        if !self.inner.names.has(client) {
            return Err(HubError::Gone);
        }
        let trace = spans::sending(channel.as_str());
        if channel.non_local() == self.inner.names.channel().as_str() {
            let local = channel.local().unwrap_or_default();
            return self.inner.connections.send(local, Reply::of(payload.into(), trace)).ok_or(HubError::Gone);
        }
        Ok(self.inner.layer.send(channel.as_str(), wire::to_client(payload, trace)).await?)
    }

    /// Returns the clients of this process that are in a room, in no particular order.
    pub fn members(&self, room: &str) -> Vec<ClientId> {
        let id = |id| self.inner.connections.name(id).map(ClientId::new).ok();
        self.inner.rooms.index.members(Kind::Room, room).into_iter().filter_map(id).collect()
    }

    /// Returns the number of clients of this process in a room.
    pub fn count(&self, room: &str) -> usize {
        self.inner.rooms.index.count(Kind::Room, room)
    }

    /// Returns the state of the hub in this process.
    pub fn status(&self) -> Status {
        let inner = &self.inner;
        let mode = match () {
            () if inner.peers.is_alone() => Mode::Alone,
            () if inner.peers.is_reachable() => Mode::Together,
            () => Mode::CutOff,
        };
        Status {
            name: inner.settings.name.clone(),
            process: inner.names.channel().to_string(),
            connections: inner.connections.len(),
            rooms: inner.rooms.index.len(Kind::Room),
            users: inner.rooms.index.len(Kind::User),
            queues: inner.connections.depths(),
            mode,
            options: inner.settings.sockets,
        }
    }

    /// Closes all clients with 1001, or [1012](HubBuilder::restarts), after their queued messages. The closes are
    /// spread evenly over `over`, so that clients do not reconnect all at once. Then leaves the groups and puts back
    /// unread messages, for some seconds at most if the layer does not answer. The layer stays open.
    ///
    /// # Cancel safety
    ///
    /// When dropped, the hub is partly closed. A second call continues.
    pub async fn close(&self, over: Duration) {
        let inner = &self.inner;
        inner.connections.drain(over, inner.settings.close_code).await;
        inner.tasks.sockets.close();
        let options = &inner.settings.sockets;
        let socket_timeout = options.write_timeout.saturating_add(options.close_timeout);
        if timeout(socket_timeout, inner.tasks.sockets.wait()).await.is_err() {
            tracing::warn!(
                connections = inner.connections.len(),
                "closing without the remaining connections: they did not end in time"
            );
        }
        inner.tasks.stop.cancel();
        inner.tasks.background.close();
        if timeout(CLOSE_TIMEOUT, inner.tasks.background.wait()).await.is_err() {
            tracing::warn!("closing without waiting for the layer: it does not answer");
        }
    }

    /// Creates the handle. The tasks of the hub end when its last clone is dropped.
    pub(crate) fn new(inner: Arc<Inner>) -> Self {
        let running = inner.tasks.stop.clone().drop_guard();
        Self { inner, _running: Arc::new(running) }
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }

    async fn send(&self, to: Option<(Kind, &str)>, payload: Payload) -> Result<usize, HubError> {
        let began = Instant::now();
        // Checked before the clients of this process get the message: a process that starts later need not get it.
        let alone = self.inner.peers.is_alone();
        let trace = spans::sending(self.inner.names.member());
        let here = self.send_local(to, &payload, trace);
        if !alone {
            let message = wire::content(self.inner.names.member(), to, payload, trace);
            self.inner.layer.group_send(&self.group(to), message).await?;
        }
        record_broadcast(began);
        Ok(here)
    }

    fn send_local(&self, to: Option<(Kind, &str)>, payload: &Payload, trace: Option<TraceParent>) -> usize {
        let reply = || Reply::of(payload.clone().into(), trace);
        self.inner.fan_out(|hub| match to {
            Some((kind, name)) => hub.rooms.index.send(kind, name, reply),
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

fn record_broadcast(began: Instant) {
    update_metric(|| metrics::histogram!("channel_layer_broadcast_seconds").record(began.elapsed()));
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").field("name", &self.inner.settings.name).finish_non_exhaustive()
    }
}
