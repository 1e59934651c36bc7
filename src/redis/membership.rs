//! The members that a group has on one route, as a reader knows them: who was a member at which version.

use std::collections::HashMap;
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
    /// The members at `version`, as long as none of them has expired.
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
#[derive(Debug)]
struct Ended {
    channel: ChannelName,
    joined: u64,
    left: u64,
}

#[derive(Debug)]
struct Present {
    channels: Arc<[ChannelName]>,
    /// The oldest last add among them.
    oldest: u64,
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
    /// Former members, the versions that made them members and those that ended it.
    pub(super) left: Vec<(ChannelName, u64, u64)>,
}

impl Membership {
    /// The version up to which everything is known.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// Takes in what a server told to somebody who knew less than all. What ended before `forget` is forgotten.
    pub(super) fn apply(&mut self, changes: Changes, forget: u64) {
        if changes.version <= self.version {
            // Another answer came first and told more.
            return;
        }
        if !changes.partial {
            self.members.clear();
            self.ended.clear();
        }
        for (channel, joined, left) in changes.left {
            if changes.partial && left <= self.version {
                continue;
            }
            if self.members.get(key(&channel)).is_some_and(|member| member.joined < left) {
                self.members.remove(key(&channel));
            }
            self.ended.push(Ended { channel, joined, left });
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
        self.ended.retain(|ended| ended.left >= forget);
        self.version = changes.version;
        self.present = None;
    }

    /// Who was a member at `version` and had last been added after `expired`.
    pub(super) fn at(&mut self, version: u64, expired: u64) -> Arc<[ChannelName]> {
        if version < self.version {
            return self.back_then(version, expired);
        }
        match &self.present {
            Some(present) if present.oldest > expired => present.channels.clone(),
            _ => {
                self.members.retain(|_, member| member.added > expired);
                let oldest = self.members.values().map(|member| member.added).min().unwrap_or(u64::MAX);
                let channels: Arc<[_]> = self.members.values().map(|member| member.channel.clone()).collect();
                self.present = Some(Present { channels: channels.clone(), oldest });
                channels
            }
        }
    }

    fn back_then(&self, version: u64, expired: u64) -> Arc<[ChannelName]> {
        let still = self.members.values().filter(|member| member.joined <= version && member.added > expired);
        let since_left = self.ended.iter().filter(|ended| ended.joined <= version && version < ended.left);
        still.map(|member| &member.channel).chain(since_left.map(|ended| &ended.channel)).cloned().collect()
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
            left: Vec::new(),
        }
    }

    fn joins(local: &str, version: u64) -> Changes {
        Changes { partial: true, ..all(version, &[(local, version, version)]) }
    }

    fn renews(local: &str, version: u64) -> Changes {
        Changes { joined: Vec::new(), ..joins(local, version) }
    }

    fn leaves(local: &str, joined: u64, version: u64) -> Changes {
        Changes { version, partial: true, left: vec![(channel(local), joined, version)], ..Changes::default() }
    }

    fn at(membership: &mut Membership, version: u64) -> Vec<String> {
        let mut locals: Vec<_> = membership.at(version, 0).iter().map(|name| key(name).to_owned()).collect();
        locals.sort();
        locals
    }

    #[test]
    fn each_version_has_its_members() {
        let mut known = Membership::default();
        known.apply(all(2, &[("a", 1, 1), ("b", 2, 2)]), 0);
        known.apply(joins("c", 3), 0);
        known.apply(leaves("a", 1, 4), 0);
        assert_eq!(at(&mut known, 1), ["a"]);
        assert_eq!(at(&mut known, 2), ["a", "b"]);
        assert_eq!(at(&mut known, 3), ["a", "b", "c"]);
        assert_eq!(at(&mut known, 4), ["b", "c"]);
    }

    #[test]
    fn a_renewed_member_keeps_its_beginning() {
        let mut known = Membership::default();
        known.apply(all(1, &[("a", 1, 1)]), 0);
        known.apply(renews("a", 5), 0);
        assert_eq!(at(&mut known, 1), ["a"]);
        assert_eq!(known.at(5, 4).len(), 1);
    }

    #[test]
    fn who_left_and_came_back_was_away_between() {
        let mut known = Membership::default();
        known.apply(all(1, &[("a", 1, 1)]), 0);
        known.apply(leaves("a", 1, 3), 0);
        known.apply(joins("a", 5), 0);
        assert_eq!(at(&mut known, 2), ["a"]);
        assert_eq!(at(&mut known, 3), Vec::<String>::new());
        assert_eq!(at(&mut known, 4), Vec::<String>::new());
        assert_eq!(at(&mut known, 5), ["a"]);
    }

    #[test]
    fn leaving_and_coming_back_told_at_once_are_both_known() {
        let mut known = Membership::default();
        known.apply(all(1, &[("a", 1, 1)]), 0);
        known.apply(Changes { left: vec![(channel("a"), 1, 3)], ..joins("a", 5) }, 0);
        assert_eq!(at(&mut known, 2), ["a"]);
        assert_eq!(at(&mut known, 4), Vec::<String>::new());
        assert_eq!(at(&mut known, 5), ["a"]);
    }

    #[test]
    fn expired_members_are_left_out() {
        let mut known = Membership::default();
        known.apply(all(20, &[("a", 10, 10), ("b", 20, 20)]), 0);
        assert_eq!(known.at(20, 9).len(), 2);
        assert_eq!(known.at(20, 10).len(), 1);
        assert_eq!(known.at(20, 20).len(), 0);
    }

    #[test]
    fn the_whole_truth_replaces_what_was_known() {
        let mut known = Membership::default();
        known.apply(all(2, &[("a", 1, 1), ("b", 2, 2)]), 0);
        known.apply(all(9, &[("c", 9, 9)]), 0);
        assert_eq!(at(&mut known, 9), ["c"]);
    }

    #[test]
    fn answers_that_overtook_each_other_do_no_harm() {
        let mut known = Membership::default();
        known.apply(all(1, &[("a", 1, 1)]), 0);
        let early = Changes { left: vec![(channel("a"), 1, 2)], ..joins("b", 3) };
        let mut late = leaves("b", 3, 4);
        late.left.push((channel("a"), 1, 2));
        known.apply(late, 0);
        known.apply(early, 0);
        assert_eq!(at(&mut known, 1), ["a"]);
        assert_eq!(at(&mut known, 3), ["b"]);
        assert_eq!(at(&mut known, 4), Vec::<String>::new());
    }

    #[test]
    fn old_endings_are_forgotten() {
        let mut known = Membership::default();
        known.apply(all(1, &[("a", 1, 1)]), 0);
        known.apply(leaves("a", 1, 3), 0);
        known.apply(joins("b", 9), 4);
        assert_eq!(at(&mut known, 2), Vec::<String>::new());
    }
}
