//! `Layout`: what one node reports about its cluster, in answer to `CLUSTER SHARDS`.

use std::collections::HashMap;
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
    pub(crate) nodes: Vec<ReportedNode>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReportedNode {
    /// The id of the node, which stays the same when its address changes.
    pub(crate) id: String,
    /// Where clients reach it; `None` if the reporting node does not know that.
    pub(crate) address: Option<Address>,
    pub(crate) is_master: bool,
}

impl Layout {
    /// Reads the answer of a node that was reached as `asked`. `tls` says which port of a node is used. Returns `None` for another
    /// answer, and for one without a slot: a node that has just been started knows nothing about its cluster.
    pub(crate) fn parse(answer: &Value, asked: &str, tls: bool) -> Option<Self> {
        let shards = answer.as_sequence()?.iter().map(|shard| ReportedShard::parse(shard, asked, tls));
        let mut shards = shards.collect::<Option<Vec<_>>>()?;
        shards.retain(|shard| !shard.slots.is_empty());
        (!shards.is_empty()).then_some(Self { shards })
    }

    /// How many slots are served.
    pub(crate) fn served(&self) -> usize {
        self.shards.iter().flat_map(|shard| &shard.slots).map(RangeInclusive::len).sum()
    }
}

impl ReportedShard {
    fn parse(shard: &Value, asked: &str, tls: bool) -> Option<Self> {
        let fields = fields(shard)?;
        let slots = fields.get("slots")?.as_sequence()?.chunks(2).map(range).collect::<Option<_>>()?;
        let nodes = fields.get("nodes")?.as_sequence()?.iter();
        let nodes = nodes.map(|node| ReportedNode::parse(node, asked, tls)).collect::<Option<_>>()?;
        Some(Self { slots, nodes })
    }

    /// The node that serves the slots.
    pub(crate) fn master(&self) -> Option<&ReportedNode> {
        self.nodes.iter().find(|node| node.is_master)
    }

    /// The slots that it serves.
    pub(crate) fn slots(&self) -> impl Iterator<Item = Slot> {
        self.slots.iter().cloned().flatten().filter_map(Slot::numbered)
    }
}

impl ReportedNode {
    fn parse(node: &Value, asked: &str, tls: bool) -> Option<Self> {
        let fields = fields(node)?;
        let port = fields.get(if tls { "tls-port" } else { "port" }).and_then(|port| number(port));
        let host = match fields.get("endpoint").and_then(|endpoint| text(endpoint)) {
            // The node does not know its own address, and means the one that it was reached by.
            None | Some("") => Some(asked),
            Some("?") => None,
            Some(host) => Some(host),
        };
        Some(Self {
            id: text(fields.get("id")?)?.to_owned(),
            address: host.map(str::to_owned).zip(port),
            is_master: text(fields.get("role")?)? == "master",
        })
    }
}

/// The fields of a map, or of a list of names and values.
fn fields(value: &Value) -> Option<HashMap<&str, &Value>> {
    value.as_map_iter()?.map(|(name, value)| Some((text(name)?, value))).collect()
}

