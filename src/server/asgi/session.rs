//! One WebSocket as the application sees it: it connects once, sends frames in order, and disconnects once.

use std::sync::Arc;
use std::time::Duration;

use bytestring::ByteString;
use tokio::time::{Instant, timeout};
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::drops;
use crate::error::{Error, Result};
use crate::layer::send_while_full;
use crate::server::asgi::connections::Connection;
use crate::server::asgi::lost::Lost;
use crate::server::asgi::messages as asgi;
use crate::server::asgi::messages::{Opening, Peer, Reply, code};
use crate::server::interface::shared::Shared;
use crate::server::limits::Refused;
use crate::server::status::Count;
use crate::server::websocket::frame::Data;
use crate::server::websocket::protocol::{Closing, Inbox};
use crate::server::websocket::queue::Queue;

/// Dropping it gives back what the connection takes of the limits, takes it out of the registry, and sends
/// `websocket.disconnect` if the application has heard of it, wherever the connection had come to. The last two wait until
/// the application has decided about the handshake. No other place does any of these.
#[derive(Debug)]
pub(crate) struct Session {
    shared: Arc<Shared>,
    /// Taken out in the drop, before the application hears of the end.
    connection: Option<Connection>,
    queue: Arc<Queue>,
    reply_channel: String,
    path: ByteString,
    order: i64,
    code: u16,
    announced: bool,
    decided: bool,
    begun: Instant,
    _running: TaskTrackerToken,
}

impl Session {
    /// A session of a client that the limits let in.
    pub(crate) fn new(shared: &Arc<Shared>, path: ByteString, peer: Peer) -> Result<Self, Refused> {
        let connection = shared.connections.open(peer.client.map(|client| client.ip()))?;
        Ok(Self {
            queue: connection.queue().clone(),
            reply_channel: connection.reply_channel(),
            connection: Some(connection),
            path,
            order: 0,
            code: code::ABNORMAL,
            announced: false,
            decided: false,
            begun: Instant::now(),
            _running: shared.tracker.token(),
            shared: shared.clone(),
        })
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    /// When the handshake began. No membership of this connection is older.
    pub(crate) fn begun(&self) -> Instant {
        self.begun
    }

    /// Sends `websocket.connect`.
    pub(crate) async fn connect(&mut self, request: &axum::http::request::Parts, peer: Peer) -> Result<()> {
        let message = asgi::connect(&self.reply_channel, request, &self.path, &self.shared.root_path, peer);
        // Whether a send took place that is dropped, or whose server is lost, is unknown; then the application hears of the
        // end too, rather than never.
        self.announced = true;
        let message = self.shared.traced("websocket.connect", message, Some(&request.headers));
        let sent = self.shared.layer.send("websocket.connect", message).await;
        if let Err(error) = &sent {
            self.announced = error.may_have_run();
        }
        sent
    }

    /// Waits for what the application makes of the handshake.
    pub(crate) async fn decision(&mut self) -> Decision {
        let decision = decision(&self.queue, self.shared.settings.accept_timeout).await;
        self.decided = true;
        decision
    }

    /// Says with which code the connection ended.
    pub(crate) fn set_code(&mut self, code: u16) {
        self.code = code;
    }
}

impl Inbox for Session {
    /// Sends a frame as `websocket.receive`, waiting for room on the channel for a while.
    async fn receive(&mut self, data: Data) -> Result<(), Closing> {
        self.order += 1;
        self.shared.tally.add(Count::FramesIn, 1);
        let message = asgi::receive(&self.reply_channel, &self.path, self.order, data);
        let message = self.shared.traced("websocket.receive", message, None);
        let patience = self.shared.settings.send_patience;
        let sent = send_while_full(&*self.shared.layer, "websocket.receive", message, patience).await;
        sent.map_err(|error| {
            tracing::debug!(%error, "a frame cannot be passed on");
            refusal(&error)
        })
    }
}

/// What a socket is closed with when a frame could not be passed on.
fn refusal(error: &Error) -> Closing {
    let (code, reason) = match error {
        Error::MessageTooLarge { .. } => (code::TOO_LARGE, "too large"),
        Error::ChannelFull { .. } | Error::Redis { .. } => (code::TRY_AGAIN_LATER, "overloaded"),
        Error::Closed | Error::RuntimeEnded => (code::GOING_AWAY, "going away"),
        _ => (code::INTERNAL_ERROR, "internal error"),
    };
    Closing { code, reason }
}

/// What the application makes of a handshake.
#[derive(Debug)]
pub(crate) enum Decision {
    /// It opens the socket, and then does as the reply says.
    Accepted(Reply),
    Refused,
    /// It says nothing in time.
    Silent,
    /// The server closes the connection before that.
    Closing,
}

async fn decision(queue: &Queue, patience: Duration) -> Decision {
    let decided = async {
        loop {
            match queue.take_one().await.map(Reply::opening) {
                Ok(Opening::Accept(first)) => return Decision::Accepted(first),
                Ok(Opening::Refuse) => return Decision::Refused,
                Ok(Opening::Wait) => {}
                Err(_closing) => return Decision::Closing,
            }
        }
    };
    timeout(patience, decided).await.unwrap_or(Decision::Silent)
}

impl Drop for Session {
    fn drop(&mut self) {
        let mut connection = self.connection.take();
        if let Some(connection) = &mut connection {
            // The client has gone, however long it takes to tell the application.
            connection.release();
        }
        if !self.announced {
            return;
        }
        let undecided = !self.decided;
        let shared = self.shared.clone();
        let message = asgi::disconnect(&self.reply_channel, &self.path, self.order + 1, self.code);
        let farewell = async move {
            if undecided && let Some(connection) = &connection {
                // The client left while the application was at its connect. Told of it now, another worker could take
                // it out of groups that the first one has yet to put it into, and it would stay there.
                if let Decision::Accepted(_) = decision(connection.queue(), shared.settings.accept_timeout).await {
                    drops::count(Lost::ClientGone, 1);
                }
            }
            drop(connection);
            shared.farewell("websocket.disconnect", message).await;
        };
        self.shared.tracker.spawn_on(farewell, &self.shared.runtime);
    }
}
