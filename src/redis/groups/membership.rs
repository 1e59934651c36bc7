//! `Membership`: the members of a group on one route, at every version that a reader may need.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::name::ChannelName;

/// The members of one group on one process-local route, and the memberships that ended lately.
///
/// A version is a time in microseconds by the clock of the group's shard, and grows with every change. The ends of
/// memberships are times of the same clock.
#[derive(Debug, Default)]
pub(crate) struct Membership {
    /// All changes up to this version are known.
    version: u64,
    members: HashMap<ChannelName, Member>,
    ended: Vec<Ended>,
    /// The members at `version`. Locked only to read or replace them.
    latest: Mutex<Option<LatestMembers>>,
}

/// The members of a group as of one send.
///
/// They are listed on delivery. A waiting message only shares the membership of its reader, however many members there
/// are and whatever the message claims.
#[derive(Clone, Debug)]
pub(crate) struct Recipients {
    membership: Arc<Membership>,
    version: u64,
    sent: u64,
}

#[derive(Clone, Copy, Debug)]
struct Member {
    /// The version of the add that started the membership.
    joined: u64,
    /// When the membership ends.
    ends: u64,
}

/// A membership that has ended. Messages sent before its end are still for this member.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Ended {
    pub(crate) channel: ChannelName,
    pub(crate) joined: u64,
    /// When it ended.
    pub(crate) until: u64,
    /// The version of the change that recorded the end. For an expired membership it is later than the end.
    pub(crate) recorded: u64,
}

#[derive(Debug)]
struct LatestMembers {
    channels: Arc<[ChannelName]>,
    /// The times at which these are the members.
    times: Range<u64>,
}

/// The answer of a server about a route's members: all of them, or the changes since a version.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Changes {
    pub(crate) version: u64,
    /// Whether these are only changes, so that unnamed members stay as they are.
    pub(crate) partial: bool,
    /// For how long after its end the group remembers a membership, in microseconds.
    pub(crate) retention_us: u64,
    /// Members, with the ends of their memberships.
    pub(crate) members: Vec<(ChannelName, u64)>,
    /// Members, with the versions of the adds that started their memberships.
    pub(crate) joined: Vec<(ChannelName, u64)>,
    pub(crate) ended: Vec<Ended>,
}

impl Membership {
    /// The version up to which all changes are known.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// Applies the answer of a server at the time `now`.
    pub(crate) fn apply(&mut self, changes: Changes, now: u64) {
        if changes.version <= self.version {
            // A later answer arrived first.
            return;
        }
        if !changes.partial {
            self.members.clear();
            self.ended.clear();
        }
        for ended in changes.ended {
            if changes.partial && ended.recorded <= self.version {
                continue;
            }
            if self.members.get(&ended.channel).is_some_and(|member| member.joined < ended.recorded) {
                self.members.remove(&ended.channel);
            }
            self.ended.push(ended);
        }
        let joined: HashMap<_, _> = changes.joined.into_iter().collect();
        for (channel, ends) in changes.members {
            let joined = joined.get(&channel).copied();
            let known = self.members.get(&channel).map(|member| member.joined);
            let joined = joined.or(known).unwrap_or(changes.version);
            self.members.insert(channel, Member { joined, ends });
        }
        let forgotten = now.saturating_sub(changes.retention_us);
        self.members.retain(|_, member| member.ends >= forgotten);
        self.ended.retain(|ended| ended.recorded >= forgotten);
        self.version = changes.version;
        *self.latest.get_mut() = None;
    }

    /// The members at `version` whose memberships had not ended at the time `sent`.
    fn at(&self, version: u64, sent: u64) -> Arc<[ChannelName]> {
        if version < self.version {
            return self.members_then(version, sent).cloned().collect();
        }
        let mut latest = self.latest.lock();
        match &*latest {
            Some(latest) if latest.times.contains(&sent) => latest.channels.clone(),
            _ => {
                let ends = || self.members.values().map(|member| member.ends);
                let last_ended = ends().filter(|ends| *ends <= sent).max().unwrap_or(0);
                let next_to_end = ends().filter(|ends| *ends > sent).min().unwrap_or(u64::MAX);
                let channels: Arc<[_]> = self.latest_members(sent).cloned().collect();
                *latest = Some(LatestMembers { channels: channels.clone(), times: last_ended..next_to_end });
                channels
            }
        }
    }

    fn latest_members(&self, sent: u64) -> impl Iterator<Item = &ChannelName> {
        self.members.iter().filter(move |(_, member)| member.ends > sent).map(|(channel, _)| channel)
    }

