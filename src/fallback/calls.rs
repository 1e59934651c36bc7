//! How `FallbackLayer` handles calls that fail because of an outage.

use std::time::Duration;

use tokio::time::sleep;

use super::journal::{Change, Key};
use super::layer::FallbackLayer;
use crate::drops::{self, DropReason};
use crate::error::{Error, Result};
use crate::layer::{ChannelLayer, Delivery};
use crate::message::Message;

/// Pause after the remote layer has failed twice in a row.
const PAUSE: Duration = Duration::from_millis(250);

impl<L: ChannelLayer + ?Sized> FallbackLayer<L> {
    pub(crate) async fn send_local(&self, channel: &str, message: Message) -> Result<()> {
        self.local.send(channel, message).await?;
        self.state.modes.count_local(0, 1);
        Ok(())
    }

    pub(crate) async fn group_send_local(&self, group: &str, message: Message) -> Result<()> {
        self.local.group_send(group, message).await?;
        self.state.modes.count_local(0, 1);
        Ok(())
    }

    pub(crate) async fn requeue_local(&self, messages: &[(&str, Message)]) -> Vec<Result<()>> {
        let results = self.local.requeue(messages).await;
        self.state.modes.count_local(0, results.iter().filter(|result| result.is_ok()).count());
        results
    }

    /// Returns the result of a send. A message that the remote layer [did not take](Self::accepted) goes to the local
    /// layer.
    pub(crate) async fn finish_send(&self, result: Result<()>, channel: &str, message: &Message) -> Result<()> {
        match self.accepted(result) {
            Some(result) => result,
            None => self.send_local(channel, message.clone()).await,
        }
    }

    /// Returns the results of `requeue`. Messages that the remote layer [did not take](Self::accepted) go to the local
    /// layer, whatever the capacities of their channels.
    pub(crate) async fn finish_requeue(
        &self,
        results: Vec<Result<()>>,
        messages: &[(&str, Message)],
    ) -> Vec<Result<()>> {
        let results: Vec<_> = results.into_iter().map(|result| self.accepted(result)).collect();
        let pairs = results.iter().zip(messages);
        let left: Vec<_> = pairs.filter(|(result, _)| result.is_none()).map(|(_, message)| message.clone()).collect();
        let mut local = self.requeue_local(&left).await.into_iter();
        results.into_iter().filter_map(|result| result.or_else(|| local.next())).collect()
    }

    /// The result of a send to the remote layer. An outage is no failure of this layer: a message that the remote layer
    /// may have taken counts as unconfirmed. Returns `None` if the remote layer has certainly not taken the message
    /// because of an outage.
    fn accepted(&self, result: Result<()>) -> Option<Result<()>> {
        match result {
            Err(error) if self.state.check_error(&error) => error.may_have_run().then(|| {
                drops::count(DropReason::Unconfirmed, 1);
                Ok(())
            }),
            result => Some(result),
        }
    }

    /// Returns the result of a group send, as [`finish_send`](Self::finish_send). The remote layer has counted the
    /// members that it may have missed.
    pub(crate) async fn finish_group_send(&self, result: Result<()>, group: &str, message: &Message) -> Result<()> {
        match result {
            Err(error) if self.state.check_error(&error) => {
                if error.may_have_run() {
                    Ok(())
                } else {
                    self.group_send_local(group, message.clone()).await
                }
            }
            result => result,
        }
    }

    /// Changes a membership in both layers, or in neither if the remote one refuses the change. The change matters for
    /// `lasts`.
    pub(crate) async fn change(&self, key: Key, change: Change, lasts: Duration) -> Result<()> {
        if self.state.check_outage(&*self.remote) {
            let mut journal = self.state.journal.lock();
            // Checked again under the lock: a change must either be recorded before the return or go to the remote
            // layer.
            if self.state.is_local() {
                return self.state.record(&mut journal, key, change, lasts, false);
            }
        }
        let synced = match change.apply(&*self.remote, &key, lasts).await {
            // An outage may have applied the change. Replaying it is harmless.
            Err(error) if self.state.check_error(&error) => false,
            result => result.map(|()| true)?,
        };
        let recorded = self.state.record(&mut self.state.journal.lock(), key, change, lasts, synced);
        // Recording fails only if the layer is closed meanwhile.
        recorded.map_err(Error::of_a_part)
    }

    /// Receives from the remote layer and retries through outages.
    pub(crate) async fn receive_remote(&self, channels: &[&str]) -> Result<Delivery> {
        loop {
            for _ in 0..2 {
                match self.remote.receive(channels).await {
                    // The next call of `receive` waits until the server is back.
                    Err(error) if self.state.check_error(&error) => {}
                    result => return result,
                }
            }
            sleep(PAUSE).await;
        }
    }

    /// Takes a message that stayed here in an earlier outage. It is older than all messages that wait elsewhere.
    pub(crate) fn try_receive_older(&self, channels: &[&str]) -> Result<Option<Delivery>> {
        let epoch = self.state.epoch();
        if epoch % 2 == 1 { self.local.try_receive_older(channels, epoch) } else { Ok(None) }
    }

    pub(crate) async fn try_receive_remote(&self, channels: &[&str]) -> Result<Option<Delivery>> {
        match self.remote.try_receive(channels).await {
            Err(error) if self.state.check_error(&error) => Ok(None),
            result => result,
        }
    }
}
