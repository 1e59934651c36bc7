//! `ClusterInfo`: the state of a cluster as one node sees it, from the answer to `CLUSTER INFO`.

use super::Slot;

/// The state of a cluster as one node sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClusterInfo {
    /// Whether the node counts the cluster as working. A node that most masters do not answer does not.
    pub(crate) is_ok: bool,
    /// How many slots have a master.
    pub(crate) assigned: usize,
    /// How many slots have a master that answers the node.
    pub(crate) served: usize,
}

impl ClusterInfo {
    /// The info of a node whose user may not ask for it. Such a node is trusted.
    pub(super) fn refused() -> Self {
        Self { is_ok: true, assigned: Slot::COUNT, served: Slot::COUNT }
    }

    /// Reads an answer. Numbers that it lacks are zero.
    pub(super) fn parse(info: &str) -> Self {
        let field =
            |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
        let number = |name| field(name).and_then(|value| value.parse().ok()).unwrap_or_default();
        Self {
            is_ok: field("cluster_state") == Some("ok"),
            assigned: number("cluster_slots_assigned"),
            served: number("cluster_slots_ok"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_and_the_slots_are_read() {
        let info = "cluster_state:fail\r\ncluster_slots_assigned:16384\r\ncluster_slots_ok:5461\r\n";
        assert_eq!(ClusterInfo::parse(info), ClusterInfo { is_ok: false, assigned: 16384, served: 5461 });
        assert_eq!(ClusterInfo::parse("ok"), ClusterInfo { is_ok: false, assigned: 0, served: 0 });
        assert!(ClusterInfo::parse("cluster_state:ok\r\n").is_ok);
    }
}