    fn members_then(&self, version: u64, sent: u64) -> impl Iterator<Item = &ChannelName> {
        let still = move |member: &Member| member.joined <= version && member.ends > sent;
        let still = self.members.iter().filter(move |(_, member)| still(member)).map(|(channel, _)| channel);
        let ended_since = self.ended.iter().filter(move |ended| {
            let recorded_later = ended.joined <= version && version < ended.recorded;
            // An expired membership ended before its end was recorded.
            recorded_later && (ended.until == ended.recorded || sent < ended.until)
        });
        still.chain(ended_since.map(|ended| &ended.channel))
    }
}

impl Clone for Membership {
    fn clone(&self) -> Self {
        let (members, ended) = (self.members.clone(), self.ended.clone());
        Self { version: self.version, members, ended, latest: Mutex::default() }
    }
}

impl Recipients {
    /// The members at `version` and at the time `sent`, in microseconds.
    pub(crate) fn new(membership: Arc<Membership>, version: u64, sent: u64) -> Self {
        Self { membership, version, sent }
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        let Self { membership, version, sent } = self;
        if *version < membership.version {
            membership.members_then(*version, *sent).next().is_none()
        } else {
            membership.latest_members(*sent).next().is_none()
        }
    }

    /// The names of the members.
    pub(crate) fn list(&self) -> Arc<[ChannelName]> {
        self.membership.at(self.version, self.sent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channel(local: &str) -> ChannelName {
        ChannelName::parse(&format!("p!{local}")).unwrap()
    }

    fn all(version: u64, members: &[(&str, u64, u64)]) -> Changes {
        Changes {
            version,
            partial: false,
            retention_us: u64::MAX,
            members: members.iter().map(|(local, _, added)| (channel(local), *added + LASTS)).collect(),
            joined: members.iter().map(|(local, joined, _)| (channel(local), *joined)).collect(),
            ended: Vec::new(),
        }
    }

    fn joins(local: &str, version: u64) -> Changes {
        Changes { partial: true, ..all(version, &[(local, version, version)]) }
    }

    fn renews(local: &str, version: u64) -> Changes {
        Changes { joined: Vec::new(), ..joins(local, version) }
    }

    fn ended(local: &str, joined: u64, until: u64, recorded: u64) -> Ended {
        Ended { channel: channel(local), joined, until, recorded }
    }

    fn leaves(local: &str, joined: u64, version: u64) -> Changes {
        Changes { partial: true, ended: vec![ended(local, joined, version, version)], ..all(version, &[]) }
    }

    const NOW: u64 = 3000;
    const LASTS: u64 = 1000;

    fn at(membership: &Membership, version: u64) -> Vec<String> {
        let mut locals: Vec<_> =
            membership.at(version, version).iter().map(|name| name.local().unwrap().to_owned()).collect();
        locals.sort();
        locals
    }

    #[test]
    fn each_version_has_its_members() {
        let mut membership = Membership::default();
        membership.apply(all(2, &[("a", 1, 1), ("b", 2, 2)]), NOW);
        membership.apply(joins("c", 3), NOW);
        membership.apply(leaves("a", 1, 4), NOW);
        assert_eq!(at(&membership, 1), ["a"]);
        assert_eq!(at(&membership, 2), ["a", "b"]);
        assert_eq!(at(&membership, 3), ["a", "b", "c"]);
        assert_eq!(at(&membership, 4), ["b", "c"]);
    }

    #[test]
    fn a_renewed_membership_keeps_its_start() {
        let mut membership = Membership::default();
        membership.apply(all(1, &[("a", 1, 1)]), NOW);
        membership.apply(renews("a", 5), NOW);
        assert_eq!(at(&membership, 1), ["a"]);
        assert_eq!(membership.at(5, 5 + LASTS - 1).len(), 1);
    }

    #[test]
    fn a_member_that_left_and_returned_is_absent_in_between() {
        let mut membership = Membership::default();
        membership.apply(all(1, &[("a", 1, 1)]), NOW);
        membership.apply(leaves("a", 1, 3), NOW);
        membership.apply(joins("a", 5), NOW);
        assert_eq!(at(&membership, 2), ["a"]);
        assert_eq!(at(&membership, 3), Vec::<String>::new());
        assert_eq!(at(&membership, 4), Vec::<String>::new());
        assert_eq!(at(&membership, 5), ["a"]);
    }

    #[test]
    fn one_answer_can_contain_both_an_end_and_a_new_membership() {
        let mut membership = Membership::default();
        membership.apply(all(1, &[("a", 1, 1)]), NOW);
        membership.apply(Changes { ended: vec![ended("a", 1, 3, 3)], ..joins("a", 5) }, NOW);
        assert_eq!(at(&membership, 2), ["a"]);
        assert_eq!(at(&membership, 4), Vec::<String>::new());
        assert_eq!(at(&membership, 5), ["a"]);
    }

    #[test]
    fn memberships_expire_by_the_time_of_the_send() {
        let mut membership = Membership::default();
        membership.apply(all(20, &[("a", 10, 10), ("b", 20, 20)]), NOW);
        for (sent, members) in [(20, 2), (1009, 2), (1010, 1), (1019, 1), (1020, 0), (1009, 2)] {
            assert_eq!(membership.at(20, sent).len(), members, "{sent}");
        }
    }

    #[test]
    fn a_member_that_expired_and_returned_is_absent_in_between() {
        let mut membership = Membership::default();
        membership.apply(all(1, &[("a", 1, 1), ("b", 1, 1)]), NOW);
        membership.apply(Changes { ended: vec![ended("a", 1, 1001, 2000)], ..joins("a", 2000) }, NOW);
        assert_eq!(membership.at(1, 1000).len(), 2);
        assert_eq!(membership.at(1, 1500).len(), 0);
        assert_eq!(membership.at(2000, 2000).len(), 1);
    }

    #[test]
    fn a_full_answer_replaces_all_members() {
        let mut membership = Membership::default();
        membership.apply(all(2, &[("a", 1, 1), ("b", 2, 2)]), NOW);
        membership.apply(all(9, &[("c", 9, 9)]), NOW);
        assert_eq!(at(&membership, 9), ["c"]);
    }

    #[test]
    fn answers_may_arrive_out_of_order() {
        let mut membership = Membership::default();
        membership.apply(all(1, &[("a", 1, 1)]), NOW);
        let early = Changes { ended: vec![ended("a", 1, 2, 2)], ..joins("b", 3) };
        let mut late = leaves("b", 3, 4);
        late.ended.push(ended("a", 1, 2, 2));
        membership.apply(late, NOW);
        membership.apply(early, NOW);
        assert_eq!(at(&membership, 1), ["a"]);
        assert_eq!(at(&membership, 3), ["b"]);
        assert_eq!(at(&membership, 4), Vec::<String>::new());
    }

    #[test]
    fn old_ends_are_forgotten() {
        let mut membership = Membership::default();
        membership.apply(all(2, &[("a", 1, 1), ("b", 2, 2)]), NOW);
        membership.apply(leaves("a", 1, 3), NOW);
        assert_eq!(at(&membership, 2), ["a", "b"]);
        membership.apply(Changes { retention_us: NOW - 4, ..joins("c", 9) }, NOW);
        assert_eq!(at(&membership, 2), ["b"]);
        membership.apply(Changes { retention_us: NOW - 4 - LASTS, ..joins("d", 10) }, NOW);
        assert_eq!(membership.at(10, 10).len(), 2, "b has ended long ago");
    }

    #[test]
    fn each_membership_has_its_own_end() {
        let mut membership = Membership::default();
        let mut changes = all(2, &[("short", 1, 1), ("long", 2, 2)]);
        changes.members[0].1 = 10;
        membership.apply(changes, NOW);
        for (sent, members) in [(9, 2), (10, 1), (1001, 1), (1002, 0), (9, 2)] {
            assert_eq!(membership.at(2, sent).len(), members, "{sent}");
        }
    }

    #[test]
    fn a_waiting_message_keeps_the_members_of_its_send_and_lists_them_on_delivery() {
        let mut membership = Arc::new(Membership::default());
        Arc::make_mut(&mut membership).apply(all(1, &[("a", 1, 1)]), NOW);
        let waiting: Vec<_> = (0..100).map(|sent| Recipients::new(membership.clone(), 1, sent)).collect();
        assert_eq!(Arc::strong_count(&membership), 101, "all of them share one membership");
        Arc::make_mut(&mut membership).apply(leaves("a", 1, 3), NOW);
        Arc::make_mut(&mut membership).apply(Changes { retention_us: 0, ..joins("b", 9) }, NOW);
        assert!(waiting.iter().all(|recipients| !recipients.is_empty() && *recipients.list() == [channel("a")]));
        assert!(Recipients::new(membership.clone(), 3, 3).is_empty());
        assert!(Recipients::new(membership, 9, 9 + LASTS).is_empty());
    }
}
