//! One connection as rooms and users see it: where it is, and whether it stays there.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::super::super::queue::Queue;
use super::super::names::Audience;

/// A connection as rooms and users see it.
#[derive(Debug)]
pub(crate) struct Member {
    pub(super) id: u64,
    pub(super) queue: Arc<Queue>,
    /// Held for a change of place, never across an await.
    pub(super) places: Mutex<Places>,
}

#[derive(Debug, Default)]
pub(super) struct Places {
    pub(super) departed: bool,
    pub(super) rooms: HashMap<Arc<str>, Place>,
    pub(super) user: Option<(Arc<str>, Place)>,
}

/// Whether a member stays where it is.
#[derive(Debug)]
pub(super) enum Place {
    /// Whatever becomes of further calls.
    Taken,
    /// If one of the calls that share this and wait for messages to come there succeeds.
    Awaited(Arc<()>),
}

impl Place {
    pub(super) fn new(subscribed: bool) -> Self {
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
    pub(super) fn is_of(&self, shared: &Arc<()>) -> bool {
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
    pub(super) shared: Option<Arc<()>>,
}

impl Entry {
    /// A call enters a place, and waits if messages do not come there yet.
    pub(super) fn into(audience: Audience, place: &mut Place, subscribed: bool) -> Option<Self> {
        let shared = place.enter(subscribed);
        (!subscribed).then_some(Self { audience, shared })
    }
}
