//! `KnownShards`: the shards of a cluster with numbers that stay the same while nodes come, go and change their roles.

use std::ops::RangeInclusive;
use std::time::Duration;

use tokio::time::Instant;

use super::Address;
use super::layout::{Layout, ReportedNode, ReportedShard};

/// How long a shard that no layout has is kept after a redirection has named it. A migration to it may be under way.
const NAMED_FOR: Duration = Duration::from_mins(1);

/// The shards by their numbers. Numbers are not used again.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct KnownShards(Vec<KnownShard>);

/// A master with its replicas, as last reported.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct KnownShard {
    /// Empty before the first report, and if only redirections have named its master.
    nodes: Vec<ReportedNode>,
    /// The slots that it served, as last reported.
    slots: Vec<RangeInclusive<u16>>,
    /// The address of its master.
    master: Option<Address>,
    /// The address that was returned last for a connection.
    located: Option<Address>,
    /// Another host of the master. It is used for the next connection.
    other_host: Option<String>,
    /// When a redirection last named its master.
    named: Option<Instant>,
    /// Whether it serves slots.
    pub(crate) serves: bool,
    /// Whether its nodes have left the cluster.
    pub(crate) retired: bool,
}

impl KnownShards {
    /// One shard, whose nodes are unknown. The first layout says which ones they are.
    pub(crate) fn unknown() -> Self {
        Self(vec![KnownShard { serves: true, ..KnownShard::default() }])
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn get(&self, number: usize) -> Option<&KnownShard> {
        self.0.get(number)
    }

    /// The addresses of all known nodes.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = &Address> {
        let nodes = self.0.iter().filter(|shard| !shard.retired).flat_map(|shard| &shard.nodes);
        nodes.filter_map(|node| node.address.as_ref())
    }

    /// The shard that has a node at `address`.
    pub(crate) fn at(&self, address: &Address) -> Option<usize> {
        self.0.iter().position(|shard| !shard.retired && shard.has_node_at(address))
    }

    /// The shard that has a node at `address`, which a redirection names. If the node is unknown, it is the master of a
    /// new shard.
    pub(crate) fn at_or_new(&mut self, address: &Address, now: Instant) -> usize {
        let number = self.at(address).unwrap_or_else(|| {
            self.0.push(KnownShard { master: Some(address.clone()), ..KnownShard::default() });
            self.0.len() - 1
        });
        self.0[number].named = Some(now);
        number
    }

    /// Records that the master of a shard is at `address` now. Returns whether it was elsewhere.
    pub(crate) fn set_master(&mut self, number: usize, address: Address) -> bool {
        let shard = &mut self.0[number];
        shard.master.as_ref() != Some(&address) && shard.master.replace(address).is_some()
    }

    /// The address of the master of a shard, for a connection to it, and whether the last connection was for the same
    /// address.
    pub(crate) fn locate(&mut self, number: usize) -> Option<(Address, bool)> {
        let shard = self.0.get_mut(number)?;
        if shard.master.is_some() && shard.master == shard.located {
            shard.use_other_host();
        }
        let master = shard.master.clone()?;
        let is_same = shard.located.replace(master.clone()).as_ref() == Some(&master);
        Some((master, is_same))
    }

