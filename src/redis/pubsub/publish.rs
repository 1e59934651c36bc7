//! `Publisher`: queues messages for servers and publishes each batch in one pipeline.
//!
//! Each server, and each partition of a cluster, has one queue with one batch under way. So the messages of one sender
//! to names on one server leave in the order of its calls. Messages that stay in this process during an outage keep
//! their place among them, and so do those that a node of a cluster has sent elsewhere.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use redis::Value;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::inbox::Inbox;
use super::managers::partition::Partition;
use super::topic::Target;
use crate::config::Fallback;
use crate::drops::{CountedIfUnread, DropReason, Drops, OutcomeSender};
use crate::error::{Error, Result};
use crate::layer::Modes;
use crate::message::Message;
use crate::redis::node::fault::Fault;
use crate::redis::pubsub::subscribe::manager::{Reachability, SubscriptionManager};
use crate::redis::send::batch::{TASK, record_size};
use crate::redis::send::queue::{MAX_BYTES, MAX_MESSAGES};
use crate::supervise::{contained, update_metric};

/// The pause before messages that a node of a cluster does not accept are sent again.
const PAUSE: Duration = Duration::from_millis(20);

/// A message to publish, and the sender of its outcome.
pub(crate) struct OutboundMessage {
    pub(crate) target: Target,
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
    /// The message for readers in this process, for an outage of the server.
    pub(crate) local_copy: Message,
    pub(crate) done: OutcomeSender<Result<()>>,
}

impl OutboundMessage {
    /// Reports the result of the call. If the caller has dropped its future, the message counts as dropped for
    /// `reason`.
    fn finish(self, result: Result<()>, reason: Option<DropReason>) {
        self.done.send(CountedIfUnread::new(result, reason));
    }
}

/// A message that waits in a queue. If it is dropped there, because the layer or its runtime has ended, it was
/// certainly not sent: its caller gets [`Error::Closed`], or it counts as closed.
struct QueuedMessage(Option<OutboundMessage>);

impl QueuedMessage {
    /// Takes the message to send it.
    fn take(mut self) -> Option<OutboundMessage> {
        self.0.take()
    }
}

impl Drop for QueuedMessage {
    fn drop(&mut self) {
        if let Some(message) = self.0.take() {
            message.done.send(CountedIfUnread::of_send(Err(Error::Closed)));
        }
    }
}

/// The queues of all places.
pub(crate) struct Publisher {
    queues: Vec<mpsc::UnboundedSender<QueuedMessage>>,
}

impl Publisher {
    /// Starts the queues of all `places` on `tasks`. They end when `closing` is cancelled and they are empty.
    pub(crate) fn start(
        places: usize,
        inbox: &Arc<Inbox>,
        modes: &Arc<Modes>,
        tasks: &TaskTracker,
        closing: &CancellationToken,
    ) -> Self {
        let start_queue = |place| {
            let (sender, queue) = mpsc::unbounded_channel();
            let task = PublishQueue { place, inbox: inbox.clone(), modes: modes.clone() };
            tasks.spawn(task.run(queue, closing.clone()));
            sender
        };
        Self { queues: (0..places).map(start_queue).collect() }
    }

    /// Queues `message` for `place`.
    pub(crate) fn enqueue(&self, place: usize, message: OutboundMessage) {
        // A closed queue drops the message.
        let _ = self.queues[place].send(QueuedMessage(Some(message)));
    }
}

/// Publishes at one place, one batch at a time.
struct PublishQueue {
    place: usize,
    inbox: Arc<Inbox>,
    modes: Arc<Modes>,
}

/// Messages that were not published, and why.
type Unsent = (Vec<OutboundMessage>, Fault);

impl PublishQueue {
    async fn run(self, mut queue: mpsc::UnboundedReceiver<QueuedMessage>, closing: CancellationToken) {
        let mut taken = Vec::new();
        let mut waiting = VecDeque::new();
        loop {
            if waiting.is_empty() {
                let more = tokio::select! {
                    biased;
                    more = queue.recv_many(&mut taken, MAX_MESSAGES) => more,
                    () = closing.cancelled(), if !queue.is_closed() => {
                        queue.close();
                        continue;
                    }
                };
                if more == 0 {
                    return;
                }
                waiting.extend(taken.drain(..));
            }
            let mut batch = Vec::with_capacity(waiting.len());
            let mut bytes = 0;
            while bytes < MAX_BYTES
                && let Some(message) = waiting.pop_front().and_then(QueuedMessage::take)
            {
                bytes += message.payload.len();
                batch.push(message);
            }
            contained(TASK, self.send(batch)).await;
        }
    }

