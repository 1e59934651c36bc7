//! Receiving many messages at once, as those do who hand them to clients.

use crate::error::Result;
use crate::layer::Delivery;
use crate::steady::SteadyReceiver;

/// How many messages are taken at once.
pub(crate) const BATCH: usize = 256;

impl SteadyReceiver {
    /// Waits for messages and moves those that are there to the end of `deliveries`.
    ///
    /// # Cancel safety
    ///
    /// As [`Receiver::recv_many`](crate::Receiver::recv_many).
    ///
    /// # Errors
    ///
    /// [`Error::Closed`](crate::Error::Closed) alone.
    pub(crate) async fn recv_many(&mut self, deliveries: &mut Vec<Delivery>) -> Result<()> {
        loop {
            match self.receiver.recv_many(deliveries, BATCH).await {
                Ok(_) => {
                    self.works();
                    return Ok(());
                }
                Err(error) => self.fails(error).await?,
            }
        }
    }
}