    /// Records the nodes of the shards in `layout`. Returns the number of each, in its order. A shard without a match
    /// is new. A known shard that matches none is retired if the layout is complete, unless a redirection has named it
    /// lately.
    pub(crate) fn apply(&mut self, layout: &Layout, now: Instant) -> Vec<usize> {
        let is_complete = layout.is_complete();
        let mut matched: Vec<Option<usize>> = vec![None; layout.shards.len()];
        let rules = [
            KnownShard::has_same_master,
            KnownShard::has_master_in,
            KnownShard::has_master_of,
            KnownShard::has_all_slots_of,
            KnownShard::is_master_of,
            KnownShard::is_unknown,
        ];
        for rule in rules {
            for (reported, place) in layout.shards.iter().zip(0..) {
                if matched[place].is_none() {
                    let is_free = |number: &usize| !matched.contains(&Some(*number)) && !self.0[*number].retired;
                    matched[place] = (0..self.0.len()).filter(is_free).find(|number| rule(&self.0[*number], reported));
                }
            }
        }
        for (number, shard) in self.0.iter_mut().enumerate() {
            let is_reported = matched.contains(&Some(number));
            shard.serves = is_reported || shard.serves && !is_complete;
            let is_named = shard.named.is_some_and(|named| now.duration_since(named) < NAMED_FOR);
            shard.retired |= is_complete && !is_reported && !is_named;
        }
        let numbered = layout.shards.iter().zip(matched).map(|(reported, number)| {
            let number = number.unwrap_or_else(|| {
                self.0.push(KnownShard::default());
                self.0.len() - 1
            });
            self.0[number].record(reported);
            number
        });
        numbered.collect()
    }
}

impl KnownShard {
    /// The address of its master.
    pub(crate) fn master(&self) -> Option<&Address> {
        self.master.as_ref()
    }

    fn record(&mut self, reported: &ReportedShard) {
        let nodes = reported.nodes.iter().map(|node| self.at_known_host(node)).collect();
        self.nodes = nodes;
        self.slots.clone_from(&reported.slots);
        if let (Some(known), Some(address)) = (&self.nodes[0].address, &reported.master().address) {
            if known != address {
                self.other_host = Some(address.0.clone());
            } else if !self.nodes[0].is_host_implied {
                self.other_host = None;
            }
            self.master = Some(known.clone());
        }
        self.serves = true;
    }

    /// `reported` at the host by which it is known, if the reporting node implies its host. Two of the configured hosts
    /// may be names of the same nodes, and no connection has to be replaced then.
    fn at_known_host(&self, reported: &ReportedNode) -> ReportedNode {
        let known = self.nodes.iter().find(|known| known.id == reported.id && known.is_host_implied);
        let host = known.filter(|_| reported.is_host_implied).and_then(|known| known.address.as_ref());
        let address = match (host, &reported.address) {
            (Some((host, _)), Some((_, port))) => Some((host.clone(), *port)),
            (_, address) => address.clone(),
        };
        ReportedNode { address, ..reported.clone() }
    }

    /// Takes the other host of the nodes whose hosts are implied, because a connection to the present one was lost.
    fn use_other_host(&mut self) {
        let Some(other) = self.other_host.take() else { return };
        let nodes = self.nodes.iter_mut().filter(|node| node.is_host_implied);
        for (host, _) in nodes.filter_map(|node| node.address.as_mut()).chain(self.master.as_mut()) {
            host.clone_from(&other);
        }
    }

    fn has_node_at(&self, address: &Address) -> bool {
        self.master.as_ref() == Some(address) || self.nodes.iter().any(|node| node.address.as_ref() == Some(address))
    }

    fn last_master(&self) -> Option<&ReportedNode> {
        self.nodes.iter().find(|node| node.is_master)
    }

    /// Whether the master of `reported` is the last master. Another shard of `reported` may have been drained, and its
    /// master be a replica now.
    fn has_same_master(&self, reported: &ReportedShard) -> bool {
        self.last_master().is_some_and(|master| master.id == reported.master().id)
    }

    /// Whether the last master is a node of `reported`.
    fn has_master_in(&self, reported: &ReportedShard) -> bool {
        self.last_master().is_some_and(|master| reported.nodes.iter().any(|node| node.id == master.id))
    }

    /// Whether the master of `reported` is a known node.
    fn has_master_of(&self, reported: &ReportedShard) -> bool {
        self.nodes.iter().any(|node| node.id == reported.master().id)
    }

    /// Whether a redirection has named the master of `reported`.
    fn is_master_of(&self, reported: &ReportedShard) -> bool {
        self.nodes.is_empty() && self.master.is_some() && self.master == reported.master().address
    }

