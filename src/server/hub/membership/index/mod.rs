//! `Index`: the members of each room and each user, in this process.
//!
//! The memberships of a member and the members of rooms and users agree whenever the lock of the member is free: both
//! are changed together under that lock. A departed member is in no room and enters none. Lock order: a member, the map
//! (for a look-up only), rooms (two of them by name), a queue.

mod member;
#[cfg(test)]
mod tests;

pub(crate) use member::{Member, PendingMembership};

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::Arc;

use dashmap::DashMap;
use parking_lot::Mutex;

use crate::server::hub::names::{Audience, Kind};
use crate::server::websocket::queue::{DroppedReplies, Queue};
use crate::server::websocket::reply::Reply;
use member::Membership;

/// All rooms and users with members in this process.
#[derive(Debug, Default)]
pub(crate) struct Index {
    rooms: DashMap<Arc<str>, Arc<Mutex<RoomMembers>>>,
    users: DashMap<Arc<str>, Arc<Mutex<RoomMembers>>>,
}

/// The members of one room or user. Its lock is held while a message is queued for all members. Therefore all members
/// get the messages in the same order, and a member gets none after it has left.
#[derive(Debug, Default)]
struct RoomMembers {
    members: HashMap<u64, Arc<Queue>>,
    /// Whether messages of other processes arrive.
    subscribed: bool,
    /// Whether the room was removed from the map. No member may enter it any more.
    retired: bool,
}

/// Why a member cannot join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum JoinRefused {
    Departed,
    /// The user has reached its limit of connections.
    TooManyConnections,
    /// The member has reached its limit of rooms.
    TooManyRooms,
}

/// The result of a change of membership.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct MembershipChange {
    /// The new membership, if messages of other processes do not arrive yet. The caller reports the result of the
    /// subscription with [`Index::confirm`].
    pub(crate) unsubscribed: Option<PendingMembership>,
    /// The audience that has no members any more.
    pub(crate) emptied: Option<Audience>,
}

impl Index {
    /// Adds a member to a room, unless it is in `limit` other rooms.
    pub(crate) fn join(&self, member: &Member, room: &str, limit: usize) -> Result<MembershipChange, JoinRefused> {
        let mut memberships = member.memberships.lock();
        if memberships.departed {
            return Err(JoinRefused::Departed);
        }
        let name = match memberships.rooms.get_key_value(room) {
            Some((name, _)) => name.clone(),
            None if memberships.rooms.len() >= limit => return Err(JoinRefused::TooManyRooms),
            None => Arc::from(room),
        };
        let subscribed = self.with_room(Kind::Room, &name, |room| {
            room.members.insert(member.id, member.queue.clone());
            room.subscribed
        });
        let membership = memberships.rooms.entry(name.clone()).or_insert_with(|| Membership::new(subscribed));
        Ok(MembershipChange {
            unsubscribed: PendingMembership::start(Audience { kind: Kind::Room, name }, membership, subscribed),
            emptied: None,
        })
    }

    /// Removes a member from a room. Returns the audience if it has no members any more.
    pub(crate) fn leave(&self, member: &Member, room: &str) -> Option<Audience> {
        let mut memberships = member.memberships.lock();
        let (name, _) = memberships.rooms.remove_entry(room)?;
        self.remove(member, Kind::Room, name)
    }

    /// Assigns a member to `user`, which may have `limit` members here, or to no user. The member leaves the old user
    /// and enters the new one in one step.
    pub(crate) fn set_user(
        &self,
        member: &Member,
        user: Option<Arc<str>>,
        limit: Option<NonZeroUsize>,
    ) -> Result<MembershipChange, JoinRefused> {
        let mut memberships = member.memberships.lock();
        if memberships.departed {
            return Err(JoinRefused::Departed);
        }
        if let Some((name, membership)) = &mut memberships.user
            && user.as_ref() == Some(name)
        {
            let subscribed = self.find(Kind::User, name).is_none_or(|room| room.lock().subscribed);
            let audience = Audience { kind: Kind::User, name: name.clone() };
            return Ok(MembershipChange {
                unsubscribed: PendingMembership::start(audience, membership, subscribed),
                emptied: None,
            });
        }
        let old = memberships.user.as_ref().map(|(name, _)| name);
        let (subscribed, emptied) = self.change_user(member, old, user.as_ref(), limit)?;
        let emptied = memberships.user.take().filter(|_| emptied).map(|(name, _)| Audience { kind: Kind::User, name });
        let mut change = MembershipChange { unsubscribed: None, emptied };
        if let Some(name) = user {
            let (_, membership) = memberships.user.insert((name.clone(), Membership::new(subscribed)));
            change.unsubscribed = PendingMembership::start(Audience { kind: Kind::User, name }, membership, subscribed);
        }
        Ok(change)
    }