fn range(ends: &[Value]) -> Option<RangeInclusive<u16>> {
    match ends {
        [first, last] => Some(number(first)?..=number(last)?),
        _ => None,
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

    /// A node of an answer in RESP2. `host` is the endpoint; `None` for null.
    pub(crate) fn node(id: &str, host: Option<&str>, port: u16, role: &str) -> String {
        let endpoint = host.map_or("$-1\r\n".to_owned(), bulk);
        format!(
            "*14\r\n{}{}{}:{port}\r\n{}{}{}{endpoint}{}{}{}:0\r\n{}{}",
            bulk("id"),
            bulk(id),
            bulk("port"),
            bulk("ip"),
            bulk("127.0.0.1"),
            bulk("endpoint"),
            bulk("role"),
            bulk(role),
            bulk("replication-offset"),
            bulk("health"),
            bulk("online"),
        )
    }

    /// A shard of an answer in RESP2.
    pub(crate) fn shard(slots: &[u16], nodes: &[String]) -> String {
        let slots_part = slots.iter().fold(String::new(), |part, slot| format!("{part}:{slot}\r\n"));
        let (slots, count) = (format!("*{}\r\n{slots_part}", slots.len()), nodes.len());
        format!("*4\r\n{}{slots}{}*{count}\r\n{}", bulk("slots"), bulk("nodes"), nodes.concat())
    }

    pub(crate) fn layout(shards: &[String]) -> Option<Layout> {
        parse(&format!("*{}\r\n{}", shards.len(), shards.concat()), false)
    }

    fn bulk(text: &str) -> String {
        format!("${}\r\n{text}\r\n", text.len())
    }

    fn parse(answer: &str, tls: bool) -> Option<Layout> {
        let answer = redis::parse_redis_value(answer.as_bytes()).expect("it is an answer");
        Layout::parse(&answer, "asked", tls)
    }

    #[test]
    fn shards_are_read_with_their_slots_and_nodes() {
        let nodes = [node("a", Some("10.0.0.1"), 7001, "master"), node("b", Some("10.0.0.2"), 7002, "replica")];
        let layout = layout(&[shard(&[0, 5, 9, 9], &nodes)]).expect("it is a layout");
        let [shard] = &layout.shards[..] else { panic!("{layout:?}") };
        assert_eq!(shard.slots().map(Slot::index).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5, 9]);
        assert_eq!(layout.served(), 7);
        assert_eq!(shard.master().and_then(|node| node.address.clone()), Some(("10.0.0.1".to_owned(), 7001)));
        assert!(!shard.nodes[1].is_master && shard.nodes[1].id == "b");
    }

    #[test]
    fn a_node_without_an_endpoint_is_where_the_answering_node_was_asked() {
        for (endpoint, host) in
            [(None, Some("asked")), (Some(""), Some("asked")), (Some("?"), None), (Some("n"), Some("n"))]
        {
            let layout = layout(&[shard(&[0, 1], &[node("a", endpoint, 1, "master")])]).expect("it is a layout");
            let address = layout.shards[0].nodes[0].address.clone();
            assert_eq!(address.as_ref().map(|(host, _)| host.as_str()), host, "{endpoint:?}");
        }
    }

    #[test]
    fn with_tls_the_other_port_is_used() {
        let tls = node("a", Some("n"), 7, "master").replace("$4\r\nport", "$8\r\ntls-port");
        let answer = format!("*1\r\n{}", shard(&[0, 1], &[tls]));
        let port = |tls| parse(&answer, tls).expect("it is a layout").shards[0].nodes[0].address.clone();
        assert_eq!(port(true), Some(("n".to_owned(), 7)));
        assert_eq!(port(false), None, "the node listens for no connections without TLS");
    }

    #[test]
    fn an_answer_without_slots_is_no_layout() {
        let empty = shard(&[], &[node("a", Some("n"), 1, "master")]);
        assert_eq!(layout(&[]), None);
        assert_eq!(layout(std::slice::from_ref(&empty)), None);
        let served = shard(&[0, 1], &[node("b", Some("n"), 2, "master")]);
        assert_eq!(
            layout(&[empty, served]).expect("it is a layout").shards.len(),
            1,
            "a master without slots is left out"
        );
        for other in ["+OK\r\n", "$-1\r\n", "*1\r\n:1\r\n", "*1\r\n*2\r\n$5\r\nslots\r\n:1\r\n"] {
            assert_eq!(parse(other, false), None, "{other}");
        }
    }

    /// The answer of a node of Redis 7.0.15, over RESP3, where a shard is a map.
    #[test]
    fn maps_are_read_as_lists_are() {
        let answer = "*1\r\n%2\r\n$5\r\nslots\r\n*2\r\n:0\r\n:16383\r\n$5\r\nnodes\r\n*1\r\n%7\r\n$2\r\nid\r\n$1\r\na\r\n\
                      $4\r\nport\r\n:1\r\n$2\r\nip\r\n$1\r\nn\r\n$8\r\nendpoint\r\n$1\r\nn\r\n$4\r\nrole\r\n$6\r\nmaster\r\n\
                      $18\r\nreplication-offset\r\n:0\r\n$6\r\nhealth\r\n$6\r\nonline\r\n";
        assert_eq!(parse(answer, false).expect("it is a layout").served(), Slot::COUNT);
    }
}
