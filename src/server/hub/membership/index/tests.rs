//! `Index` compared with naive models, and under concurrency.

use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::prelude::*;

use crate::server::hub::membership::index::*;
use crate::server::options::SocketOptions;
use crate::server::websocket::frame::Data;
use crate::supervise::trap::CallingRecorder;

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

/// A naive model of the index.
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
        Step::Depart(member) => drop(index.remove_all(&members[member])),
        Step::Retire(kind, name) => drop(index.retire(&audience(kind, name))),
        Step::Send(kind, name) => drop(index.send(kind, name, hi)),
    }
}

proptest! {
    #[test]
    fn the_index_agrees_with_a_naive_model(steps in vec(step(), 0..60)) {
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

/// A call that brings one member into one room or to one user.
#[derive(Clone, Debug)]
enum Call {
    Enter,
    /// Result of the subscription for one of the waiting calls.
    Settle(usize, bool),
    Leave,
    /// Whether messages arrive for the audience.
    Subscribed(bool),
}

fn call() -> impl Strategy<Value = Call> {
    prop_oneof![
        4 => Just(Call::Enter),
        6 => (0..8_usize, any::<bool>()).prop_map(|(at, subscribed)| Call::Settle(at, subscribed)),
        1 => Just(Call::Leave),
        2 => any::<bool>().prop_map(Call::Subscribed),
    ]
}

/// A naive model of one membership: it lasts while one of its calls has succeeded or still waits.
#[derive(Default)]
struct CallModel {
    number: usize,
    here: bool,
    taken: bool,
    subscribed: bool,
    /// The model that each waiting call belongs to.
    waiting: Vec<usize>,
}

impl CallModel {
    fn step(&mut self, call: &Call) {
        match *call {
            Call::Enter => {
                self.taken |= self.subscribed;
                self.here = true;
                if !self.subscribed {
                    self.waiting.push(self.number);
                }
            }
            Call::Settle(at, subscribed) if at < self.waiting.len() => {
                if self.waiting.remove(at) != self.number {
                    return;
                }
                self.taken |= subscribed;
                if !self.taken && !self.waiting.contains(&self.number) {
                    self.end();
                }
            }
            Call::Leave => self.end(),
            // An empty room is not subscribed.
            Call::Subscribed(subscribed) if self.here => self.subscribed = subscribed,
            Call::Settle(..) | Call::Subscribed(_) => {}
        }
    }

    fn end(&mut self) {
        *self = Self { number: self.number + 1, waiting: std::mem::take(&mut self.waiting), ..Self::default() };
    }
}

proptest! {
    #[test]
    fn a_membership_lasts_while_one_of_its_calls_has_succeeded_or_still_waits(
        kind in prop_oneof![Just(Kind::Room), Just(Kind::User)],
        calls in vec(call(), 0..40),
    ) {
        let (index, members, mut model) = (Index::default(), members(), CallModel::default());
        let (member, mut waiting, at) = (&members[0], Vec::new(), audience(kind, "a"));
        for call in &calls {
            match *call {
                Call::Enter => {
                    let change = match kind {
                        Kind::Room => index.join(member, "a", 1),
                        Kind::User => index.set_user(member, Some("a".into()), None),
                    };
                    waiting.extend(change.unwrap().unsubscribed);
                }
                Call::Settle(at, subscribed) if at < waiting.len() => {
                    index.confirm(member, waiting.remove(at), subscribed);
                }
                Call::Leave => match kind {
                    Kind::Room => drop(index.leave(member, "a")),
                    Kind::User => drop(index.set_user(member, None, None)),
                },
                Call::Subscribed(subscribed) if model.here => drop(index.set_subscribed(&at, subscribed)),
                Call::Settle(..) | Call::Subscribed(_) => {}
            }
            if index.count(kind, "a") == 0 {
                index.retire(&at);
            }
            model.step(call);
            prop_assert_eq!(index.count(kind, "a"), usize::from(model.here));
            prop_assert_eq!(member.rooms().len() + usize::from(member.user().is_some()), usize::from(model.here));
        }
    }
}

#[test]
fn concurrent_changes_leave_no_member_behind() {
    let (index, steps) = (Index::default(), 3_000_usize);
    for _ in 0..5 {
        let members = members();
        std::thread::scope(|scope| {
            for (worker, member) in members.iter().enumerate() {
                let index = &index;
                // Two threads per member: one continues while the other lets it depart.
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
                    index.remove_all(member);
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
fn a_user_cannot_exceed_its_limit_of_connections() {
    let (index, members) = (Index::default(), members());
    let set = |member: usize, user: &str| {
        index.set_user(&members[member], Some(user.into()), NonZeroUsize::new(1)).map(|_| ())
    };
    assert_eq!(set(0, "ada"), Ok(()));
    assert_eq!(set(1, "ada"), Err(JoinRefused::TooManyConnections));
    assert_eq!(set(0, "ada"), Ok(()), "it is that user's already");
    assert_eq!(set(1, "bob"), Ok(()));
    assert_eq!(set(0, "bob"), Err(JoinRefused::TooManyConnections));
    index.remove_all(&members[1]);
    assert_eq!(set(0, "bob"), Ok(()));
    assert_eq!(set(2, "ada"), Ok(()));
}

#[test]
fn a_change_reports_subscriptions_and_empty_audiences() {
    let (index, members) = (Index::default(), members());
    let room = audience(Kind::Room, "a");
    let join = |member: usize| index.join(&members[member], "a", 1);
    let entry = join(0).unwrap().unsubscribed.unwrap();
    assert_eq!(entry.audience, room);
    assert!(index.set_subscribed(&room, true));
    assert_eq!(index.confirm(&members[0], entry, true), None);
    assert_eq!(join(1), Ok(MembershipChange::default()), "messages come already");
    assert_eq!(index.join(&members[1], "b", 1), Err(JoinRefused::TooManyRooms));
    assert_eq!(index.leave(&members[0], "a"), None);
    let (rooms, emptied) = index.remove_all(&members[1]);
    assert_eq!((&*rooms[0], emptied), ("a", vec![room.clone()]));
    assert_eq!(join(1), Err(JoinRefused::Departed));
    assert!(index.retire(&room));
    assert_eq!(join(0).unwrap().unsubscribed.unwrap().audience, room);
}

#[test]
fn replies_that_a_room_drops_are_counted_outside_of_its_lock() {
    let (index, members) = (Arc::new(Index::default()), members());
    for member in &members {
        index.join(member, "room", usize::MAX).unwrap();
        member.queue().end();
    }
    let called = index.clone();
    let recorder = CallingRecorder::new(move || drop(called.members(Kind::Room, "room")));
    let _recording = metrics::set_default_local_recorder(&recorder);
    assert_eq!(index.send(Kind::Room, "room", hi), members.len());
    assert_eq!(recorder.returned(), [true]);
}

#[test]
fn a_failed_call_removes_no_member_that_another_call_added() {
    let (index, members) = (Index::default(), members());
    let (member, room) = (&members[0], audience(Kind::Room, "a"));
    let join = || index.join(member, "a", 1).unwrap().unsubscribed.unwrap();
    let set_user = || index.set_user(member, Some("ada".into()), None).unwrap().unsubscribed.unwrap();
    let enter: [&dyn Fn() -> PendingMembership; 2] = [&join, &set_user];
    for enter in enter {
        let (first, second) = (enter(), enter());
        assert_eq!(index.confirm(member, first, false), None, "the other one still waits");
        assert_eq!(index.confirm(member, second, true), None);
        let late = enter();
        assert_eq!(index.confirm(member, late, false), None, "it was there before");
    }
    assert_eq!((member.rooms().len(), member.user().as_deref()), (1, Some("ada")));
    index.leave(member, "a");
    let (first, second) = (join(), join());
    assert_eq!(index.confirm(member, first, false), None);
    assert_eq!(index.confirm(member, second, false), Some(room), "all have failed");
    let before = join();
    index.leave(member, "a");
    let _again = join();
    assert_eq!(index.confirm(member, before, false), None, "it has left that place itself");
    assert_eq!(member.rooms().len(), 1);
}
