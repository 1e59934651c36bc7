//! `BoundServer`: an interface server with listeners.

use std::future::Future;

use crate::error::Result;
use crate::server::interface::running::RunningServer;
use crate::server::interface::server::InterfaceServer;
use crate::server::transport::listener::{Address, Listener};

/// An [`InterfaceServer`] that listens.
#[derive(Debug)]
#[must_use]
pub struct BoundServer {
    server: InterfaceServer,
    address: Address,
    listeners: Vec<Listener>,
}

impl BoundServer {
    pub(crate) fn new(server: InterfaceServer, listener: Listener) -> Self {
        Self { server, address: listener.address().clone(), listeners: vec![listener] }
    }

    /// Adds a listener.
    pub fn and(mut self, listener: Listener) -> Self {
        self.listeners.push(listener);
        self
    }

    /// Returns the address of the first listener.
    pub fn local_addr(&self) -> &Address {
        &self.address
    }

    /// Serves clients until `shutdown` completes, and then shuts down in this order:
    ///
    /// 1. The server reports that it is not ready, and accepts no more connections after the shutdown delay.
    /// 2. It closes the sockets one after the other, each after the messages in its queue.
    /// 3. It finishes the HTTP requests in progress.
    /// 4. It sends the disconnect notices to the application and puts unread replies back.
    ///
    /// After the drain timeout it aborts the sockets and requests that are left, and sends their disconnect notices.
    ///
    /// The layer belongs to the caller and stays open.
    ///
    /// # Cancel safety
    ///
    /// When dropped, the server accepts no more connections, reads no more replies, and aborts its connections and
    /// sockets. The disconnect notices are sent afterwards, as long as the runtime lives.
    ///
    /// # Errors
    ///
    /// - [`Error::InvalidConfig`](crate::Error::InvalidConfig) as [`InterfaceServer::validate`].
    /// - [`Error::Closed`](crate::Error::Closed) if the layer is closed at the start.
    pub async fn serve(self, shutdown: impl Future<Output = ()>) -> Result<()> {
        self.server.validate()?;
        let mut running = RunningServer::start(self.server, self.listeners)?;
        shutdown.await;
        running.shut_down().await;
        Ok(())
    }
}
