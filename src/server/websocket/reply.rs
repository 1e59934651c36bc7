//! `Reply`: a message of the application to a socket.

use std::sync::Arc;

use crate::server::websocket::frame::Frame;
use crate::trace::{self, TraceParent};

/// A message that the application sent to a reply channel.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Reply {
    pub(crate) data: Option<Frame>,
    pub(crate) close: Option<u16>,
    pub(crate) accept: Option<bool>,
    /// Trace context, if spans are logged.
    pub(crate) trace: Option<Arc<TraceParent>>,
}

/// Meaning of a reply while the handshake is open.
#[derive(Debug, PartialEq)]
pub(crate) enum HandshakeAction {
    /// Open the socket, and then handle the reply.
    Accept(Reply),
    /// Answer 403.
    Refuse,
    /// Wait for the next reply.
    Wait,
}

impl Reply {
    /// Creates a reply with data only, in the given trace.
    pub(crate) fn of(frame: Frame, trace: Option<TraceParent>) -> Self {
        let trace = trace.filter(|_| trace::is_enabled()).map(Arc::new);
        Self { data: Some(frame), trace, ..Self::default() }
    }

    /// Returns the size of the data on the wire, in bytes.
    pub(crate) fn size(&self) -> usize {
        self.data.as_ref().map_or(0, Frame::size)
    }

    /// Applies the rules of the specification for a socket whose handshake is not answered yet.
    pub(crate) fn handshake_action(mut self) -> HandshakeAction {
        if self.accept == Some(false) {
            return HandshakeAction::Refuse;
        }
        self.data = self.data.filter(|data| !data.payload().is_empty());
        match (self.accept, &self.data, self.close) {
            (Some(true), ..) | (_, Some(_), _) => HandshakeAction::Accept(self),
            (_, None, Some(_)) => HandshakeAction::Refuse,
            _ => HandshakeAction::Wait,
        }
    }
}
