//! Who is in which room and belongs to which user, in this process.
//!
//! The places of a member and the crowds of rooms and users agree at every moment at which nobody holds the lock of the
//! member: whoever changes one changes the other under that lock. A member that has departed is in no crowd and enters
//! none. Locks are taken in this order: a member, the map (for a look-up alone), crowds (two of them by name), a queue.

mod member;
#[cfg(test)]
mod tests;

pub(crate) use member::{Entry, Member};

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::Arc;

use dashmap::DashMap;
use parking_lot::Mutex;

use crate::server::asgi::messages::Reply;
use crate::server::hub::names::{Audience, Kind};
use crate::server::websocket::queue::{Pushed, Queue};
use member::Place;

/// All crowds of this process.
#[derive(Debug, Default)]
pub(crate) struct Index {
    rooms: DashMap<Arc<str>, Arc<Mutex<Crowd>>>,
    users: DashMap<Arc<str>, Arc<Mutex<Crowd>>>,
}

/// The members of one room or user. Its lock is held while a message is queued for all of them, so that all get the
/// messages of a room in one order, and nobody gets one after leaving.
#[derive(Debug, Default)]
struct Crowd {
    members: HashMap<u64, Arc<Queue>>,
    /// Messages of other processes come.
    subscribed: bool,
    /// It is out of the map, and nobody may enter it any more.
    retired: bool,
}

/// Why a member cannot enter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Barred {
    Departed,
    /// The user has as many connections as one may have.
    Full,
    /// The member is in as many rooms as one may be in.
    Rooms,
}

/// What a change of place came to.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Moved {
    /// Where the member is now, if messages of other processes do not come there yet; to be told how that ended.
    pub(crate) unsubscribed: Option<Entry>,
    /// Where nobody is any more.
    pub(crate) emptied: Option<Audience>,
}

impl Index {
    /// Puts a member into a room, unless it is in `limit` others.
    pub(crate) fn join(&self, member: &Member, room: &str, limit: usize) -> Result<Moved, Barred> {
        let mut places = member.places.lock();
        if places.departed {
            return Err(Barred::Departed);
        }
        let name = match places.rooms.get_key_value(room) {
            Some((name, _)) => name.clone(),
            None if places.rooms.len() >= limit => return Err(Barred::Rooms),
            None => Arc::from(room),
        };
        let subscribed = self.with_crowd(Kind::Room, &name, |crowd| {
            crowd.members.insert(member.id, member.queue.clone());
            crowd.subscribed
        });
        let place = places.rooms.entry(name.clone()).or_insert_with(|| Place::new(subscribed));
        Ok(Moved { unsubscribed: Entry::into(Audience { kind: Kind::Room, name }, place, subscribed), emptied: None })
    }

    /// Takes a member out of a room; gives where nobody is any more.
    pub(crate) fn leave(&self, member: &Member, room: &str) -> Option<Audience> {
        let mut places = member.places.lock();
        let (name, _) = places.rooms.remove_entry(room)?;
        self.remove(member, Kind::Room, name)
    }

    /// Makes a member belong to `user`, of whom `limit` may be here, or to nobody. The member leaves the one and enters
    /// the other in one step.
    pub(crate) fn set_user(
        &self,
        member: &Member,
        user: Option<Arc<str>>,
        limit: Option<NonZeroUsize>,
    ) -> Result<Moved, Barred> {
        let mut places = member.places.lock();
        if places.departed {
            return Err(Barred::Departed);
        }
        if let Some((name, place)) = &mut places.user
            && user.as_ref() == Some(name)
        {
            let subscribed = self.find(Kind::User, name).is_none_or(|crowd| crowd.lock().subscribed);
            let audience = Audience { kind: Kind::User, name: name.clone() };
            return Ok(Moved { unsubscribed: Entry::into(audience, place, subscribed), emptied: None });
        }
        let old = places.user.as_ref().map(|(name, _)| name);
        let (subscribed, emptied) = self.change_user(member, old, user.as_ref(), limit)?;
        let emptied = places.user.take().filter(|_| emptied).map(|(name, _)| Audience { kind: Kind::User, name });
        let mut moved = Moved { unsubscribed: None, emptied };
        if let Some(name) = user {
            let (_, place) = places.user.insert((name.clone(), Place::new(subscribed)));
            moved.unsubscribed = Entry::into(Audience { kind: Kind::User, name }, place, subscribed);
        }
        Ok(moved)
    }