    /// Publishes `batch`. In a cluster, messages that a node does not accept are sent again, for the time of a command
    /// after the first one.
    async fn send(&self, mut batch: Vec<OutboundMessage>) {
        let managers = self.inbox.interest.managers();
        while !batch.is_empty() {
            let turn = match managers.turn(self.place).await {
                Ok(turn) => turn,
                Err((manager, fault)) => {
                    manager.catch_up().await;
                    return self.keep_or_fail(&manager, batch, &fault);
                }
            };
            let (manager, reachability) = (turn.manager.clone(), turn.reachability.clone());
            let generation = match &reachability {
                Reachability::Unreachable(fault) => return self.keep_or_fail(&manager, batch, fault),
                // Only over the connection that belongs to the subscription: another may lead to a server without our
                // readers.
                Reachability::Reachable(_, generation) => Some(*generation),
                _ => None,
            };
            let unsent = self.publish(&manager, batch, generation).await;
            drop(turn);
            let Some((unsent, fault)) = unsent else { return };
            if !manager.is_in_cluster() || managers.unserved(self.place).is_some() {
                // While the old subscription lasts, an earlier message could still arrive behind these.
                if fault.outage {
                    manager.wait_until_lost(&reachability).await;
                } else {
                    manager.catch_up().await;
                }
                return self.keep_or_fail(&manager, unsent, &fault);
            }
            self.wait_for_another(&manager, &reachability, &fault).await;
            batch = unsent;
        }
    }

    /// Waits for another server or connection at the place, after one has answered with `fault`.
    async fn wait_for_another(&self, manager: &Arc<SubscriptionManager>, before: &Reachability, fault: &Fault) {
        manager.follow(fault).await;
        tokio::select! {
            () = self.inbox.interest.managers().reassigned(self.place, manager) => {}
            () = manager.wait_until_lost(before) => {}
            () = sleep(PAUSE), if fault.redirect.is_some() => {}
        }
    }

    /// Delivers the messages only to readers in this process.
    fn keep(&self, manager: &SubscriptionManager, batch: Vec<OutboundMessage>) {
        let (messages, mut dropped) = (batch.len(), Drops::default());
        for message in batch {
            self.inbox.deliver(&message.target, message.local_copy, &mut dropped);
            message.done.send(CountedIfUnread::new(Ok(()), None));
        }
        dropped.count();
        self.modes.count_local(manager.shard.index, messages);
    }

    fn keep_or_fail(&self, manager: &SubscriptionManager, batch: Vec<OutboundMessage>, fault: &Fault) {
        match manager.fallback {
            Fallback::Local => self.keep(manager, batch),
            Fallback::Fail => fail_all(manager, batch, fault),
        }
    }

    /// Publishes `batch` through the server of `manager`. Returns the last messages if they were not published.
    async fn publish(
        &self,
        manager: &SubscriptionManager,
        batch: Vec<OutboundMessage>,
        generation: Option<u64>,
    ) -> Option<Unsent> {
        let (messages, mut sent, mut dropped) = (batch.len(), 0, Drops::default());
        let mut pipeline = redis::pipe();
        for message in &batch {
            pipeline.cmd(manager.publish).arg(&message.topic).arg(&message.payload[..]);
        }
        let answers = manager.shard.run_each(&pipeline, batch.len(), generation).await;
        // A message is not sent again behind later ones.
        let repeated_from = answers.iter().rposition(Result::is_ok).map_or(0, |last| last + 1);
        let mut unsent: Option<Unsent> = None;
        for (at, (message, answer)) in batch.into_iter().zip(answers).enumerate() {
            match answer {
                Ok(receivers) => {
                    sent += 1;
                    let has_no_reader = manager.shard.knows_all_subscribers()
                        && matches!((receivers, &message.target), (Value::Int(0), Target::Channel(_)));
                    dropped.add(DropReason::NoReader, usize::from(has_no_reader));
                    message.finish(Ok(()), None);
                }
                Err(fault) if stays(manager, &fault) || (at >= repeated_from && is_repeated(manager, &fault)) => {
                    unsent.get_or_insert_with(|| (Vec::new(), fault)).0.push(message);
                }
                Err(fault) => fail(manager, message, fault, &mut dropped),
            }
        }
        if manager.is_in_cluster() {
            let partition = Partition::at(self.place);
            if sent > 0 {
                manager.record_accepted(partition);
            }
            if let Some((_, fault)) = &unsent {
                manager.record_refused(partition, fault);
            }
        }
        dropped.count();
        update_metric(|| metrics::counter!("channel_layer_sent_total").increment(sent));
        record_size(messages);
        unsent
    }
}

/// Whether a message that was not published because of this fault stays in this process instead.
fn stays(manager: &SubscriptionManager, fault: &Fault) -> bool {
    !manager.is_in_cluster() && manager.fallback == Fallback::Local && fault.outage && !fault.may_have_run
}

/// Whether a message that was not published because of this fault is sent again, possibly elsewhere.
fn is_repeated(manager: &SubscriptionManager, fault: &Fault) -> bool {
    manager.is_in_cluster() && (fault.outage || fault.redirect.is_some()) && !fault.may_have_run
}

fn fail_all(manager: &SubscriptionManager, batch: Vec<OutboundMessage>, fault: &Fault) {
    let mut dropped = Drops::default();
    for message in batch {
        fail(manager, message, fault.clone(), &mut dropped);
    }
    dropped.count();
}

fn fail(manager: &SubscriptionManager, message: OutboundMessage, fault: Fault, dropped: &mut Drops) {
    let reason = DropReason::of_failed(fault.may_have_run);
    if manager.fallback == Fallback::Local && fault.outage {
        // The message may have been published, so it is not sent again. An outage is no failure of the call.
        dropped.add(reason, 1);
        message.finish(Ok(()), None);
    } else {
        message.finish(Err(manager.shard.error(fault)), Some(reason));
    }
}
