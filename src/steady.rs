//! Receiving through outages: those who read for as long as they live have nothing else to do than to try again.

use std::error::Error as StdError;

use tokio::time::sleep;

use crate::backoff::Backoff;
use crate::error::{Error, Result};
use crate::layer::{Delivery, Receiver};

/// A [`Receiver`] that waits while the servers of the layer are away. An outage is logged once, and so is its end.
#[derive(Debug)]
pub(crate) struct SteadyReceiver {
    receiver: Receiver,
    /// What is read, for the log.
    what: &'static str,
    backoff: Backoff,
    failing: bool,
}

impl SteadyReceiver {
    pub(crate) fn new(receiver: Receiver, what: &'static str) -> Self {
        Self { receiver, what, backoff: Backoff::outage(), failing: false }
    }

    /// Waits for a message.
    ///
    /// # Cancel safety
    ///
    /// As [`Receiver::recv`].
    ///
    /// # Errors
    ///
    /// [`Error::Closed`] alone.
    pub(crate) async fn recv(&mut self) -> Result<Delivery> {
        loop {
            match self.receiver.recv().await {
                Ok(delivery) => {
                    self.works();
                    return Ok(delivery);
                }
                Err(error) => self.fails(error).await?,
            }
        }
    }

    /// Waits for messages and moves up to `limit` of those that are there to the end of `deliveries`.
    ///
    /// # Cancel safety
    ///
    /// As [`Receiver::recv_many`].
    ///
    /// # Errors
    ///
    /// [`Error::Closed`] alone.
    pub(crate) async fn recv_many(&mut self, deliveries: &mut Vec<Delivery>, limit: usize) -> Result<()> {
        loop {
            match self.receiver.recv_many(deliveries, limit).await {
                Ok(_) => {
                    self.works();
                    return Ok(());
                }
                Err(error) => self.fails(error).await?,
            }
        }
    }

    /// Puts back what was taken and not handed over.
    ///
    /// # Cancel safety
    ///
    /// As [`Receiver::close`].
    pub(crate) async fn close(self) {
        if let Err(error) = self.receiver.close().await {
            tracing::warn!(error = &error as &dyn StdError, "unread {} could not be put back", self.what);
        }
    }

    fn works(&mut self) {
        if std::mem::take(&mut self.failing) {
            tracing::info!("{} arrive again", self.what);
            self.backoff = Backoff::outage();
        }
    }

    async fn fails(&mut self, error: Error) -> Result<()> {
        if let Error::Closed = error {
            return Err(error);
        }
        if !std::mem::replace(&mut self.failing, true) {
            tracing::warn!(error = &error as &dyn StdError, "{} do not arrive, trying again", self.what);
        }
        sleep(self.backoff.pause()).await;
        Ok(())
    }
}
