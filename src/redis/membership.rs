//! The members that a group has on one route, as a reader knows them: who was a member at which version.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use crate::name::ChannelName;

/// The members of one group on one process-local route, and those that left lately.
///
/// Versions grow with every change and are times in microseconds, by the clock of the group's shard, so that they tell
/// the age of a membership too.
#[derive(Debug, Default)]
pub(super) struct Membership {
    /// All changes up to this version are known.
    version: u64,
    /// By local part.
    members: HashMap<Box<str>, Member>,
    ended: Vec<Ended>,
    /// The members at `version`.
    present: Option<Present>,
}

#[derive(Clone, Debug)]
struct Member {
    channel: ChannelName,
    /// The version that made it a member.
    joined: u64,
    /// The version of its last add.
    added: u64,
}

/// A membership that has ended: messages sent before its end are still for it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Ended {
    pub(super) channel: ChannelName,
    pub(super) joined: u64,
    /// When it ended.
    pub(super) until: u64,
    /// The version of the change by which that became known: later than the end for a membership that expired.
    pub(super) told: u64,
}

/// From when on what has ended still matters.
#[derive(Clone, Copy, Debug)]
pub(super) struct Horizon {
    /// Memberships that ended before are forgotten.
    pub(super) ended: u64,
    /// So are members that were last added before.
    pub(super) added: u64,
}

#[derive(Debug)]
struct Present {
    channels: Arc<[ChannelName]>,
    /// They are the members for adds that expired up to any of these times.
    expired: Range<u64>,
}

/// What a server knows of a route's members: everything, or what has changed since a version.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Changes {
    pub(super) version: u64,
    /// Whether members that are not named stay as they were known.
    pub(super) partial: bool,
    /// Members and the versions of their last adds.
    pub(super) added: Vec<(ChannelName, u64)>,
    /// Members and the versions that made them members.
    pub(super) joined: Vec<(ChannelName, u64)>,
    pub(super) ended: Vec<Ended>,
}

impl Membership {
    /// The version up to which everything is known.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// Takes in what a server told to somebody who knew less than all.
    pub(super) fn apply(&mut self, changes: Changes, horizon: Horizon) {
        if changes.version <= self.version {
            // Another answer came first and told more.
            return;
        }
        if !changes.partial {
            self.members.clear();
            self.ended.clear();
        }
        for ended in changes.ended {
            if changes.partial && ended.told <= self.version {
                continue;
            }
            if self.members.get(key(&ended.channel)).is_some_and(|member| member.joined < ended.told) {
                self.members.remove(key(&ended.channel));
            }
            self.ended.push(ended);
        }
        let joined: HashMap<_, _> = changes.joined.iter().map(|(channel, joined)| (key(channel), *joined)).collect();
        for (channel, added) in changes.added {
            let joined = joined.get(key(&channel)).copied();
            match self.members.get_mut(key(&channel)) {
                Some(member) => {
                    member.added = added;
                    member.joined = joined.unwrap_or(member.joined);
                }
                None => {
                    let member = Member { joined: joined.unwrap_or(added), added, channel: channel.clone() };
                    self.members.insert(key(&channel).into(), member);
                }
            }
        }
        self.members.retain(|_, member| member.added >= horizon.added);
        self.ended.retain(|ended| ended.told >= horizon.ended);
        self.version = changes.version;
        self.present = None;
    }

    /// Who was a member at `version`, without those whose membership, `lasts` after their last add, had expired at
    /// `sent`. All are in microseconds.
    pub(super) fn at(&mut self, version: u64, sent: u64, lasts: u64) -> Arc<[ChannelName]> {
        let expired = sent.saturating_sub(lasts);
        if version < self.version {
            return self.back_then(version, sent, expired);
        }
        match &self.present {
            Some(present) if present.expired.contains(&expired) => present.channels.clone(),
            _ => {
                let added = || self.members.values().map(|member| member.added);
                let youngest_expired = added().filter(|added| *added <= expired).max().unwrap_or(0);
                let oldest_live = added().filter(|added| *added > expired).min().unwrap_or(u64::MAX);
                let live = self.members.values().filter(|member| member.added > expired);
                let channels: Arc<[_]> = live.map(|member| member.channel.clone()).collect();
                self.present = Some(Present { channels: channels.clone(), expired: youngest_expired..oldest_live });
                channels
            }
        }
    }

    fn back_then(&self, version: u64, sent: u64, expired: u64) -> Arc<[ChannelName]> {
        let still = self.members.values().filter(|member| member.joined <= version && member.added > expired);
        let ended_since = self.ended.iter().filter(|ended| {
            let told_later = ended.joined <= version && version < ended.told;
            // One that expired ended before that was told.
            told_later && (ended.until == ended.told || sent < ended.until)
        });
        still.map(|member| &member.channel).chain(ended_since.map(|ended| &ended.channel)).cloned().collect()
    }
}