    /// Notes whether messages come where a call has entered. If they do not the member goes, unless another call still
    /// waits there or one has succeeded; gives where nobody is any more.
    pub(crate) fn settle(&self, member: &Member, entry: Entry, comes: bool) -> Option<Audience> {
        let mut places = member.places.lock();
        // Dropped before the lock, so that the last of several calls finds itself the last.
        let Entry { audience: Audience { kind, name }, shared } = entry;
        let shared = shared?;
        let place = match kind {
            Kind::Room => places.rooms.get_mut(&name),
            Kind::User => places.user.as_mut().filter(|(user, _)| *user == name).map(|(_, place)| place),
        };
        let place = place.filter(|place| place.is_of(&shared))?;
        if comes {
            *place = Place::Taken;
            return None;
        }
        // That of the place, and this one.
        if Arc::strong_count(&shared) > 2 {
            return None;
        }
        match kind {
            Kind::Room => drop(places.rooms.remove(&name)),
            Kind::User => places.user = None,
        }
        self.remove(member, kind, name)
    }

    /// Takes a member out of everything, for good; gives the rooms it was in, and where nobody is any more.
    pub(crate) fn depart(&self, member: &Member) -> (Vec<Arc<str>>, Vec<Audience>) {
        let mut places = member.places.lock();
        places.departed = true;
        let rooms: Vec<_> = std::mem::take(&mut places.rooms).into_keys().collect();
        let user = places.user.take().map(|(name, _)| name);
        let rooms_emptied = rooms.iter().filter_map(|room| self.remove(member, Kind::Room, room.clone()));
        let emptied = rooms_emptied.chain(user.and_then(|user| self.remove(member, Kind::User, user))).collect();
        (rooms, emptied)
    }

    /// Queues a reply for all of a room or user; gives how many there are.
    pub(crate) fn send(&self, kind: Kind, name: &str, reply: impl FnOnce() -> Reply) -> usize {
        let Some(crowd) = self.find(kind, name) else { return 0 };
        let reply = reply();
        let crowd = crowd.lock();
        for queue in crowd.members.values() {
            push(queue, reply.clone());
        }
        crowd.members.len()
    }

    /// The members of a room or user.
    pub(crate) fn members(&self, kind: Kind, name: &str) -> Vec<u64> {
        self.find(kind, name).map(|crowd| crowd.lock().members.keys().copied().collect()).unwrap_or_default()
    }

    pub(crate) fn count(&self, kind: Kind, name: &str) -> usize {
        self.find(kind, name).map_or(0, |crowd| crowd.lock().members.len())
    }

    /// How many rooms or users there are.
    pub(crate) fn len(&self, kind: Kind) -> usize {
        self.map(kind).iter().filter(|crowd| !crowd.lock().members.is_empty()).count()
    }

    /// The rooms with most members, and how many.
    pub(crate) fn largest_rooms(&self, limit: usize) -> Vec<(Arc<str>, usize)> {
        let size = |room: &Arc<Mutex<Crowd>>| room.lock().members.len();
        let mut rooms: Vec<_> = self.rooms.iter().map(|room| (room.key().clone(), size(&room))).collect();
        rooms.retain(|(_, size)| *size > 0);
        rooms.sort_by(|(one, size), (other, others)| others.cmp(size).then_with(|| one.cmp(other)));
        rooms.truncate(limit);
        rooms
    }

