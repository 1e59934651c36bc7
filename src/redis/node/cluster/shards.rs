//! `KnownShards`: the shards of a cluster with numbers that stay the same while nodes come, go and change their roles.

use super::Address;
use super::layout::{Layout, ReportedNode, ReportedShard};

/// The shards by their numbers. Numbers are not used again.
#[derive(Debug)]
pub(crate) struct KnownShards(Vec<KnownShard>);

/// A master with its replicas, as last reported.
#[derive(Debug, Default)]
pub(crate) struct KnownShard {
    /// Empty before the first report.
    nodes: Vec<ReportedNode>,
    /// The address of its master.
    master: Option<Address>,
    /// The address that was returned last for a connection.
    located: Option<Address>,
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

    /// Records that the master of a shard is at `address` now. Returns whether it was elsewhere.
    pub(crate) fn set_master(&mut self, number: usize, address: Address) -> bool {
        let shard = &mut self.0[number];
        shard.master.as_ref() != Some(&address) && shard.master.replace(address).is_some()
    }

    /// The address of the master of a shard, for a connection to it, and whether the last connection was for the same address.
    pub(crate) fn locate(&mut self, number: usize) -> Option<(Address, bool)> {
        let shard = self.0.get_mut(number)?;
        let master = shard.master.clone()?;
        let is_same = shard.located.replace(master.clone()).as_ref() == Some(&master);
        Some((master, is_same))
    }

    /// Records the nodes of the shards in `layout`. Returns the number of each, in its order. A shard without a match is new. A
    /// known shard that matches none is retired if `is_complete` is set.
    pub(crate) fn apply(&mut self, layout: &Layout, is_complete: bool) -> Vec<usize> {
        let mut matched: Vec<Option<usize>> = vec![None; layout.shards.len()];
        for rule in [KnownShard::has_master_in, KnownShard::has_master_of, KnownShard::is_unknown] {
            for (reported, place) in layout.shards.iter().zip(0..) {
                if matched[place].is_none() {
                    let is_free = |number: &usize| !matched.contains(&Some(*number)) && !self.0[*number].retired;
                    matched[place] = (0..self.0.len()).filter(is_free).find(|number| rule(&self.0[*number], reported));
                }
            }
        }
        for (number, shard) in self.0.iter_mut().enumerate() {
            shard.serves = matched.contains(&Some(number));
            shard.retired |= is_complete && !shard.serves;
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
        self.nodes.clone_from(&reported.nodes);
        // A shard without a master keeps the last one until another node is promoted.
        if let Some(address) = reported.master().and_then(|master| master.address.clone()) {
            self.master = Some(address);
        }
        self.serves = true;
    }

    fn has_node_at(&self, address: &Address) -> bool {
        self.nodes.iter().any(|node| node.address.as_ref() == Some(address))
    }

    /// Whether the last master is a node of `reported`.
    fn has_master_in(&self, reported: &ReportedShard) -> bool {
        let master = self.nodes.iter().find(|node| node.is_master);
        master.is_some_and(|master| reported.nodes.iter().any(|node| node.id == master.id))
    }

    /// Whether the master of `reported` is a known node.
    fn has_master_of(&self, reported: &ReportedShard) -> bool {
        reported.master().is_some_and(|master| self.nodes.iter().any(|node| node.id == master.id))
    }

    fn is_unknown(&self, _: &ReportedShard) -> bool {
        self.nodes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::super::layout::tests::{layout, node, shard};
    use super::*;

    /// A layout whose shards have these nodes, the master first. The last character of the id of a node is its port.
    fn report(shards: &[&str]) -> Layout {
        let of = |(ids, at): (&&str, u16)| {
            let nodes = ids.chars().enumerate().map(|(place, id)| {
                let role = if place == 0 { "master" } else { "replica" };
                node(&id.to_string(), Some("n"), u16::try_from(u32::from(id)).unwrap(), role)
            });
            shard(&[at * 10, at * 10 + 9], &nodes.collect::<Vec<_>>())
        };
        layout(&shards.iter().zip(0..).map(of).collect::<Vec<_>>()).expect("it is a layout")
    }

    fn master(known: &KnownShards, number: usize) -> char {
        let (_, port) = known.get(number).unwrap().master().unwrap();
        char::from(u8::try_from(*port).unwrap())
    }

    #[test]
    fn a_failover_keeps_the_number_of_a_shard() {
        let mut known = KnownShards::unknown();
        assert_eq!(known.apply(&report(&["ab", "cd"]), true), [0, 1]);
        assert_eq!(known.apply(&report(&["dc", "ba"]), true), [1, 0]);
        assert_eq!((master(&known, 0), master(&known, 1)), ('b', 'd'));
    }

    #[test]
    fn a_shard_whose_master_is_gone_is_found_by_its_replica() {
        let mut known = KnownShards::unknown();
        known.apply(&report(&["ab", "cd"]), true);
        assert_eq!(known.apply(&report(&["b", "cd"]), true), [0, 1]);
        assert_eq!(master(&known, 0), 'b');
    }

    #[test]
    fn a_replica_that_joined_another_shard_takes_no_number_along() {
        let mut known = KnownShards::unknown();
        known.apply(&report(&["abe", "cd"]), true);
        assert_eq!(known.apply(&report(&["ab", "cde"]), true), [0, 1]);
        assert_eq!(known.apply(&report(&["ec", "ab"]), true), [1, 0]);
    }

    #[test]
    fn new_shards_get_new_numbers_and_those_that_left_are_retired() {
        let mut known = KnownShards::unknown();
        known.apply(&report(&["ab", "cd"]), true);
        assert_eq!(known.apply(&report(&["ef", "ab"]), true), [2, 0]);
        assert!(known.get(1).unwrap().retired && !known.get(1).unwrap().serves);
        assert_eq!(known.at(&("n".to_owned(), u16::from(b'c'))), None);
        assert_eq!(known.apply(&report(&["cd", "ab", "ef"]), true), [3, 0, 2], "a retired number is not used again");
        assert_eq!(known.len(), 4);
    }

    #[test]
    fn an_incomplete_layout_retires_no_shard() {
        let mut known = KnownShards::unknown();
        known.apply(&report(&["ab", "cd"]), true);
        assert_eq!(known.apply(&report(&["ab"]), false), [0]);
        assert!(!known.get(1).unwrap().serves && !known.get(1).unwrap().retired);
        assert_eq!(known.apply(&report(&["ab", "cd"]), true), [0, 1]);
    }

    #[test]
    fn a_master_that_a_redirection_names_counts_until_the_next_layout() {
        let mut known = KnownShards::unknown();
        known.apply(&report(&["ab"]), true);
        let named = ("n".to_owned(), u16::from(b'b'));
        assert!(known.set_master(0, named.clone()) && !known.set_master(0, named));
        assert_eq!(master(&known, 0), 'b');
        known.apply(&report(&["ab"]), true);
        assert_eq!(master(&known, 0), 'a');
    }
}
