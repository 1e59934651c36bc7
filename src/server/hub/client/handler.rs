//! `Handler`: the application's side of a client.

use std::future::Future;
use std::sync::Arc;

use crate::error::BoxError;
use crate::server::hub::{Client, Payload};

/// Handles one client, from its connect to its disconnect. Each client has its own handler, which may hold state.
///
/// While a method runs, the next message of the client waits; messages to the client and pings continue. If a method
/// fails, the client is closed with 1011.
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

    /// Called once after the connection has ended and the client has left all rooms, unless a method has panicked.
    fn disconnect(&mut self, client: &Client, closed: Closed) -> impl Future<Output = ()> + Send {
        let _ = (client, closed);
        async {}
    }
}

/// How a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Closed {
    /// The code of the close frame: the client's code if the client closed the connection, otherwise the code of this
    /// side. 1005 if the client's close frame had no code, 1006 if there was no close frame.
    pub code: u16,
    /// The reason of the close frame.
    pub reason: String,
    /// The rooms that the client was in.
    pub rooms: Vec<Arc<str>>,
    /// The user that the client belonged to.
    pub user: Option<Arc<str>>,
}