fn key(channel: &ChannelName) -> &str {
    channel.local().unwrap_or_default()
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
            added: members.iter().map(|(local, _, added)| (channel(local), *added)).collect(),
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

    fn ended(local: &str, joined: u64, until: u64, told: u64) -> Ended {
        Ended { channel: channel(local), joined, until, told }
    }

    fn leaves(local: &str, joined: u64, version: u64) -> Changes {
        Changes { version, partial: true, ended: vec![ended(local, joined, version, version)], ..Changes::default() }
    }

    const FORGET_NOTHING: Horizon = Horizon { ended: 0, added: 0 };
    const LASTS: u64 = 1000;

    fn at(membership: &mut Membership, version: u64) -> Vec<String> {
        let mut locals: Vec<_> =
            membership.at(version, version, LASTS).iter().map(|name| key(name).to_owned()).collect();
        locals.sort();
        locals
    }

    #[test]
    fn each_version_has_its_members() {
        let mut known = Membership::default();
        known.apply(all(2, &[("a", 1, 1), ("b", 2, 2)]), FORGET_NOTHING);
        known.apply(joins("c", 3), FORGET_NOTHING);
        known.apply(leaves("a", 1, 4), FORGET_NOTHING);
        assert_eq!(at(&mut known, 1), ["a"]);
        assert_eq!(at(&mut known, 2), ["a", "b"]);
        assert_eq!(at(&mut known, 3), ["a", "b", "c"]);
        assert_eq!(at(&mut known, 4), ["b", "c"]);
    }

    #[test]
    fn a_renewed_member_keeps_its_beginning() {
        let mut known = Membership::default();
        known.apply(all(1, &[("a", 1, 1)]), FORGET_NOTHING);
        known.apply(renews("a", 5), FORGET_NOTHING);
        assert_eq!(at(&mut known, 1), ["a"]);
        assert_eq!(known.at(5, 5 + LASTS - 1, LASTS).len(), 1);
    }

    #[test]
    fn who_left_and_came_back_was_away_between() {
        let mut known = Membership::default();
        known.apply(all(1, &[("a", 1, 1)]), FORGET_NOTHING);
        known.apply(leaves("a", 1, 3), FORGET_NOTHING);
        known.apply(joins("a", 5), FORGET_NOTHING);
        assert_eq!(at(&mut known, 2), ["a"]);
        assert_eq!(at(&mut known, 3), Vec::<String>::new());
        assert_eq!(at(&mut known, 4), Vec::<String>::new());
        assert_eq!(at(&mut known, 5), ["a"]);
    }

    #[test]
    fn leaving_and_coming_back_told_at_once_are_both_known() {
        let mut known = Membership::default();
        known.apply(all(1, &[("a", 1, 1)]), FORGET_NOTHING);
        known.apply(Changes { ended: vec![ended("a", 1, 3, 3)], ..joins("a", 5) }, FORGET_NOTHING);
        assert_eq!(at(&mut known, 2), ["a"]);
        assert_eq!(at(&mut known, 4), Vec::<String>::new());
        assert_eq!(at(&mut known, 5), ["a"]);
    }

    #[test]
    fn members_expire_by_the_time_of_the_send() {
        let mut known = Membership::default();
        known.apply(all(20, &[("a", 10, 10), ("b", 20, 20)]), FORGET_NOTHING);
        for (sent, members) in [(20, 2), (1009, 2), (1010, 1), (1019, 1), (1020, 0), (1009, 2)] {
            assert_eq!(known.at(20, sent, LASTS).len(), members, "{sent}");
        }
    }

    #[test]
    fn who_expired_and_came_back_was_away_between() {
        let mut known = Membership::default();
        known.apply(all(1, &[("a", 1, 1), ("b", 1, 1)]), FORGET_NOTHING);
        known.apply(Changes { ended: vec![ended("a", 1, 1001, 2000)], ..joins("a", 2000) }, FORGET_NOTHING);
        assert_eq!(known.at(1, 1000, LASTS).len(), 2);
        assert_eq!(known.at(1, 1500, LASTS).len(), 0);
        assert_eq!(known.at(2000, 2000, LASTS).len(), 1);
    }

    #[test]
    fn the_whole_truth_replaces_what_was_known() {
        let mut known = Membership::default();
        known.apply(all(2, &[("a", 1, 1), ("b", 2, 2)]), FORGET_NOTHING);
        known.apply(all(9, &[("c", 9, 9)]), FORGET_NOTHING);
        assert_eq!(at(&mut known, 9), ["c"]);
    }

    #[test]
    fn answers_that_overtook_each_other_do_no_harm() {
        let mut known = Membership::default();
        known.apply(all(1, &[("a", 1, 1)]), FORGET_NOTHING);
        let early = Changes { ended: vec![ended("a", 1, 2, 2)], ..joins("b", 3) };
        let mut late = leaves("b", 3, 4);
        late.ended.push(ended("a", 1, 2, 2));
        known.apply(late, FORGET_NOTHING);
        known.apply(early, FORGET_NOTHING);
        assert_eq!(at(&mut known, 1), ["a"]);
        assert_eq!(at(&mut known, 3), ["b"]);
        assert_eq!(at(&mut known, 4), Vec::<String>::new());
    }

    #[test]
    fn old_endings_are_forgotten() {
        let mut known = Membership::default();
        known.apply(all(1, &[("a", 1, 1)]), FORGET_NOTHING);
        known.apply(leaves("a", 1, 3), FORGET_NOTHING);
        known.apply(joins("b", 9), Horizon { ended: 4, added: 0 });
        assert_eq!(at(&mut known, 2), Vec::<String>::new());
    }
}
