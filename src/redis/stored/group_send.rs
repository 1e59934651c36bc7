//! The steps of a group send of a stored layer: look up the members, queue the messages, wait for the outcomes.

use super::format::{Destinations, StoredFormat};
use super::groups::StoredGroups;
use super::layer::{StoredLayer, join_in_parts};
use crate::drops::{CountedIfUnread, Unsent};
use crate::error::Result;
use crate::layer::GroupSendOutcomes;
use crate::name::GroupName;
use crate::redis::node::fault::Fault;
use crate::redis::send::PendingSend;

impl<F: StoredFormat> StoredLayer<F> {
    /// Queues a message for the members of `group`, without sending it.
    pub(super) fn enqueue_to(
        &self,
        group: &GroupName,
        message: &F::GroupMessage,
        destinations: &Destinations<F>,
    ) -> Result<Vec<PendingSend<F::Body>>> {
        let messages = self.format.messages_to(group, message, destinations)?;
        Ok(messages.into_iter().map(|message| self.sender.enqueue(message)).collect())
    }

    /// The destinations of each of `groups`, from their servers, or the shard that failed and its fault. `messages` to
    /// these groups have not been sent yet, and count as dropped if the future is dropped.
    pub(super) async fn destinations(
        &self,
        groups: &[GroupName],
        messages: usize,
    ) -> Vec<Result<Destinations<F>, (usize, Fault)>> {
        let mut unsent = Unsent(messages);
        let destinations = self.format.groups().destinations(groups).await.into_iter();
        unsent.0 = 0;
        destinations.map(|result| result.map_err(|(shard, fault)| (shard, fault.before_sending()))).collect()
    }

    /// Waits for all messages of a group send.
    pub(super) async fn finish_group(&self, pending: Vec<PendingSend<F::Body>>) -> GroupSendOutcomes {
        let outcomes = pending.into_iter().map(|pending| async {
            let channel = pending.channel().clone();
            (channel, self.sender.outcome(pending).await)
        });
        let mut result = GroupSendOutcomes::default();
        for (channel, outcome) in join_in_parts(outcomes).await {
            result.add(CountedIfUnread::of_send(self.result(channel, outcome.read())));
        }
        result
    }
}
