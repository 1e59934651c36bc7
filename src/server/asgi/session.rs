//! One WebSocket as the application sees it: it connects once, sends frames in order, and disconnects once.

use std::sync::Arc;
use std::time::Duration;

use bytestring::ByteString;
use tokio::time::{Instant, timeout};
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::drops;
use crate::error::{Error, Result};
use crate::layer::send_while_full;
use crate::server::asgi::application::Application;
use crate::server::asgi::connections::{Connection, Connections};
use crate::server::asgi::messages as asgi;
use crate::server::counters::{ClientDropReason, Count, Counters};
use crate::server::limits::Refused;
use crate::server::limits::origin::Origins;
use crate::server::options::SocketOptions;
use crate::server::transport::listener::Peer;
use crate::server::transport::shutdown::Shutdown;
use crate::server::websocket::close_code;
use crate::server::websocket::frame::Data;
use crate::server::websocket::protocol::{Closing, MessageHandler};
use crate::server::websocket::queue::Queue;
use crate::server::websocket::reply::{HandshakeAction, Reply};

/// State that all sockets of one server share.
pub(crate) struct SocketContext {
    pub(crate) application: Arc<Application>,
    pub(crate) connections: Arc<Connections>,
    pub(crate) origins: Origins,
    pub(crate) options: SocketOptions,
    /// How long a handshake waits for the application.
    pub(crate) accept_timeout: Duration,
    pub(crate) counters: Arc<Counters>,
    pub(crate) shutdown: Shutdown,
}

/// One WebSocket of an application, from its handshake to its end. Its drop releases the connection permit at once.
/// When the handshake is decided, it removes the connection from the registry, and sends `websocket.disconnect` if the
/// application may have seen the `websocket.connect`. No other code does any of this.
pub(crate) struct Session {
    context: Arc<SocketContext>,
    /// `None` once dropping has begun.
    connection: Option<Connection>,
    queue: Arc<Queue>,
    reply_channel: String,
    path: ByteString,
    /// The order of the last message to the application.
    order: i64,
    /// The close code for the application.
    code: u16,
    /// Whether the application may have seen the `websocket.connect`.
    announced: bool,
    /// Whether the handshake is decided: by the application, a timeout or a shutdown.
    decided: bool,
    /// The reply that accepted the handshake, until the socket is open.
    first: Option<Reply>,
    started: Instant,
    _token: TaskTrackerToken,
}

impl Session {
    /// Creates the session of a client if the limits admit it.
    pub(crate) fn new(context: &Arc<SocketContext>, path: ByteString, peer: Peer) -> Result<Self, Refused> {
        let connection = context.connections.open(peer.client.map(|client| client.ip()))?;
        Ok(Self {
            queue: connection.queue().clone(),
            reply_channel: connection.reply_channel(),
            connection: Some(connection),
            path,
            order: 0,
            code: close_code::ABNORMAL,
            announced: false,
            decided: false,
            first: None,
            started: Instant::now(),
            _token: context.application.token(),
            context: context.clone(),
        })
    }

    pub(crate) fn context(&self) -> &Arc<SocketContext> {
        &self.context
    }

    pub(crate) fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    /// Returns the start of the handshake. No group membership of this connection is older.
    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    /// Sends `websocket.connect`.
    pub(crate) async fn connect(&mut self, request: &axum::http::request::Parts, peer: Peer) -> Result<()> {
        let message =
            asgi::connect(&self.reply_channel, request, &self.path, &self.context.application.root_path, peer);
        // If the send is dropped or its server is lost, the message may or may not have arrived. The application then
        // gets the disconnect in any case.
        self.announced = true;
        let message = self.context.application.traced("websocket.connect", message, Some(&request.headers));
        let sent = self.context.application.layer.send("websocket.connect", message).await;
        if let Err(error) = &sent {
            self.announced = error.may_have_run();
        }
        sent
    }

