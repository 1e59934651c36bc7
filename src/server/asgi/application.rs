//! `Application`: sends messages to the application behind the server, and tracks the tasks that still have to send
//! one.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderMap;
use bytestring::ByteString;
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::layer::{ChannelLayer, send_while_full};
use crate::message::Message;
use crate::server::transport::http::request::trace_parent;
use crate::supervise::update_metric;
use crate::trace::{self, TraceParent};

/// The application of one interface server, shared by all its sockets and requests.
pub(crate) struct Application {
    pub(crate) layer: Arc<dyn ChannelLayer>,
    pub(crate) root_path: ByteString,
    /// How long a frame or a disconnect notice waits for room on its channel.
    pub(crate) send_timeout: Duration,
    /// Whether messages of clients carry a trace context.
    trace: bool,
    /// Tracks the sockets and requests in progress and their disconnect notices. The drain waits for them.
    tracker: TaskTracker,
    /// Spawns disconnect notices, because a connection may be dropped outside of a runtime.
    runtime: Handle,
}

impl Application {
    /// Creates the application on the current runtime.
    pub(crate) fn new(
        layer: Arc<dyn ChannelLayer>,
        root_path: ByteString,
        send_timeout: Duration,
        trace: bool,
    ) -> Arc<Self> {
        let (tracker, runtime) = (TaskTracker::new(), Handle::current());
        Arc::new(Self { layer, root_path, send_timeout, trace, tracker, runtime })
    }

    /// Adds a trace context to a message of a client if tracing is enabled: a child of the request's context, or a new
    /// trace.
    pub(crate) fn traced(&self, channel: &str, message: Message, request: Option<&HeaderMap>) -> Message {
        if !self.trace {
            return message;
        }
        let span = request.and_then(trace_parent).map_or_else(TraceParent::root, TraceParent::child);
        span.record("sent to the application", channel);
        message.with(trace::KEY, span.to_string())
    }

    /// Sends a disconnect notice; drops it if the channel stays full for the send timeout.
    pub(crate) async fn send_disconnect(&self, channel: &str, message: Message) {
        if let Err(error) = send_while_full(&*self.layer, channel, message, self.send_timeout).await {
            update_metric(|| metrics::counter!("channel_layer_disconnects_lost_total").increment(1));
            tracing::debug!(channel, %error, "disconnect notice dropped");
        }
    }

    /// Returns a token that the drain waits for until it is dropped.
    pub(crate) fn token(&self) -> TaskTrackerToken {
        self.tracker.token()
    }

    /// Spawns a task that the drain waits for. Works outside of a runtime, as in a `Drop` implementation.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tracker.spawn_on(task, &self.runtime);
    }

    /// Waits until no socket, request or disconnect notice is in progress.
    pub(crate) async fn finished(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }
}