    /// Whether the slots of `reported` are those of this shard. No layout had the promoted replica, because it had not
    /// synchronized with its master.
    fn has_all_slots_of(&self, reported: &ReportedShard) -> bool {
        !self.slots.is_empty() && self.slots == reported.slots
    }

    fn is_unknown(&self, _: &ReportedShard) -> bool {
        self.nodes.is_empty() && self.master.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::super::layout::tests::{layout, layout_at, node, range};
    use super::*;

    /// A layout whose shards have these nodes, the master first, and together all slots. The last character of the id
    /// of a node is its port.
    fn report(shards: &[&str]) -> Layout {
        part(shards, 16383)
    }

    /// As [`report`], with slots up to `last`.
    fn part(shards: &[&str], last: u16) -> Layout {
        let of = |(ids, at): (&&str, u16)| {
            let nodes = ids.chars().map(|id| node(&id.to_string(), Some("n"), port(id)));
            let end = if usize::from(at) + 1 == shards.len() { last } else { at * 10 + 9 };
            range(at * 10, end, &nodes.collect::<Vec<_>>())
        };
        layout(&shards.iter().zip(0..).map(of).collect::<Vec<_>>()).expect("it is a layout")
    }

    fn port(id: char) -> u16 {
        u16::try_from(u32::from(id)).unwrap()
    }

    fn apply(known: &mut KnownShards, layout: &Layout) -> Vec<usize> {
        known.apply(layout, Instant::now())
    }

    fn master(known: &KnownShards, number: usize) -> char {
        let (_, port) = known.get(number).unwrap().master().unwrap();
        char::from(u8::try_from(*port).unwrap())
    }

    #[test]
    fn a_failover_keeps_the_number_of_a_shard() {
        let mut known = KnownShards::unknown();
        assert_eq!(apply(&mut known, &report(&["ab", "cd"])), [0, 1]);
        assert_eq!(apply(&mut known, &report(&["dc", "ba"])), [1, 0]);
        assert_eq!((master(&known, 0), master(&known, 1)), ('b', 'd'));
    }

    #[test]
    fn a_shard_whose_master_is_gone_is_found_by_its_replica() {
        let mut known = KnownShards::unknown();
        apply(&mut known, &report(&["ab", "cd"]));
        assert_eq!(apply(&mut known, &report(&["b", "cd"])), [0, 1]);
        assert_eq!(master(&known, 0), 'b');
    }

    #[test]
    fn a_drained_master_that_has_become_a_replica_takes_no_number_along() {
        let mut known = KnownShards::unknown();
        apply(&mut known, &report(&["ab", "cd"]));
        assert_eq!(apply(&mut known, &report(&["cda"])), [1]);
        assert!(known.get(0).unwrap().retired && !known.get(1).unwrap().retired);
    }

    #[test]
    fn a_promoted_node_that_no_layout_had_keeps_the_number_of_its_shard() {
        let mut known = KnownShards::unknown();
        apply(&mut known, &report(&["a", "cd"]));
        assert_eq!(apply(&mut known, &report(&["b", "cd"])), [0, 1]);
        assert_eq!((known.len(), master(&known, 0)), (2, 'b'));
    }

    #[test]
    fn a_promoted_node_that_only_a_redirection_has_named_keeps_the_number_of_its_shard() {
        let mut known = KnownShards::unknown();
        apply(&mut known, &report(&["a", "cd"]));
        assert_eq!(known.at_or_new(&("n".to_owned(), port('b')), Instant::now()), 2);
        assert_eq!(apply(&mut known, &report(&["b", "cd"])), [0, 1]);
        assert_eq!(known.at(&("n".to_owned(), port('b'))), Some(0));
    }

    #[test]
    fn a_replica_that_joined_another_shard_takes_no_number_along() {
        let mut known = KnownShards::unknown();
        apply(&mut known, &report(&["abe", "cd"]));
        assert_eq!(apply(&mut known, &report(&["ab", "cde"])), [0, 1]);
        assert_eq!(apply(&mut known, &report(&["ec", "ab"])), [1, 0]);
    }

    #[test]
    fn new_shards_get_new_numbers_and_those_that_left_are_retired() {
        let mut known = KnownShards::unknown();
        apply(&mut known, &report(&["ab", "cd"]));
        assert_eq!(apply(&mut known, &report(&["ef", "ab"])), [2, 0]);
        assert!(known.get(1).unwrap().retired && !known.get(1).unwrap().serves);
        assert_eq!(known.at(&("n".to_owned(), u16::from(b'c'))), None);
        assert_eq!(apply(&mut known, &report(&["cd", "ab", "ef"])), [3, 0, 2], "a retired number is not used again");
        assert_eq!(known.len(), 4);
    }

    #[test]
    fn an_incomplete_layout_retires_no_shard() {
        let mut known = KnownShards::unknown();
        apply(&mut known, &report(&["ab", "cd"]));
        assert_eq!(apply(&mut known, &part(&["ab"], 9)), [0]);
        assert!(known.get(1).unwrap().serves && !known.get(1).unwrap().retired);
        assert_eq!(apply(&mut known, &report(&["ab", "cd"])), [0, 1]);
    }

    #[test]
    fn a_node_without_an_address_stays_at_its_host_while_it_answers_there() {
        let mut known = KnownShards::unknown();
        let ask = |known: &mut KnownShards, host| {
            let nodes = ["a", "b"].map(|id| node(id, None, port(id.chars().next().unwrap())));
            known.apply(&layout_at(host, &[range(0, 16383, &nodes)]).unwrap(), Instant::now());
        };
        let located = |known: &mut KnownShards| known.locate(0).unwrap().0.0;
        ask(&mut known, "one");
        assert_eq!(located(&mut known), "one");
        for host in ["other", "one", "other"] {
            ask(&mut known, host);
            let master = known.get(0).unwrap().master().unwrap();
            assert_eq!(master, &("one".to_owned(), port('a')), "reported by a node at {host}");
        }
        assert_eq!(located(&mut known), "other", "the connection to the first host was lost");
        assert_eq!(known.at(&("other".to_owned(), port('b'))), Some(0));
        ask(&mut known, "one");
        assert_eq!(known.get(0).unwrap().master().unwrap().0, "other");
    }

    #[test]
    fn a_master_that_a_redirection_names_counts_until_the_next_layout() {
        let mut known = KnownShards::unknown();
        apply(&mut known, &report(&["ab"]));
        let named = ("n".to_owned(), u16::from(b'b'));
        assert!(known.set_master(0, named.clone()) && !known.set_master(0, named));
        assert_eq!(master(&known, 0), 'b');
        apply(&mut known, &report(&["ab"]));
        assert_eq!(master(&known, 0), 'a');
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_a_redirection_names_is_a_shard_until_it_has_slots_or_is_named_no_more() {
        let mut known = KnownShards::unknown();
        apply(&mut known, &report(&["ab"]));
        let (new, other) = (("n".to_owned(), port('c')), ("n".to_owned(), port('e')));
        assert_eq!((known.at_or_new(&new, Instant::now()), known.at_or_new(&new, Instant::now())), (1, 1));
        assert_eq!((known.at_or_new(&other, Instant::now()), master(&known, 1)), (2, 'c'));
        apply(&mut known, &report(&["ab"]));
        assert!(!known.get(1).unwrap().retired && !known.get(1).unwrap().serves);
        assert_eq!(apply(&mut known, &report(&["ab", "cd"])), [0, 1]);
        tokio::time::advance(NAMED_FOR).await;
        assert_eq!(apply(&mut known, &report(&["ab", "cd"])), [0, 1]);
        assert!(known.get(1).unwrap().serves && known.get(2).unwrap().retired);
    }
}