    /// Waits for the decision of the application about the handshake.
    pub(crate) async fn decision(&mut self) -> Decision {
        let decision = decision(&self.queue, self.context.accept_timeout).await;
        self.decided = true;
        decision
    }

    /// Keeps the reply that accepted the handshake. It counts as dropped if the client disconnects before its socket is
    /// open.
    pub(crate) fn keep_first(&mut self, reply: Reply) {
        self.first = Some(reply);
    }

    /// Takes the reply that accepted the handshake.
    pub(crate) fn take_first(&mut self) -> Reply {
        self.first.take().unwrap_or_default()
    }

    /// Sets the close code that the application gets.
    pub(crate) fn set_code(&mut self, code: u16) {
        self.code = code;
    }
}

impl MessageHandler for Session {
    /// Sends a frame as `websocket.receive`. Waits for room on the channel up to the send timeout.
    async fn receive(&mut self, data: Data) -> Result<(), Closing> {
        self.order += 1;
        self.context.counters.add(Count::FramesIn, 1);
        let message = asgi::receive(&self.reply_channel, &self.path, self.order, data);
        let application = &self.context.application;
        let message = application.traced("websocket.receive", message, None);
        let sent = send_while_full(&*application.layer, "websocket.receive", message, application.send_timeout).await;
        sent.map_err(|error| {
            tracing::debug!(%error, "cannot pass a frame to the application");
            refusal(&error)
        })
    }
}

/// Returns the close code for a frame that could not be passed on.
fn refusal(error: &Error) -> Closing {
    let (code, reason) = match error {
        Error::MessageTooLarge { .. } => (close_code::TOO_LARGE, "too large"),
        Error::ChannelFull { .. } | Error::Redis { .. } => (close_code::TRY_AGAIN_LATER, "overloaded"),
        Error::Closed | Error::RuntimeEnded => (close_code::GOING_AWAY, "going away"),
        _ => (close_code::INTERNAL_ERROR, "internal error"),
    };
    Closing { code, reason }
}

/// The decision about a handshake.
#[derive(Debug)]
pub(crate) enum Decision {
    /// Open the socket, and then handle the reply.
    Accepted(Reply),
    Refused,
    /// The application did not answer in time.
    TimedOut,
    /// The server shuts down before the application has answered.
    Closing,
}

async fn decision(queue: &Queue, time: Duration) -> Decision {
    let decided = async {
        loop {
            match queue.take_one().await.map(Reply::handshake_action) {
                Ok(HandshakeAction::Accept(first)) => return Decision::Accepted(first),
                Ok(HandshakeAction::Refuse) => return Decision::Refused,
                Ok(HandshakeAction::Wait) => {}
                Err(_closing) => return Decision::Closing,
            }
        }
    };
    timeout(time, decided).await.unwrap_or(Decision::TimedOut)
}

impl Drop for Session {
    fn drop(&mut self) {
        drops::count(ClientDropReason::ClientGone, usize::from(self.first.is_some()));
        let mut connection = self.connection.take();
        if let Some(connection) = &mut connection {
            // The limits no longer count the client, however long the notice takes.
            connection.release();
        }
        if !self.announced {
            return;
        }
        let undecided = !self.decided;
        let context = self.context.clone();
        let message = asgi::disconnect(&self.reply_channel, &self.path, self.order + 1, self.code);
        let notice = async move {
            if undecided && let Some(connection) = &connection {
                // The client disconnected while a worker was handling the connect. With a disconnect now, another
                // worker could remove the connection from groups before the first worker has added it, and it would
                // stay a member.
                if let Decision::Accepted(_) = decision(connection.queue(), context.accept_timeout).await {
                    drops::count(ClientDropReason::ClientGone, 1);
                }
            }
            drop(connection);
            context.application.send_disconnect("websocket.disconnect", message).await;
        };
        self.context.application.spawn(notice);
    }
}
