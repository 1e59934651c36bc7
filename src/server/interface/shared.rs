//! What all connections of one interface server have in common.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use axum::http::HeaderMap;
use bytestring::ByteString;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::layer::{ChannelLayer, send_while_full};
use crate::message::Message;
use crate::server::asgi::connections::Connections;
use crate::server::asgi::messages::trace_of;
use crate::server::http::{Exchanges, HttpSettings};
use crate::server::interface::settings::Settings;
use crate::server::limits::Gate;
use crate::server::limits::origin::Origins;
use crate::server::status::page::Page;
use crate::server::status::{Tally, Watch};
use crate::server::transport::connection::Transport;
use crate::server::transport::proxy::TrustedProxies;
use crate::trace::{self, TraceParent};

pub(crate) struct Shared {
    pub(crate) layer: Arc<dyn ChannelLayer>,
    pub(crate) settings: Settings,
    pub(crate) http: HttpSettings,
    pub(crate) transport: Transport,
    /// For connections that are no open sockets.
    pub(crate) gate: Arc<Gate>,
    pub(crate) origins: Origins,
    pub(crate) proxies: TrustedProxies,
    pub(crate) root_path: ByteString,
    /// Whether messages of clients carry a place in a trace.
    pub(crate) trace: bool,
    pub(crate) connections: Arc<Connections>,
    pub(crate) exchanges: Arc<Exchanges>,
    pub(crate) tally: Arc<Tally>,
    /// For the status page, if there is one.
    pub(crate) watch: Option<Watch>,
    /// By path.
    pub(crate) pages: HashMap<String, Page>,
    /// Counts what is under way and the last messages about it, for the drain to wait for.
    pub(crate) tracker: TaskTracker,
    /// A connection may end where no runtime is entered.
    pub(crate) runtime: Handle,
    /// Cancelled when the server is told to shut down; it may take connections a while longer.
    pub(crate) leaving: CancellationToken,
    /// Cancelled when the server takes no more connections.
    pub(crate) stopping: CancellationToken,
}

impl Shared {
    /// A message of a client as a step of its request's trace, or of a new one, if the server is to trace.
    pub(crate) fn traced(&self, channel: &str, message: Message, request: Option<&HeaderMap>) -> Message {
        if !self.trace {
            return message;
        }
        let place = request.and_then(trace_of).map_or_else(TraceParent::root, TraceParent::child);
        place.tell("sent to the application", channel);
        message.with(trace::KEY, place.to_string())
    }

    /// Tells the application that something has ended, if there is room on the channel in time.
    pub(crate) async fn farewell(&self, channel: &str, message: Message) {
        if let Err(error) = send_while_full(&*self.layer, channel, message, self.settings.send_patience).await {
            metrics::counter!("channel_layer_disconnects_lost_total").increment(1);
            tracing::debug!(channel, %error, "the application does not hear of an end");
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("settings", &self.settings).finish_non_exhaustive()
    }
}
