//! `Member`: one connection in the index, with its memberships.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::server::hub::names::Audience;
use crate::server::websocket::queue::Queue;

/// A connection in the index.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) id: u64,
    pub(crate) queue: Arc<Queue>,
    /// Locked for a change of membership, never across an await.
    pub(crate) memberships: Mutex<Memberships>,
}

#[derive(Debug, Default)]
pub(crate) struct Memberships {
    /// Whether the connection has ended. The member can then join nothing.
    pub(crate) departed: bool,
    pub(crate) rooms: HashMap<Arc<str>, Membership>,
    pub(crate) user: Option<(Arc<str>, Membership)>,
}

/// Whether a membership is final.
#[derive(Debug)]
pub(crate) enum Membership {
    /// The membership stays, whatever the result of further calls.
    Confirmed,
    /// The membership stays if one of the calls that share this handle and wait for the subscription succeeds.
    Pending(Arc<()>),
}

impl Membership {
    pub(crate) fn new(subscribed: bool) -> Self {
        if subscribed { Self::Confirmed } else { Self::Pending(Arc::default()) }
    }

    /// Adds a call. Returns the shared handle if the membership depends on the result of the call.
    fn enter(&mut self, subscribed: bool) -> Option<Arc<()>> {
        if subscribed {
            *self = Self::Confirmed;
        }
        match self {
            Self::Confirmed => None,
            Self::Pending(shared) => Some(shared.clone()),
        }
    }

    /// Whether this is the membership that the owners of `shared` wait for.
    pub(crate) fn is_awaited_by(&self, shared: &Arc<()>) -> bool {
        matches!(self, Self::Pending(awaited) if Arc::ptr_eq(awaited, shared))
    }
}

impl Member {
    pub(crate) fn new(id: u64, queue: Arc<Queue>) -> Self {
        Self { id, queue, memberships: Mutex::default() }
    }

    pub(crate) fn queue(&self) -> &Queue {
        &self.queue
    }

    pub(crate) fn rooms(&self) -> Vec<Arc<str>> {
        self.memberships.lock().rooms.keys().cloned().collect()
    }

    pub(crate) fn user(&self) -> Option<Arc<str>> {
        self.memberships.lock().user.as_ref().map(|(name, _)| name.clone())
    }
}

/// A call that waits until messages of other processes arrive for a new membership.
#[derive(Debug, PartialEq)]
pub(crate) struct PendingMembership {
    pub(crate) audience: Audience,
    /// Handle shared by the calls that the membership depends on.
    pub(crate) shared: Option<Arc<()>>,
}

impl PendingMembership {
    /// Adds a call to `membership`. Returns the pending membership if the call has to wait for the subscription.
    pub(crate) fn start(audience: Audience, membership: &mut Membership, subscribed: bool) -> Option<Self> {
        let shared = membership.enter(subscribed);
        (!subscribed).then_some(Self { audience, shared })
    }
}
