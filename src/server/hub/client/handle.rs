//! `Client`: a handle of one connection of a hub.

use std::fmt;
use std::sync::Arc;

use crate::server::hub::membership::index::{JoinRefused, Member, MembershipChange, PendingMembership};
use crate::server::hub::status::spans;
use crate::server::hub::{ClientId, Hub, HubError, Payload};
use crate::server::websocket::close_code as code;
use crate::server::websocket::queue::Pushed;
use crate::server::websocket::reply::Reply;
use crate::supervise::update_metric;

/// A handle of one connection of a [`Hub`]. Cheap to clone. A handle may outlive its connection; the methods that need
/// the connection then return [`HubError::Gone`].
#[derive(Clone)]
pub struct Client {
    hub: Hub,
    id: ClientId,
    member: Arc<Member>,
}

impl Client {
    pub(crate) fn new(hub: Hub, id: ClientId, member: Arc<Member>) -> Self {
        Self { hub, id, member }
    }

    /// Returns the id of the client, which is unique among all processes.
    pub fn id(&self) -> &ClientId {
        &self.id
    }

    /// Returns the hub that the client is connected to.
    pub fn hub(&self) -> &Hub {
        &self.hub
    }

    /// Returns the rooms that the client is in.
    pub fn rooms(&self) -> Vec<Arc<str>> {
        self.member.rooms()
    }

    /// Returns the user that the client belongs to.
    pub fn user(&self) -> Option<Arc<str>> {
        self.member.user()
    }

    /// Joins a room, whose name may be any text. From now on the client gets all broadcasts to the room, from any
    /// process. Has no effect if the client is in the room already.
    ///
    /// # Cancel safety
    ///
    /// When dropped, the client may be in the room or not.
    ///
    /// # Errors
    ///
    /// [`HubError::Gone`]; [`HubError::TooManyRooms`]; [`HubError::Layer`] if the subscription to messages of other
    /// processes fails. The client is then in the room only if it was before, or if another call is adding it.
    pub async fn join(&self, room: &str) -> Result<(), HubError> {
        let inner = self.hub.inner();
        let change =
            inner.rooms.index.join(&self.member, room, inner.settings.rooms_per_client).inspect_err(|refused| {
                if *refused == JoinRefused::TooManyRooms {
                    update_metric(|| metrics::counter!("channel_layer_refused_total", "limit" => "rooms").increment(1));
                }
            });
        self.settle(change?).await
    }

    /// Leaves a room. The client gets no later broadcasts to it.
    pub fn leave(&self, room: &str) {
        let inner = self.hub.inner();
        inner.rooms.reconciler.mark_empty(inner.rooms.index.leave(&self.member, room));
    }

    /// Assigns this client to a user, or to no user. From now on it gets the messages to that user, and no messages to
    /// its former user.
    ///
    /// # Cancel safety
    ///
    /// When dropped, the client may belong to either user.
    ///
    /// # Errors
    ///
    /// [`HubError::Gone`]; [`HubError::TooManyConnections`] if the user has reached its limit of connections, and this
    /// client is closed with 1008; [`HubError::Layer`] if the subscription fails. The client then belongs to that user
    /// only if it did before, or if another call is assigning it; otherwise it belongs to no user.
    pub async fn set_user(&self, user: Option<&str>) -> Result<(), HubError> {
        let inner = self.hub.inner();
        let limit = inner.settings.sockets.connections_per_user;
        let change = match inner.rooms.index.set_user(&self.member, user.map(Arc::from), limit) {
            Err(JoinRefused::TooManyConnections) => {
                update_metric(|| metrics::counter!("channel_layer_refused_total", "limit" => "user").increment(1));
                self.member.queue().close(code::POLICY, "too many connections of this user");
                return Err(HubError::TooManyConnections);
            }
            change => change?,
        };
        self.settle(change).await
    }

    /// Sends to this client only, without waiting for it to read.
    ///
    /// # Errors
    ///
    /// [`HubError::Gone`] if it is closing.
    pub fn send(&self, payload: impl Into<Payload>) -> Result<(), HubError> {
        let reply = Reply::of(payload.into().into(), spans::sending(self.id.channel().as_str()));
        let pushed = self.member.queue().push(reply);
        pushed.count();
        match pushed {
            Pushed::Closing | Pushed::Overflowed(_) => Err(HubError::Gone),
            Pushed::Queued | Pushed::Replaced(_) | Pushed::Dropped => Ok(()),
        }
    }

    /// Closes the connection with a code after the queued messages have been sent. A second call has no effect.
    ///
    /// A code that must not be sent becomes 1011. A reason of more than 123 bytes is cut.
    pub fn close(&self, code: u16, reason: &'static str) {
        self.member.queue().close(code::sendable(code), &reason[..reason.floor_char_boundary(123)]);
    }

    /// Subscribes to the messages of other processes if the change needs that, and reports the result to the index.
    async fn settle(&self, change: MembershipChange) -> Result<(), HubError> {
        let reconciler = &self.hub.inner().rooms.reconciler;
        reconciler.mark_empty(change.emptied);
        let Some(entry) = change.unsubscribed else { return Ok(()) };
        let audience = entry.audience.clone();
        let mut joining = PendingJoin { client: self, entry: Some(entry) };
        let subscribed = reconciler.subscribe(audience).await;
        joining.end(subscribed.is_ok());
        subscribed.map_err(HubError::Layer)
    }
}

/// A call that waits for a subscription. A drop before its end counts as a failure.
struct PendingJoin<'a> {
    client: &'a Client,
    entry: Option<PendingMembership>,
}

impl PendingJoin<'_> {
    fn end(&mut self, subscribed: bool) {
        if let Some(entry) = self.entry.take() {
            let inner = self.client.hub.inner();
            inner.rooms.reconciler.mark_empty(inner.rooms.index.confirm(&self.client.member, entry, subscribed));
        }
    }
}

impl Drop for PendingJoin<'_> {
    fn drop(&mut self) {
        self.end(false);
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("id", &self.id).finish_non_exhaustive()
    }
}
