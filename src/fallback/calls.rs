//! What becomes of calls that meet an outage.

use std::time::Duration;

use tokio::time::sleep;

use super::journal::{Change, Key};
use super::layer::FallbackLayer;
use crate::drops::{self, DropReason};
use crate::error::{Error, Result};
use crate::layer::{ChannelLayer, Delivery};
use crate::message::Message;

/// How long a remote layer that fails again at once is left alone.
const PAUSE: Duration = Duration::from_millis(250);

impl<L: ChannelLayer> FallbackLayer<L> {
    pub(crate) async fn send_local(&self, channel: &str, message: Message) -> Result<()> {
        self.local.send(channel, message).await?;
        self.guard.modes.count_local(0, 1);
        Ok(())
    }

    pub(crate) async fn group_send_local(&self, group: &str, message: Message) -> Result<()> {
        self.local.group_send(group, message).await?;
        self.guard.modes.count_local(0, 1);
        Ok(())
    }

    /// What a send comes to that the remote layer gave this result for.
    pub(crate) async fn settle_send(&self, result: Result<()>, channel: &str, message: &Message) -> Result<()> {
        match result {
            Err(error) if self.guard.judge(&error) && !error.may_have_run() => {
                self.send_local(channel, message.clone()).await
            }
            result => self.forgive(result),
        }
    }

    /// An outage is no failure of the call. What it was may have taken place.
    pub(crate) fn forgive(&self, result: Result<()>) -> Result<()> {
        match result {
            Err(error) if self.guard.judge(&error) => {
                drops::count(DropReason::Unconfirmed, 1);
                Ok(())
            }
            result => result,
        }
    }

    /// Changes a membership in both layers, or in neither if the remote one refuses.
    pub(crate) async fn change(&self, key: Key, change: Change) -> Result<()> {
        if self.guard.look(&*self.remote) {
            let mut journal = self.guard.journal.lock();
            // Between the return and a change that goes to the remote layer itself none is missed.
            if self.guard.is_local() {
                return self.guard.note(&mut journal, key, change, false);
            }
        }
        let told = match change.make(&*self.remote, &key).await {
            // To make or to end a membership twice is no harm.
            Err(error) if self.guard.judge(&error) => false,
            result => result.map(|()| true)?,
        };
        let noted = self.guard.note(&mut self.guard.journal.lock(), key, change, told);
        // It fails only if the layer closes meanwhile.
        noted.map_err(Error::of_a_part)
    }

    /// Receives from the remote layer, however long its outages last.
    pub(crate) async fn receive_remote(&self, channels: &[&str]) -> Result<Delivery> {
        loop {
            for _ in 0..2 {
                match self.remote.receive(channels).await {
                    // The next call waits until the server is back.
                    Err(error) if self.guard.judge(&error) => {}
                    result => return result,
                }
            }
            sleep(PAUSE).await;
        }
    }

    /// Takes a message that stayed here in an earlier outage than this one: it is older than all that waits elsewhere.
    pub(crate) fn try_receive_older(&self, channels: &[&str]) -> Result<Option<Delivery>> {
        let epoch = self.guard.epoch();
        if epoch % 2 == 1 { self.local.try_receive_older(channels, epoch) } else { Ok(None) }
    }

    pub(crate) async fn try_receive_remote(&self, channels: &[&str]) -> Result<Option<Delivery>> {
        match self.remote.try_receive(channels).await {
            Err(error) if self.guard.judge(&error) => Ok(None),
            result => result,
        }
    }
}
