//! `Publisher`: queues messages for servers and publishes each batch in one pipeline.
//!
//! Each server has one queue with one batch under way. So the messages of one sender to names on one server leave in
//! the order of its calls. Messages that stay in this process during an outage keep their place among them.

use std::collections::VecDeque;
use std::sync::Arc;

use redis::Value;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::inbox::Inbox;
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

/// The queues of all servers, by shard.
pub(crate) struct Publisher {
    queues: Vec<mpsc::UnboundedSender<QueuedMessage>>,
}

impl Publisher {
    /// Starts the queues on `tasks`. They end when `closing` is cancelled and they are empty.
    pub(crate) fn start(
        managers: &[Arc<SubscriptionManager>],
        inbox: &Arc<Inbox>,
        modes: &Arc<Modes>,
        tasks: &TaskTracker,
        closing: &CancellationToken,
    ) -> Self {
        let start_queue = |manager: &Arc<SubscriptionManager>| {
            let (sender, queue) = mpsc::unbounded_channel();
            let task = PublishQueue { manager: manager.clone(), inbox: inbox.clone(), modes: modes.clone() };
            tasks.spawn(task.run(queue, closing.clone()));
            sender
        };
        Self { queues: managers.iter().map(start_queue).collect() }
    }

    /// Queues `message` for `shard`.
    pub(crate) fn enqueue(&self, shard: usize, message: OutboundMessage) {
        // A closed queue drops the message.
        let _ = self.queues[shard].send(QueuedMessage(Some(message)));
    }
}

/// Publishes on one server, one batch at a time.
struct PublishQueue {
    manager: Arc<SubscriptionManager>,
    inbox: Arc<Inbox>,
    modes: Arc<Modes>,
}

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

    async fn send(&self, batch: Vec<OutboundMessage>) {
        let reachability = self.manager.reachability();
        match (&reachability, self.manager.fallback) {
            (Reachability::Unreachable(_), Fallback::Local) => self.keep(batch),
            (Reachability::Unreachable(fault), Fallback::Fail) => {
                let mut dropped = Drops::default();
                for message in batch {
                    self.fail(message, fault.clone(), &mut dropped);
                }
                dropped.count();
            }
            // Only over the connection that belongs to the subscription: another may lead to a server without our
            // readers.
            (Reachability::Reachable(_, generation), _) => self.publish(batch, &reachability, Some(*generation)).await,
            (Reachability::Unknown, _) => self.publish(batch, &reachability, None).await,
        }
    }

    /// Delivers the messages only to readers in this process.
    fn keep(&self, batch: Vec<OutboundMessage>) {
        let (messages, mut dropped) = (batch.len(), Drops::default());
        for message in batch {
            self.inbox.deliver(&message.target, message.local_copy, &mut dropped);
            message.done.send(CountedIfUnread::new(Ok(()), None));
        }
        dropped.count();
        self.modes.count_local(self.manager.shard.index, messages);
    }

    async fn publish(&self, batch: Vec<OutboundMessage>, reachability: &Reachability, generation: Option<u64>) {
        let (messages, mut sent, mut dropped) = (batch.len(), 0, Drops::default());
        let mut pipeline = redis::pipe();
        for message in &batch {
            pipeline.cmd(self.manager.publish).arg(&message.topic).arg(&message.payload[..]);
        }
        let mut unsent = Vec::new();
        let answers = self.manager.shard.run_each(&pipeline, batch.len(), generation).await;
        for (message, answer) in batch.into_iter().zip(answers) {
            match answer {
                Ok(receivers) => {
                    sent += 1;
                    let has_no_reader = matches!((receivers, &message.target), (Value::Int(0), Target::Channel(_)));
                    dropped.add(DropReason::NoReader, usize::from(has_no_reader));
                    message.finish(Ok(()), None);
                }
                Err(fault) if self.can_stay(&fault) => unsent.push(message),
                Err(fault) => self.fail(message, fault, &mut dropped),
            }
        }
        if !unsent.is_empty() {
            // While the old subscription lasts, an earlier message could still arrive behind these.
            self.manager.wait_until_lost(reachability).await;
            self.keep(unsent);
        }
        dropped.count();
        update_metric(|| metrics::counter!("channel_layer_sent_total").increment(sent));
        record_size(messages);
    }

    /// Whether a message that was not published because of this fault stays in this process instead.
    fn can_stay(&self, fault: &Fault) -> bool {
        self.manager.fallback == Fallback::Local && fault.outage && !fault.may_have_run
    }

    fn fail(&self, message: OutboundMessage, fault: Fault, dropped: &mut Drops) {
        let reason = DropReason::of_failed(fault.may_have_run);
        if self.manager.fallback == Fallback::Local && fault.outage {
            // The message may have been published, so it is not sent again. An outage is no failure of the call.
            dropped.add(reason, 1);
            message.finish(Ok(()), None);
        } else {
            message.finish(Err(self.manager.shard.error(fault)), Some(reason));
        }
    }
}
