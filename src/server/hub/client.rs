//! `Client`: one connection of a hub, for whoever wants to do something with it.

use std::fmt;
use std::sync::Arc;

use super::{ClientId, Hub, HubError, Payload};
use crate::server::asgi::messages::{Reply, code};
use crate::server::hub::membership::index::{Barred, Entry, Member, Moved, push};
use crate::server::hub::status::spans as steps;
use crate::server::websocket::queue::Pushed;

/// A connection of a [`Hub`]. Cheap to clone, and may be kept beyond the end of the connection: what is done with it
/// then gives [`HubError::Gone`].
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

    /// Its name among all processes.
    pub fn id(&self) -> &ClientId {
        &self.id
    }

    /// The hub that it is connected to.
    pub fn hub(&self) -> &Hub {
        &self.hub
    }

    /// The rooms that it is in.
    pub fn rooms(&self) -> Vec<Arc<str>> {
        self.member.rooms()
    }

    /// The user that it belongs to.
    pub fn user(&self) -> Option<Arc<str>> {
        self.member.user()
    }

    /// Joins a room, whose name may be any text. What is broadcast there from now on, by whichever process, is sent to
    /// this client; if it is in the room already nothing changes.
    ///
    /// # Cancel safety
    ///
    /// When dropped, the client may be in the room or not.
    ///
    /// # Errors
    ///
    /// [`HubError::Gone`]; [`HubError::TooManyRooms`]; [`HubError::Layer`] if messages of other processes cannot be asked
    /// for, and then the client is in the room only if it was before, or another call is bringing it there.
    pub async fn join(&self, room: &str) -> Result<(), HubError> {
        let inner = self.hub.inner();
        let moved = inner.index.join(&self.member, room, inner.rooms_per_client).inspect_err(|barred| {
            if *barred == Barred::Rooms {
                metrics::counter!("channel_layer_refused_total", "limit" => "rooms").increment(1);
            }
        });
        self.settle(moved?).await
    }

    /// Leaves a room: nothing that is broadcast there from now on is sent to this client.
    pub fn leave(&self, room: &str) {
        let inner = self.hub.inner();
        inner.keeper.emptied(inner.index.leave(&self.member, room));
    }

    /// Says to which user this client belongs. It gets what is sent to that user from now on, and what is sent to the
    /// user before no more.
    ///
    /// # Cancel safety
    ///
    /// When dropped, the client may belong to the one or the other.
    ///
    /// # Errors
    ///
    /// [`HubError::Gone`]; [`HubError::TooManyConnections`] if the user has as many as one may have, and then this one is
    /// closed with 1008; [`HubError::Layer`], and then the client belongs to that user only if it did before, or another
    /// call is seeing to it; otherwise to nobody.
    pub async fn set_user(&self, user: Option<&str>) -> Result<(), HubError> {
        let inner = self.hub.inner();
        let limit = inner.options.connections_per_user;
        let moved = match inner.index.set_user(&self.member, user.map(Arc::from), limit) {
            Err(Barred::Full) => {
                metrics::counter!("channel_layer_refused_total", "limit" => "user").increment(1);
                self.member.queue().close(code::POLICY, "too many connections of this user");
                return Err(HubError::TooManyConnections);
            }
            moved => moved?,
        };
        self.settle(moved).await
    }

    /// Sends to this client alone; does not wait for it to read.
    ///
    /// # Errors
    ///
    /// [`HubError::Gone`] if it is closing.
    pub fn send(&self, payload: impl Into<Payload>) -> Result<(), HubError> {
        let reply = Reply::of(payload.into().into(), steps::sending(self.id.channel().as_str()));
        match push(self.member.queue(), reply) {
            Pushed::Ending | Pushed::Overflowed(_) => Err(HubError::Gone),
            Pushed::Queued | Pushed::Replaced(_) | Pushed::Dropped => Ok(()),
        }
    }

    /// Closes the connection with a code, after what is queued for it. A second call changes nothing.
    ///
    /// A code that may not travel becomes 1011, and a reason of more than 123 bytes is cut.
    pub fn close(&self, code: u16, reason: &'static str) {
        self.member.queue().close(code::sendable(code), &reason[..reason.floor_char_boundary(123)]);
    }

    async fn settle(&self, moved: Moved) -> Result<(), HubError> {
        let keeper = &self.hub.inner().keeper;
        keeper.emptied(moved.emptied);
        let Some(entry) = moved.unsubscribed else { return Ok(()) };
        let audience = entry.audience.clone();
        let mut entering = Entering { client: self, entry: Some(entry) };
        let subscribed = keeper.subscribe(audience).await;
        entering.end(subscribed.is_ok());
        subscribed.map_err(HubError::Layer)
    }
}

/// A call that waits for messages to come; one that is dropped has failed.
struct Entering<'a> {
    client: &'a Client,
    entry: Option<Entry>,
}

impl Entering<'_> {
    fn end(&mut self, comes: bool) {
        if let Some(entry) = self.entry.take() {
            let inner = self.client.hub.inner();
            inner.keeper.emptied(inner.index.settle(&self.client.member, entry, comes));
        }
    }
}

impl Drop for Entering<'_> {
    fn drop(&mut self) {
        self.end(false);
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("id", &self.id).finish_non_exhaustive()
    }
}
