//! `Inner`: the state of a hub in this process, shared by its handles, clients and tasks.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::names::Names;
use crate::layer::ChannelLayer;
use crate::server::asgi::connections::Connections;
use crate::server::hub::membership::index::Index;
use crate::server::hub::membership::reconciler::MembershipReconciler;
use crate::server::hub::peers::discovery::PeerDiscovery;
use crate::server::limits::origin::Origins;
use crate::server::options::SocketOptions;
use crate::supervise::{metric_value, update_metric};

/// The state of a hub in this process.
pub(crate) struct Inner {
    pub(crate) settings: Settings,
    pub(crate) layer: Arc<dyn ChannelLayer>,
    pub(crate) names: Arc<Names>,
    pub(crate) connections: Arc<Connections>,
    pub(crate) rooms: Rooms,
    pub(crate) peers: Arc<PeerDiscovery>,
    pub(crate) tasks: Tasks,
}

/// The settings of a hub.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) name: String,
    pub(crate) sockets: SocketOptions,
    pub(crate) origins: Origins,
    pub(crate) rooms_per_client: usize,
    /// Whether the methods of handlers run in trace spans.
    pub(crate) trace: bool,
    /// The close code for clients when the hub is closed.
    pub(crate) close_code: u16,
}

/// The rooms and users of this process, and its memberships in their groups.
pub(crate) struct Rooms {
    pub(crate) index: Arc<Index>,
    pub(crate) reconciler: Arc<MembershipReconciler>,
}

/// The tasks of a hub, for its close.
pub(crate) struct Tasks {
    /// One per socket.
    pub(crate) sockets: TaskTracker,
    pub(crate) background: TaskTracker,
    /// Ends the background tasks.
    pub(crate) stop: CancellationToken,
}

impl Inner {
    /// Handles the announcement of another process. Answers in a separate task, because the layer may be slow.
    pub(crate) fn on_hello(&self, channel: String) {
        if self.peers.on_hello(&channel) {
            let peers = self.peers.clone();
            self.tasks.background.spawn(async move { peers.answer(&channel).await });
        }
    }

    /// Delivers a message to clients of this process. Returns their number.
    pub(crate) fn fan_out(&self, send: impl FnOnce(&Self) -> usize) -> usize {
        let reached = send(self);
        if reached > 0 {
            update_metric(|| metrics::histogram!("channel_layer_fan_out").record(metric_value(reached)));
        }
        reached
    }
}
