//! `Handler`: the application's side of a client.

use std::future::Future;
use std::sync::Arc;

use super::{Client, Payload};
use crate::error::BoxError;
use crate::server::hub::status::spans::Spans;
use crate::server::websocket::close_code as code;
use crate::server::websocket::frame::Data;
use crate::server::websocket::protocol::{Closing, MessageHandler};

/// Handles one client, from its connect to its disconnect. Each client has its own handler, which may hold state.
///
/// While a method runs the next message waits; messages to the client and pings continue. An error closes the client
/// with 1011.
///
/// # Cancel safety
///
/// When the connection ends, a running method may continue for the close timeout of the options. Then it is dropped.
pub trait Handler: Send + 'static {
    /// Called when the socket is open.
    fn connect(&mut self, client: &Client) -> impl Future<Output = Result<(), BoxError>> + Send {
        let _ = client;
        async { Ok(()) }
    }

    /// Called for each message of the client, one at a time, in order.
    fn message(&mut self, client: &Client, message: Payload) -> impl Future<Output = Result<(), BoxError>> + Send;

    /// Called once after the connection has ended and the client has left all rooms, unless a method panicked.
    fn disconnect(&mut self, client: &Client, closed: Closed) -> impl Future<Output = ()> + Send {
        let _ = (client, closed);
        async {}
    }
}

/// How a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Closed {
    /// The code of the close frame: the client's if it closed the connection, otherwise that of this side. 1005 if the
    /// client gave none, 1006 if there was no close frame.
    pub code: u16,
    /// The reason of the close frame.
    pub reason: String,
    /// The rooms that the client was in.
    pub rooms: Vec<Arc<str>>,
    /// The user that it belonged to.
    pub user: Option<Arc<str>>,
}

/// Passes the messages of a client to its handler.
pub(crate) struct HandlerInbox<H> {
    pub(crate) handler: H,
    pub(crate) client: Client,
    pub(crate) spans: Spans,
}

impl<H: Handler> HandlerInbox<H> {
    pub(crate) async fn ended(mut self, closed: Closed) {
        let disconnect = self.handler.disconnect(&self.client, closed);
        self.spans.run(self.client.id(), disconnect).await;
    }
}

impl<H: Handler> MessageHandler for HandlerInbox<H> {
    async fn opened(&mut self) -> Result<(), Closing> {
        self.spans.run(self.client.id(), self.handler.connect(&self.client)).await.map_err(failed)
    }

    async fn receive(&mut self, data: Data) -> Result<(), Closing> {
        let message = self.handler.message(&self.client, data.into());
        self.spans.run(self.client.id(), message).await.map_err(failed)
    }
}

fn failed(error: BoxError) -> Closing {
    tracing::warn!(error = &*error as &dyn std::error::Error, "a handler failed; its client is closed");
    Closing { code: code::INTERNAL_ERROR, reason: "internal error" }
}
