//! Who is in which room and belongs to which user, in this process.
//!
//! The places of a member and the crowds of rooms and users agree at every moment at which nobody holds the lock of the
//! member: whoever changes one changes the other under that lock. A member that has departed is in no crowd and enters
//! none. Locks are taken in this order: a member, the map (for a look-up alone), crowds (two of them by name), a queue.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::Arc;

use dashmap::DashMap;
use parking_lot::Mutex;

use super::super::asgi::Reply;
use super::super::queue::{Pushed, Queue};
use super::names::{Audience, Kind};

/// A connection as rooms and users see it.
#[derive(Debug)]
pub(crate) struct Member {
    id: u64,
    queue: Arc<Queue>,
    /// Held for a change of place, never across an await.
    places: Mutex<Places>,
}

#[derive(Debug, Default)]
struct Places {
    departed: bool,
    rooms: HashMap<Arc<str>, Place>,
    user: Option<(Arc<str>, Place)>,
}

/// Whether a member stays where it is.
#[derive(Debug)]
enum Place {
    /// Whatever becomes of further calls.
    Taken,
    /// If one of the calls that share this and wait for messages to come there succeeds.
    Awaited(Arc<()>),
}

impl Place {
    fn new(subscribed: bool) -> Self {
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
    fn is_of(&self, shared: &Arc<()>) -> bool {
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

/// A call that waits for messages of other processes to come where the member is now.
#[derive(Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) audience: Audience,
    /// Shared by the calls on which it depends whether the member stays.
    shared: Option<Arc<()>>,
}

impl Entry {
    /// A call enters a place, and waits if messages do not come there yet.
    fn into(audience: Audience, place: &mut Place, subscribed: bool) -> Option<Self> {
        let shared = place.enter(subscribed);
        (!subscribed).then_some(Self { audience, shared })
    }
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::super::frame::Data;
    use super::super::super::options::SocketOptions;
    use super::*;

    const MEMBERS: usize = 4;
    const NAMES: [&str; 3] = ["a", "b", "c"];

    #[derive(Clone, Debug)]
    enum Step {
        Join(usize, &'static str),
        Leave(usize, &'static str),
        SetUser(usize, Option<&'static str>),
        Depart(usize),
        Retire(Kind, &'static str),
        Send(Kind, &'static str),
    }

    fn step() -> impl Strategy<Value = Step> {
        let name = || proptest::sample::select(&NAMES[..]);
        let kind = || prop_oneof![Just(Kind::Room), Just(Kind::User)];
        prop_oneof![
            4 => (0..MEMBERS, name()).prop_map(|(member, room)| Step::Join(member, room)),
            2 => (0..MEMBERS, name()).prop_map(|(member, room)| Step::Leave(member, room)),
            3 => (0..MEMBERS, proptest::option::of(name())).prop_map(|(member, user)| Step::SetUser(member, user)),
            1 => (0..MEMBERS).prop_map(Step::Depart),
            2 => (kind(), name()).prop_map(|(kind, name)| Step::Retire(kind, name)),
            4 => (kind(), name()).prop_map(|(kind, name)| Step::Send(kind, name)),
        ]
    }

    /// What an index should know, told naively.
    #[derive(Default)]
    struct Model {
        here: BTreeSet<(Kind, &'static str, usize)>,
        departed: BTreeSet<usize>,
        received: [usize; MEMBERS],
    }

    impl Model {
        fn of(&self, kind: Kind, name: &str) -> BTreeSet<usize> {
            self.here.iter().filter(|(of, at, _)| (*of, *at) == (kind, name)).map(|&(.., member)| member).collect()
        }

        fn step(&mut self, step: &Step) {
            match *step {
                Step::Join(member, room) if !self.departed.contains(&member) => {
                    self.here.insert((Kind::Room, room, member));
                }
                Step::Leave(member, room) => {
                    self.here.remove(&(Kind::Room, room, member));
                }
                Step::SetUser(member, user) if !self.departed.contains(&member) => {
                    self.here.retain(|&(kind, _, other)| (kind, other) != (Kind::User, member));
                    self.here.extend(user.map(|user| (Kind::User, user, member)));
                }
                Step::Depart(member) => {
                    self.departed.insert(member);
                    self.here.retain(|&(.., other)| other != member);
                }
                Step::Send(kind, name) => self.of(kind, name).into_iter().for_each(|member| self.received[member] += 1),
                Step::Join(..) | Step::SetUser(..) | Step::Retire(..) => {}
            }
        }
    }

    fn members() -> Vec<Member> {
        let queue = || Arc::new(Queue::new(&SocketOptions::new()));
        (0..MEMBERS).map(|id| Member::new(id as u64, queue())).collect()
    }

    fn hi() -> Reply {
        Reply::of(Data::Text("hi".into()).into(), None)
    }

    fn audience(kind: Kind, name: &str) -> Audience {
        Audience { kind, name: name.into() }
    }

    fn act(index: &Index, members: &[Member], step: &Step) {
        match *step {
            Step::Join(member, room) => drop(index.join(&members[member], room, usize::MAX)),
            Step::Leave(member, room) => drop(index.leave(&members[member], room)),
            Step::SetUser(member, user) => drop(index.set_user(&members[member], user.map(Arc::from), None)),
            Step::Depart(member) => drop(index.depart(&members[member])),
            Step::Retire(kind, name) => drop(index.retire(&audience(kind, name))),
            Step::Send(kind, name) => drop(index.send(kind, name, hi)),
        }
    }

    proptest! {
        #[test]
        fn the_index_knows_what_a_naive_model_knows(steps in vec(step(), 0..60)) {
            let (index, members, mut model) = (Index::default(), members(), Model::default());
            for step in &steps {
                act(&index, &members, step);
                model.step(step);
                for (kind, name) in [Kind::Room, Kind::User].into_iter().flat_map(|kind| NAMES.map(|name| (kind, name))) {
                    let here: BTreeSet<_> =
                        index.members(kind, name).into_iter().map(|id| usize::try_from(id).unwrap()).collect();
                    prop_assert_eq!(&here, &model.of(kind, name));
                    prop_assert_eq!(index.count(kind, name), here.len());
                }
            }
            for (member, received) in members.iter().zip(model.received) {
                prop_assert_eq!(member.queue.depth().0, received);
                prop_assert_eq!(member.rooms().len(), model.here.iter().filter(|at| (at.0, at.2) == (Kind::Room, usize::try_from(member.id).unwrap())).count());
            }
        }
    }

    #[test]
    fn nobody_is_left_behind_when_everything_happens_at_once() {
        let (index, steps) = (Index::default(), 3_000_usize);
        for _ in 0..5 {
            let members = members();
            std::thread::scope(|scope| {
                for (worker, member) in members.iter().enumerate() {
                    let index = &index;
                    // Two workers to each member: one goes on while the other lets it depart.
                    scope.spawn(move || {
                        for at in 0..steps {
                            let name = NAMES[(at + worker) % NAMES.len()];
                            let _ = index.join(member, name, usize::MAX);
                            let _ = index.set_user(member, Some(NAMES[at % NAMES.len()].into()), None);
                            index.send(Kind::Room, name, hi);
                            index.leave(member, name);
                        }
                    });
                    scope.spawn(move || {
                        for at in 0..steps {
                            index.retire(&audience(Kind::Room, NAMES[at % NAMES.len()]));
                            index.retire(&audience(Kind::User, NAMES[at % NAMES.len()]));
                        }
                        index.depart(member);
                    });
                }
            });
        }
        for (kind, name) in [Kind::Room, Kind::User].into_iter().flat_map(|kind| NAMES.map(|name| (kind, name))) {
            assert!(index.retire(&audience(kind, name)), "{kind:?} {name}: {:?}", index.members(kind, name));
        }
        assert_eq!((index.rooms.len(), index.users.len()), (0, 0));
    }

    #[test]
    fn a_user_has_no_more_connections_than_allowed() {
        let (index, members) = (Index::default(), members());
        let set = |member: usize, user: &str| {
            index.set_user(&members[member], Some(user.into()), NonZeroUsize::new(1)).map(|_| ())
        };
        assert_eq!(set(0, "ada"), Ok(()));
        assert_eq!(set(1, "ada"), Err(Barred::Full));
        assert_eq!(set(0, "ada"), Ok(()), "it is that user's already");
        assert_eq!(set(1, "bob"), Ok(()));
        assert_eq!(set(0, "bob"), Err(Barred::Full));
        index.depart(&members[1]);
        assert_eq!(set(0, "bob"), Ok(()));
        assert_eq!(set(2, "ada"), Ok(()));
    }

    #[test]
    fn what_comes_of_a_change_is_told() {
        let (index, members) = (Index::default(), members());
        let room = audience(Kind::Room, "a");
        let join = |member: usize| index.join(&members[member], "a", 1);
        let entry = join(0).unwrap().unsubscribed.unwrap();
        assert_eq!(entry.audience, room);
        assert!(index.set_subscribed(&room, true));
        assert_eq!(index.settle(&members[0], entry, true), None);
        assert_eq!(join(1), Ok(Moved::default()), "messages come already");
        assert_eq!(index.join(&members[1], "b", 1), Err(Barred::Rooms));
        assert_eq!(index.leave(&members[0], "a"), None);
        let (rooms, emptied) = index.depart(&members[1]);
        assert_eq!((&*rooms[0], emptied), ("a", vec![room.clone()]));
        assert_eq!(join(1), Err(Barred::Departed));
        assert!(index.retire(&room));
        assert_eq!(join(0).unwrap().unsubscribed.unwrap().audience, room);
    }

    #[test]
    fn a_call_that_fails_takes_nobody_out_whom_another_has_brought_in() {
        let (index, members) = (Index::default(), members());
        let (member, room) = (&members[0], audience(Kind::Room, "a"));
        let join = || index.join(member, "a", 1).unwrap().unsubscribed.unwrap();
        let set_user = || index.set_user(member, Some("ada".into()), None).unwrap().unsubscribed.unwrap();
        let enter: [&dyn Fn() -> Entry; 2] = [&join, &set_user];
        for enter in enter {
            let (first, second) = (enter(), enter());
            assert_eq!(index.settle(member, first, false), None, "the other one still waits");
            assert_eq!(index.settle(member, second, true), None);
            let late = enter();
            assert_eq!(index.settle(member, late, false), None, "it was there before");
        }
        assert_eq!((member.rooms().len(), member.user().as_deref()), (1, Some("ada")));
        index.leave(member, "a");
        let (first, second) = (join(), join());
        assert_eq!(index.settle(member, first, false), None);
        assert_eq!(index.settle(member, second, false), Some(room), "all have failed");
        let before = join();
        index.leave(member, "a");
        let _again = join();
        assert_eq!(index.settle(member, before, false), None, "it has left that place itself");
        assert_eq!(member.rooms().len(), 1);
    }
}
