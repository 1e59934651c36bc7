//! `Layout`: what one node reports about its cluster, in answer to `CLUSTER SLOTS`.
//!
//! `CLUSTER SHARDS` says more, but Redis 7.2 and 7.4 and Valkey 7.2 report a failed master there beside the promoted
//! one, some versions without the slots of either (redis#13414, valkey#784).

use std::ops::RangeInclusive;

use redis::Value;

use super::{Address, Slot};

/// The shards of a cluster that serve slots, as one node reports them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) shards: Vec<ReportedShard>,
}

/// A master with its replicas.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ReportedShard {
    /// The slots that it serves. There is one at least.
    pub(crate) slots: Vec<RangeInclusive<u16>>,
    /// The nodes, the master first.
    pub(crate) nodes: Vec<ReportedNode>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReportedNode {
    /// The id of the node, which stays the same when its address changes.
    pub(crate) id: String,
    /// Where clients reach it; `None` if the reporting node does not know that.
    pub(crate) address: Option<Address>,
    /// Whether its host is the one at which the reporting node was reached. Another client may reach it elsewhere.
    pub(crate) is_host_implied: bool,
    pub(crate) is_master: bool,
}

impl Layout {
    /// Reads the answer of a node that was reached as `asked`. Its ports are those for connections like the one it came
    /// over. Returns `None` for another answer, and for one without a slot: a node that has just been started knows
    /// nothing about its cluster.
    pub(crate) fn parse(answer: &Value, asked: &str) -> Option<Self> {
        let mut shards: Vec<ReportedShard> = Vec::new();
        for range in answer.as_sequence()? {
            let [first, last, nodes @ ..] = range.as_sequence()? else { return None };
            let slots = number(first)?..=number(last)?;
            let nodes = nodes.iter().enumerate().map(|(place, node)| ReportedNode::parse(node, asked, place == 0));
            let nodes = nodes.collect::<Option<Vec<_>>>()?;
            let master = nodes.first()?;
            match shards.iter_mut().find(|shard| shard.nodes[0].id == master.id) {
                Some(shard) => shard.slots.push(slots),
                None => shards.push(ReportedShard { slots: vec![slots], nodes }),
            }
        }
        (!shards.is_empty()).then_some(Self { shards })
    }

    /// Whether every slot is served.
    pub(crate) fn is_complete(&self) -> bool {
        self.slot_count() == Slot::COUNT
    }

    /// How many slots are served.
    pub(crate) fn slot_count(&self) -> usize {
        self.shards.iter().flat_map(|shard| &shard.slots).map(RangeInclusive::len).sum()
    }
}

impl ReportedShard {
    /// The node that serves the slots.
    pub(crate) fn master(&self) -> &ReportedNode {
        &self.nodes[0]
    }

    /// The slots that it serves.
    pub(crate) fn slots(&self) -> impl Iterator<Item = Slot> {
        self.slots.iter().cloned().flatten().filter_map(Slot::numbered)
    }
}

impl ReportedNode {
    fn parse(node: &Value, asked: &str, is_master: bool) -> Option<Self> {
        let [endpoint, port, id, ..] = node.as_sequence()? else { return None };
        let endpoint = text(endpoint).unwrap_or_default();
        // The node does not know its own address, and means the one that it was reached by.
        let is_host_implied = endpoint.is_empty();
        let host = if is_host_implied { asked } else { endpoint };
        let address = Some(host.to_owned()).filter(|host| host != "?").zip(number(port));
        Some(Self { id: text(id)?.to_owned(), address, is_host_implied, is_master })
    }
}

fn number(value: &Value) -> Option<u16> {
    match value {
        Value::Int(number) => u16::try_from(*number).ok(),
        _ => None,
    }
}

fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A node of an answer. `host` is the endpoint; `None` for null.
    pub(crate) fn node(id: &str, host: Option<&str>, port: u16) -> String {
        let endpoint = host.map_or("$-1\r\n".to_owned(), bulk);
        format!("*4\r\n{endpoint}:{port}\r\n{}*2\r\n{}{}", bulk(id), bulk("hostname"), bulk("n"))
    }

    /// A range of slots of an answer.
    pub(crate) fn range(first: u16, last: u16, nodes: &[String]) -> String {
        format!("*{}\r\n:{first}\r\n:{last}\r\n{}", nodes.len() + 2, nodes.concat())
    }

    pub(crate) fn layout(ranges: &[String]) -> Option<Layout> {
        layout_at("asked", ranges)
    }

    /// The layout that a node reports that was reached at `host`.
    pub(crate) fn layout_at(host: &str, ranges: &[String]) -> Option<Layout> {
        parse(&format!("*{}\r\n{}", ranges.len(), ranges.concat()), host)
    }

    fn bulk(text: &str) -> String {
        format!("${}\r\n{text}\r\n", text.len())
    }

    fn parse(answer: &str, asked: &str) -> Option<Layout> {
        let answer = redis::parse_redis_value(answer.as_bytes()).expect("it is an answer");
        Layout::parse(&answer, asked)
    }

    #[test]
    fn the_ranges_of_a_master_are_one_shard() {
        let (one, other) = (node("a", Some("10.0.0.1"), 7001), node("b", Some("10.0.0.2"), 7002));
        let replica = node("c", Some("10.0.0.3"), 7003);
        let ranges =
            [range(0, 5, &[one.clone(), replica.clone()]), range(6, 7, &[other]), range(9, 9, &[one, replica])];
        let layout = layout(&ranges).expect("it is a layout");
        let [shard, _] = &layout.shards[..] else { panic!("{layout:?}") };
        assert_eq!(shard.slots().map(Slot::index).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5, 9]);
        assert_eq!(shard.master().address, Some(("10.0.0.1".to_owned(), 7001)));
        assert!(!shard.nodes[1].is_master && shard.nodes[1].id == "c" && shard.nodes.len() == 2);
    }

    #[test]
    fn a_node_without_an_endpoint_is_where_the_answering_node_was_asked() {
        for (endpoint, host) in
            [(None, Some("asked")), (Some(""), Some("asked")), (Some("?"), None), (Some("n"), Some("n"))]
        {
            let layout = layout(&[range(0, 1, &[node("a", endpoint, 1)])]).expect("it is a layout");
            let address = layout.shards[0].master().address.clone();
            assert_eq!(address.as_ref().map(|(host, _)| host.as_str()), host, "{endpoint:?}");
        }
    }

    #[test]
    fn only_a_layout_of_all_slots_is_complete() {
        let of = |last| layout(&[range(0, 9, &[node("a", None, 1)]), range(10, last, &[node("b", None, 2)])]);
        assert!(of(16383).expect("it is a layout").is_complete());
        assert!(!of(16382).expect("it is a layout").is_complete());
    }

    #[test]
    fn other_answers_are_no_layouts() {
        for other in [
            "*0\r\n",
            "+OK\r\n",
            "$-1\r\n",
            "*1\r\n:1\r\n",
            "*1\r\n*2\r\n:0\r\n:1\r\n",
            "*1\r\n*3\r\n:0\r\n:1\r\n*0\r\n",
        ] {
            assert_eq!(parse(other, "asked"), None, "{other}");
        }
    }
}
