//! The index beside naive models of it, and under threads.

use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::prelude::*;

use crate::server::hub::membership::index::*;
use crate::server::options::SocketOptions;
use crate::server::websocket::frame::Data;

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

/// What becomes of calls that bring one member into one room or to one user.
#[derive(Clone, Debug)]
enum Call {
    Enter,
    /// The messages come, or do not, for one of the calls that wait.
    Settle(usize, bool),
    Leave,
    /// Whether messages come for the audience.
    Subscribed(bool),
}

fn call() -> impl Strategy<Value = Call> {
    prop_oneof![
        4 => Just(Call::Enter),
        6 => (0..8_usize, any::<bool>()).prop_map(|(at, comes)| Call::Settle(at, comes)),
        1 => Just(Call::Leave),
        2 => any::<bool>().prop_map(Call::Subscribed),
    ]
}

/// The same told naively: a member that has come stays while a call of this stay has succeeded or still waits.
#[derive(Default)]
struct Stay {
    number: usize,
    here: bool,
    taken: bool,
    subscribed: bool,
    /// Of which stay.
    waiting: Vec<usize>,
}

impl Stay {
    fn step(&mut self, call: &Call) {
        match *call {
            Call::Enter => {
                self.taken |= self.subscribed;
                self.here = true;
                if !self.subscribed {
                    self.waiting.push(self.number);
                }
            }
            Call::Settle(at, comes) if at < self.waiting.len() => {
                if self.waiting.remove(at) != self.number {
                    return;
                }
                self.taken |= comes;
                if !self.taken && !self.waiting.contains(&self.number) {
                    self.end();
                }
            }
            Call::Leave => self.end(),
            // A crowd that nobody is in is not subscribed.
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
    fn a_member_stays_where_one_of_the_calls_that_brought_it_has_succeeded_or_still_waits(
        kind in prop_oneof![Just(Kind::Room), Just(Kind::User)],
        calls in vec(call(), 0..40),
    ) {
        let (index, members, mut stay) = (Index::default(), members(), Stay::default());
        let (member, mut waiting, at) = (&members[0], Vec::new(), audience(kind, "a"));
        for call in &calls {
            match *call {
                Call::Enter => {
                    let moved = match kind {
                        Kind::Room => index.join(member, "a", 1),
                        Kind::User => index.set_user(member, Some("a".into()), None),
                    };
                    waiting.extend(moved.unwrap().unsubscribed);
                }
                Call::Settle(at, comes) if at < waiting.len() => {
                    index.settle(member, waiting.remove(at), comes);
                }
                Call::Leave => match kind {
                    Kind::Room => drop(index.leave(member, "a")),
                    Kind::User => drop(index.set_user(member, None, None)),
                },
                Call::Subscribed(subscribed) if stay.here => drop(index.set_subscribed(&at, subscribed)),
                Call::Settle(..) | Call::Subscribed(_) => {}
            }
            if index.count(kind, "a") == 0 {
                index.retire(&at);
            }
            stay.step(call);
            prop_assert_eq!(index.count(kind, "a"), usize::from(stay.here));
            prop_assert_eq!(member.rooms().len() + usize::from(member.user().is_some()), usize::from(stay.here));
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