    /// Says whether messages of other processes come for an audience; gives whether anybody is there to get them.
    pub(crate) fn set_subscribed(&self, audience: &Audience, subscribed: bool) -> bool {
        let Some(crowd) = self.find(audience.kind, &audience.name) else { return false };
        let mut crowd = crowd.lock();
        crowd.subscribed = subscribed;
        !crowd.members.is_empty()
    }

    /// Takes out a crowd without members; gives whether there is none now. Until then it stays, so that who comes back
    /// at once finds messages coming.
    pub(crate) fn retire(&self, audience: &Audience) -> bool {
        let empty = |crowd: &mut Crowd| {
            crowd.retired = crowd.members.is_empty();
            crowd.retired
        };
        self.map(audience.kind).remove_if(&audience.name, |_, crowd| empty(&mut crowd.lock()));
        self.find(audience.kind, &audience.name).is_none()
    }

    fn map(&self, kind: Kind) -> &DashMap<Arc<str>, Arc<Mutex<Crowd>>> {
        match kind {
            Kind::Room => &self.rooms,
            Kind::User => &self.users,
        }
    }

    fn find(&self, kind: Kind, name: &str) -> Option<Arc<Mutex<Crowd>>> {
        self.map(kind).get(name).map(|crowd| crowd.clone())
    }

    fn find_or_make(&self, kind: Kind, name: &Arc<str>) -> Arc<Mutex<Crowd>> {
        let found = self.find(kind, name);
        found.unwrap_or_else(|| self.map(kind).entry(name.clone()).or_default().clone())
    }

    fn with_crowd<T>(&self, kind: Kind, name: &Arc<str>, act: impl FnOnce(&mut Crowd) -> T) -> T {
        loop {
            let crowd = self.find_or_make(kind, name);
            let mut crowd = crowd.lock();
            // It was taken out of the map between the two lines above.
            if !crowd.retired {
                return act(&mut crowd);
            }
        }
    }

    fn remove(&self, member: &Member, kind: Kind, name: Arc<str>) -> Option<Audience> {
        let crowd = self.find(kind, &name)?;
        let mut crowd = crowd.lock();
        crowd.members.remove(&member.id);
        crowd.members.is_empty().then_some(Audience { kind, name })
    }

    /// Moves a member from the crowd of one user to that of another, under the locks of both; gives whether messages
    /// come for the new one, and whether the old one has nobody left.
    fn change_user(
        &self,
        member: &Member,
        old: Option<&Arc<str>>,
        new: Option<&Arc<str>>,
        limit: Option<NonZeroUsize>,
    ) -> Result<(bool, bool), Barred> {
        loop {
            let (entered, left) =
                (new.map(|name| self.find_or_make(Kind::User, name)), old.and_then(|name| self.find(Kind::User, name)));
            // By name, so that two members that swap users do not wait for each other.
            let (mut entered, mut left) = if new < old {
                let entered = entered.as_ref().map(|crowd| crowd.lock());
                (entered, left.as_ref().map(|crowd| crowd.lock()))
            } else {
                let left = left.as_ref().map(|crowd| crowd.lock());
                (entered.as_ref().map(|crowd| crowd.lock()), left)
            };
            if entered.as_ref().is_some_and(|crowd| crowd.retired) {
                continue;
            }
            if let Some((crowd, limit)) = entered.as_ref().zip(limit)
                && crowd.members.len() >= limit.get()
            {
                return Err(Barred::Full);
            }
            let subscribed = entered.as_mut().is_none_or(|crowd| {
                crowd.members.insert(member.id, member.queue.clone());
                crowd.subscribed
            });
            let emptied = left.as_mut().is_some_and(|crowd| {
                crowd.members.remove(&member.id);
                crowd.members.is_empty()
            });
            return Ok((subscribed, emptied));
        }
    }
}

/// Queues a reply; counts it where no client gets it.
pub(crate) fn push(queue: &Queue, reply: Reply) -> Pushed {
    let pushed = queue.push(reply);
    pushed.count();
    pushed
}
