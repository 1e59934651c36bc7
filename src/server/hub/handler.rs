//! What an application does with its clients.

use std::future::Future;
use std::sync::Arc;

use super::{Client, Payload};
use crate::error::BoxError;
use crate::server::asgi::messages::code;
use crate::server::hub::status::spans::Steps;
use crate::server::websocket::frame::Data;
use crate::server::websocket::protocol::{Closing, Inbox};

/// Handles one client, from its connect to its disconnect. Each client has a handler of its own, which may keep what it
/// knows of it.
///
/// While a method runs the next message waits; what is sent to the client, and pings, go on. An error closes the client
/// with 1011.
///
/// # Cancel safety
///
/// When the connection ends, a method that runs may go on for the close timeout of the options and is dropped then.
pub trait Handler: Send + 'static {
    /// The socket is open.
    fn connect(&mut self, client: &Client) -> impl Future<Output = Result<(), BoxError>> + Send {
        let _ = client;
        async { Ok(()) }
    }

    /// A message came. They come one by one, in order.
    fn message(&mut self, client: &Client, message: Payload) -> impl Future<Output = Result<(), BoxError>> + Send;

    /// The connection has ended, and the client is in no room any more. Called once for each client, unless a method
    /// panicked.
    fn disconnect(&mut self, client: &Client, closed: Closed) -> impl Future<Output = ()> + Send {
        let _ = (client, closed);
        async {}
    }
}

/// How a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Closed {
    /// The code of the close frame: the client's if it closed, otherwise this side's. 1005 if the client gave none,
    /// 1006 if there was no close frame.
    pub code: u16,
    /// The reason beside it.
    pub reason: String,
    /// The rooms that the client was in.
    pub rooms: Vec<Arc<str>>,
    /// The user that it belonged to.
    pub user: Option<Arc<str>>,
}

/// Passes what a client sends to its handler.
pub(crate) struct Handling<H> {
    pub(crate) handler: H,
    pub(crate) client: Client,
    pub(crate) steps: Steps,
}

impl<H: Handler> Handling<H> {
    pub(crate) async fn ended(mut self, closed: Closed) {
        let disconnect = self.handler.disconnect(&self.client, closed);
        self.steps.run(self.client.id(), disconnect).await;
    }
}

impl<H: Handler> Inbox for Handling<H> {
    async fn opened(&mut self) -> Result<(), Closing> {
        self.steps.run(self.client.id(), self.handler.connect(&self.client)).await.map_err(failed)
    }

    async fn receive(&mut self, data: Data) -> Result<(), Closing> {
        let message = self.handler.message(&self.client, data.into());
        self.steps.run(self.client.id(), message).await.map_err(failed)
    }
}

fn failed(error: BoxError) -> Closing {
    tracing::warn!(error = &*error as &dyn std::error::Error, "a handler failed, and its client is closed");
    Closing { code: code::INTERNAL_ERROR, reason: "internal error" }
}
