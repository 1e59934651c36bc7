//! One WebSocket as the application sees it: it connects once, sends frames in order, and disconnects once.

use std::sync::Arc;

use bytestring::ByteString;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::asgi::{self, Data, Peer, code};
use super::connection::Connection;
use super::queue::Queue;
use super::shared::Shared;
use crate::backoff::send_waiting;
use crate::error::{Error, Result};

/// Dropping it takes the connection out of the registry and sends `websocket.disconnect` if the application has heard
/// of it, wherever the connection had come to. That is the only place that does either.
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
    _running: TaskTrackerToken,
}

impl Session {
    pub(crate) fn new(shared: &Arc<Shared>, path: ByteString) -> Self {
        let connection = shared.connections.open();
        Self {
            queue: connection.queue().clone(),
            reply_channel: connection.reply_channel(),
            connection: Some(connection),
            path,
            order: 0,
            code: code::ABNORMAL,
            announced: false,
            _running: shared.tracker.token(),
            shared: shared.clone(),
        }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    /// Sends `websocket.connect`.
    pub(crate) async fn connect(&mut self, request: &axum::http::request::Parts, peer: Peer) -> Result<()> {
        let message = asgi::connect(&self.reply_channel, request, &self.path, peer);
        // Whether a send that is dropped or fails in Redis took place is unknown; then the application hears of the
        // end too, rather than never.
        self.announced = true;
        let sent = self.shared.layer.send("websocket.connect", message).await;
        if let Err(error) = &sent {
            self.announced = matches!(error, Error::Redis { .. });
        }
        sent
    }

    /// Sends a frame as `websocket.receive`, waiting for room on the channel for a while.
    pub(crate) async fn receive(&mut self, data: Data) -> Result<()> {
        self.order += 1;
        let message = asgi::receive(&self.reply_channel, &self.path, self.order, data);
        let patience = self.shared.settings.send_patience;
        send_waiting(&*self.shared.layer, "websocket.receive", message, patience).await
    }

    /// Says with which code the connection ended.
    pub(crate) fn set_code(&mut self, code: u16) {
        self.code = code;
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        drop(self.connection.take());
        if !self.announced {
            return;
        }
        let shared = self.shared.clone();
        let message = asgi::disconnect(&self.reply_channel, &self.path, self.order + 1, self.code);
        let farewell = async move {
            let sent = send_waiting(&*shared.layer, "websocket.disconnect", message, shared.settings.send_patience);
            if let Err(error) = sent.await {
                metrics::counter!("channel_layer_disconnects_lost_total").increment(1);
                tracing::debug!(%error, "the application does not hear of a disconnect");
            }
        };
        self.shared.tracker.spawn_on(farewell, &self.shared.runtime);
    }
}
