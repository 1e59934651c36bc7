//! One connection as rooms and users see it: where it is, and whether it stays there.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::server::hub::names::Audience;
use crate::server::websocket::queue::Queue;

/// A connection as rooms and users see it.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) id: u64,
    pub(crate) queue: Arc<Queue>,
    /// Held for a change of place, never across an await.
    pub(crate) places: Mutex<Places>,
}

#[derive(Debug, Default)]
pub(crate) struct Places {
    pub(crate) departed: bool,
    pub(crate) rooms: HashMap<Arc<str>, Place>,
    pub(crate) user: Option<(Arc<str>, Place)>,
}

/// Whether a member stays where it is.
#[derive(Debug)]
pub(crate) enum Place {
    /// Whatever becomes of further calls.
    Taken,
    /// If one of the calls that share this and wait for messages to come there succeeds.
    Awaited(Arc<()>),
}

impl Place {
    pub(crate) fn new(subscribed: bool) -> Self {
        if subscribed { Self::Taken } else { Self::Awaited(Arc::default()) }
    }

    /// A further call enters. Gives what it shares with the others, if it depends on it whether the member stays.
    fn enter(&mut self, subscribed: bool) -> Option<Arc<()>> {
        if subscribed {
            *self = Self::Taken;
        }
        match self {
            Self::Taken => None,
            Self::Awaited(shared) => Some(shared.clone()),
        }
    }

    /// Whether this is the place that those who share `shared` wait for.
    pub(crate) fn is_of(&self, shared: &Arc<()>) -> bool {
        matches!(self, Self::Awaited(awaited) if Arc::ptr_eq(awaited, shared))
    }
}

impl Member {
    pub(crate) fn new(id: u64, queue: Arc<Queue>) -> Self {
        Self { id, queue, places: Mutex::default() }
    }

    pub(crate) fn queue(&self) -> &Queue {
        &self.queue
    }

    pub(crate) fn rooms(&self) -> Vec<Arc<str>> {
        self.places.lock().rooms.keys().cloned().collect()
    }

    pub(crate) fn user(&self) -> Option<Arc<str>> {
        self.places.lock().user.as_ref().map(|(name, _)| name.clone())
    }
}

/// A call that waits for messages of other processes to come where the member is now.
#[derive(Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) audience: Audience,
    /// Shared by the calls on which it depends whether the member stays.
    pub(crate) shared: Option<Arc<()>>,
}

impl Entry {
    /// A call enters a place, and waits if messages do not come there yet.
    pub(crate) fn into(audience: Audience, place: &mut Place, subscribed: bool) -> Option<Self> {
        let shared = place.enter(subscribed);
        (!subscribed).then_some(Self { audience, shared })
    }
}