    /// Records whether the subscription of `entry` succeeded. If not, the member is removed, unless another call still
    /// waits for the same membership or has succeeded. Returns the audience if it has no members any more.
    pub(crate) fn confirm(&self, member: &Member, entry: PendingMembership, subscribed: bool) -> Option<Audience> {
        let mut memberships = member.memberships.lock();
        // `shared` is dropped under the lock, so that the last of several failed calls sees that no other call is left.
        let PendingMembership { audience: Audience { kind, name }, shared } = entry;
        let shared = shared?;
        let membership = match kind {
            Kind::Room => memberships.rooms.get_mut(&name),
            Kind::User => memberships.user.as_mut().filter(|(user, _)| *user == name).map(|(_, membership)| membership),
        };
        let membership = membership.filter(|membership| membership.is_awaited_by(&shared))?;
        if subscribed {
            *membership = Membership::Confirmed;
            return None;
        }
        // The membership and this call hold one reference each. A third one belongs to a call that still waits.
        if Arc::strong_count(&shared) > 2 {
            return None;
        }
        match kind {
            Kind::Room => drop(memberships.rooms.remove(&name)),
            Kind::User => memberships.user = None,
        }
        self.remove(member, kind, name)
    }

    /// Removes a member from all rooms and from its user. The member can join nothing afterwards. Returns its rooms,
    /// and the audiences that are now empty.
    pub(crate) fn remove_all(&self, member: &Member) -> (Vec<Arc<str>>, Vec<Audience>) {
        let mut memberships = member.memberships.lock();
        memberships.departed = true;
        let rooms: Vec<_> = std::mem::take(&mut memberships.rooms).into_keys().collect();
        let user = memberships.user.take().map(|(name, _)| name);
        let rooms_emptied = rooms.iter().filter_map(|room| self.remove(member, Kind::Room, room.clone()));
        let emptied = rooms_emptied.chain(user.and_then(|user| self.remove(member, Kind::User, user))).collect();
        (rooms, emptied)
    }

    /// Queues a reply for all members of a room or user. Returns their number.
    pub(crate) fn send(&self, kind: Kind, name: &str, reply: impl FnOnce() -> Reply) -> usize {
        let Some(room) = self.find(kind, name) else { return 0 };
        let (reply, mut dropped) = (reply(), DroppedReplies::default());
        let reached = {
            let room = room.lock();
            room.members.values().for_each(|queue| dropped.add(queue.push(reply.clone())));
            room.members.len()
        };
        dropped.count();
        reached
    }

    /// Returns the members of a room or user.
    pub(crate) fn members(&self, kind: Kind, name: &str) -> Vec<u64> {
        self.find(kind, name).map(|room| room.lock().members.keys().copied().collect()).unwrap_or_default()
    }

    pub(crate) fn count(&self, kind: Kind, name: &str) -> usize {
        self.find(kind, name).map_or(0, |room| room.lock().members.len())
    }

    /// Returns the number of rooms or users with members.
    pub(crate) fn len(&self, kind: Kind) -> usize {
        self.map(kind).iter().filter(|room| !room.lock().members.is_empty()).count()
    }

