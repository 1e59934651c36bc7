//! `Routing`: the way of a command to the server that has its keys, along the redirections of a cluster.

use std::time::Duration;

use tokio::time::Instant;

use crate::redis::node::cluster::{Cluster, Redirect, Slot};
use crate::redis::node::commands::asking::Node;
use crate::redis::node::commands::request::Request;
use crate::redis::node::fault::Fault;
use crate::redis::node::shard::Shard;
use crate::redis::topology::places::{Failure, Places};

/// The pause before a command that no server runs now is sent again, and between redirections after the first.
const PAUSE: Duration = Duration::from_millis(20);

/// The server that has the keys of a command. Outside of a cluster it does not change.
pub(crate) struct Routing<'p> {
    places: &'p Places,
    node: Node<'p>,
    /// The cluster, and the slot of the keys; `None` outside of a cluster.
    slot: Option<(&'p Cluster, Slot)>,
    /// When redirections are no longer followed: the command timeout after the first.
    deadline: Option<Instant>,
    /// When it no longer waits until a server runs the command; `None` if the deadline alone bounds that.
    waits_until: Option<Instant>,
}

impl<'p> Routing<'p> {
    /// Begins with the server of `name` in a cluster, and otherwise with `shard`.
    pub(super) fn new(places: &'p Places, shard: &'p Shard, name: &str) -> Self {
        let slot = places.cluster().map(|cluster| (cluster, Slot::of(name)));
        let shard = slot.map_or(shard, |(_, slot)| places.home_of_slot(slot));
        Self { places, node: Node::owner(shard), slot, deadline: None, waits_until: None }
    }

    /// Follows redirections to other servers as before, but waits for a server that runs the command only until
    /// `deadline`. For commands that other work waits for, and for several commands with one deadline.
    pub(crate) fn until(self, deadline: Instant) -> Self {
        Self { waits_until: Some(deadline), ..self }
    }

    /// The server to which the command goes next.
    pub(crate) fn node(&self) -> Node<'p> {
        self.node
    }

    /// Follows the redirection in `fault`, a fault of the present [node](Self::node), after a pause where one is
    /// needed. Returns `false` if there is none, or if redirections have been followed for as long as a command may
    /// take.
    pub(crate) async fn follow(&mut self, fault: &Fault) -> bool {
        let (Some((cluster, slot)), Some(redirect)) = (self.slot, &fault.redirect) else { return false };
        let (now, timeout) = (Instant::now(), self.node.shard.command_timeout());
        let is_first = self.deadline.is_none();
        if now >= *self.deadline.get_or_insert(now + timeout) {
            return false;
        }
        // No command waits while the layer closes.
        let may_wait = !self.node.shard.retries_cancelled.is_cancelled();
        if *redirect == Redirect::Wait && !(may_wait && self.waits_until.is_none_or(|until| now < until)) {
            return false;
        }
        if !is_first || *redirect == Redirect::Wait {
            tokio::time::sleep(PAUSE).await;
        }
        self.node = match redirect {
            Redirect::Ask(_, target) => {
                let address = target.seen_from(&self.node.shard.connected_host());
                // A known replica has become a master of its own.
                if !cluster.knows_master(&address) {
                    refresh(cluster).await;
                }
                Node { shard: self.places.shard(cluster.record_migration(&address)), asking: true }
            }
            Redirect::Moved(..) | Redirect::Unnamed | Redirect::Wait => {
                learn(cluster, self.node.shard, redirect).await;
                Node::owner(self.places.home_of_slot(slot))
            }
        };
        true
    }

    /// Runs a command that does not block, or several in one round trip, and follows redirections.
    pub(crate) async fn run_once<R: Request>(mut self, request: &R) -> Result<R::Answer, Failure> {
        loop {
            let node = self.node();
            match node.run_once(request).await {
                Ok(answer) => return Ok(answer),
                Err(fault) => {
                    if !self.follow(&fault).await {
                        return Err((node.shard.index, fault));
                    }
                }
            }
        }
    }
}

/// Learns from `redirect`, an answer of a node of `shard`, which node serves the slot.
pub(crate) async fn learn(cluster: &Cluster, shard: &Shard, redirect: &Redirect) {
    match redirect {
        Redirect::Moved(slot, target) => {
            let address = target.seen_from(&shard.connected_host());
            if cluster.shard_at(&address).is_none() {
                refresh(cluster).await;
            }
            // A node that has not followed a failover may name a former master that has left the cluster. The
            // refreshed layout has another shard for the slot then.
            if cluster.shard_at(&address).is_some() || cluster.shard_of(*slot) == shard.index {
                cluster.record_move(*slot, &address, shard.index);
            }
        }
        Redirect::Unnamed => refresh(cluster).await,
        Redirect::Ask(..) | Redirect::Wait => {}
    }
}

/// Refreshes the layout because a redirection does not fit it. If that fails, the redirection is followed all the same.
async fn refresh(cluster: &Cluster) {
    if let Err(error) = cluster.refresh().await {
        tracing::debug!(%error, "cannot refresh the layout of the cluster");
    }
}
