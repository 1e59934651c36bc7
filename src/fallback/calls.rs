//! What becomes of calls that meet an outage.

use std::time::Duration;

use tokio::time::sleep;

use super::layer::FallbackLayer;
use super::ledger::{Change, Key};
use crate::drops::{self, DropReason};
use crate::error::Result;
use crate::layer::{ChannelLayer, Delivery};
use crate::message::Message;

/// How long a remote layer that fails again at once is left alone.
const PAUSE: Duration = Duration::from_millis(250);

impl<L: ChannelLayer> FallbackLayer<L> {
    pub(super) async fn send_local(&self, channel: &str, message: Message) -> Result<()> {
        self.local.send(channel, message).await?;
        self.guard.modes.count_local(0, 1);
        Ok(())
    }

    pub(super) async fn group_send_local(&self, group: &str, message: Message) -> Result<()> {
        self.local.group_send(group, message).await?;
        self.guard.modes.count_local(0, 1);
        Ok(())
    }

    /// What a send comes to that the remote layer gave this result for.
    pub(super) async fn settle_send(&self, result: Result<()>, channel: &str, message: &Message) -> Result<()> {
        match result {
            Err(error) if self.guard.judge(&error) && !error.may_have_run() => {
                self.send_local(channel, message.clone()).await
            }
            result => self.forgive(result),
        }
    }

    /// An outage is no failure of the call. What it was may have taken place.
    pub(super) fn forgive(&self, result: Result<()>) -> Result<()> {
        match result {
            Err(error) if self.guard.judge(&error) => {
                drops::count(DropReason::Unconfirmed, 1);
                Ok(())
            }
            result => result,
        }
    }

    /// Changes a membership that has been changed here already.
    pub(super) async fn change(&self, key: Key, change: Change) -> Result<()> {
        if self.guard.look(&*self.remote) {
            let mut ledger = self.guard.ledger.lock();
            if self.guard.is_local() {
                ledger.note(key, change, false);
                return Ok(());
            }
        }
        let (group, channel) = (key.0.as_str(), key.1.as_str());
        let done = match change {
            Change::Added => self.remote.group_add(group, channel).await,
            Change::Discarded => self.remote.group_discard(group, channel).await,
        };
        let told = match done {
            // To make or to end a membership twice is no harm.
            Err(error) if self.guard.judge(&error) => false,
            Err(error) => return Err(error),
            Ok(()) => true,
        };
        self.guard.ledger.lock().note(key, change, told);
        Ok(())
    }

    /// Receives from the remote layer, however long its outages last.
    pub(super) async fn receive_remote(&self, channels: &[&str]) -> Result<Delivery> {
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

    pub(super) async fn try_receive_remote(&self, channels: &[&str]) -> Result<Option<Delivery>> {
        match self.remote.try_receive(channels).await {
            Err(error) if self.guard.judge(&error) => Ok(None),
            result => result,
        }
    }
}