    /// Returns the rooms with the most members, and their sizes.
    pub(crate) fn largest_rooms(&self, limit: usize) -> Vec<(Arc<str>, usize)> {
        let size = |room: &Arc<Mutex<RoomMembers>>| room.lock().members.len();
        let mut rooms: Vec<_> = self.rooms.iter().map(|room| (room.key().clone(), size(&room))).collect();
        rooms.retain(|(_, size)| *size > 0);
        rooms.sort_by(|(one, size), (other, others)| others.cmp(size).then_with(|| one.cmp(other)));
        rooms.truncate(limit);
        rooms
    }

    /// Records whether messages of other processes arrive for an audience. Returns whether it has members.
    pub(crate) fn set_subscribed(&self, audience: &Audience, subscribed: bool) -> bool {
        let Some(room) = self.find(audience.kind, &audience.name) else { return false };
        let mut room = room.lock();
        room.subscribed = subscribed;
        !room.members.is_empty()
    }

    /// Removes a room or user if it has no members. Returns `true` if it does not exist afterwards. An empty room stays
    /// until then, so that a member that returns soon finds it subscribed.
    pub(crate) fn retire(&self, audience: &Audience) -> bool {
        let empty = |room: &mut RoomMembers| {
            room.retired = room.members.is_empty();
            room.retired
        };
        self.map(audience.kind).remove_if(&audience.name, |_, room| empty(&mut room.lock()));
        self.find(audience.kind, &audience.name).is_none()
    }

    fn map(&self, kind: Kind) -> &DashMap<Arc<str>, Arc<Mutex<RoomMembers>>> {
        match kind {
            Kind::Room => &self.rooms,
            Kind::User => &self.users,
        }
    }

    fn find(&self, kind: Kind, name: &str) -> Option<Arc<Mutex<RoomMembers>>> {
        self.map(kind).get(name).map(|room| room.clone())
    }

    fn get_or_create(&self, kind: Kind, name: &Arc<str>) -> Arc<Mutex<RoomMembers>> {
        let found = self.find(kind, name);
        found.unwrap_or_else(|| self.map(kind).entry(name.clone()).or_default().clone())
    }

    fn with_room<T>(&self, kind: Kind, name: &Arc<str>, act: impl FnOnce(&mut RoomMembers) -> T) -> T {
        loop {
            let room = self.get_or_create(kind, name);
            let mut room = room.lock();
            // A retired room was removed between the two lines above.
            if !room.retired {
                return act(&mut room);
            }
        }
    }

    fn remove(&self, member: &Member, kind: Kind, name: Arc<str>) -> Option<Audience> {
        let room = self.find(kind, &name)?;
        let mut room = room.lock();
        room.members.remove(&member.id);
        room.members.is_empty().then_some(Audience { kind, name })
    }

    /// Moves a member from one user to another under the locks of both. Returns whether messages arrive for the new
    /// one, and whether the old one is empty.
    fn change_user(
        &self,
        member: &Member,
        old: Option<&Arc<str>>,
        new: Option<&Arc<str>>,
        limit: Option<NonZeroUsize>,
    ) -> Result<(bool, bool), JoinRefused> {
        loop {
            let (entered, left) = (
                new.map(|name| self.get_or_create(Kind::User, name)),
                old.and_then(|name| self.find(Kind::User, name)),
            );
            // In the order of names, so that two members that swap users do not deadlock.
            let (mut entered, mut left) = if new < old {
                let entered = entered.as_ref().map(|room| room.lock());
                (entered, left.as_ref().map(|room| room.lock()))
            } else {
                let left = left.as_ref().map(|room| room.lock());
                (entered.as_ref().map(|room| room.lock()), left)
            };
            if entered.as_ref().is_some_and(|room| room.retired) {
                continue;
            }
            if let Some((room, limit)) = entered.as_ref().zip(limit)
                && room.members.len() >= limit.get()
            {
                return Err(JoinRefused::TooManyConnections);
            }
            let subscribed = entered.as_mut().is_none_or(|room| {
                room.members.insert(member.id, member.queue.clone());
                room.subscribed
            });
            let emptied = left.as_mut().is_some_and(|room| {
                room.members.remove(&member.id);
                room.members.is_empty()
            });
            return Ok((subscribed, emptied));
        }
    }
}
