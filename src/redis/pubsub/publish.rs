//! The way out: what callers publish at the same time travels in one pipeline.
//!
//! Each server has one lane, with one batch under way. So messages of one sender to names on one server leave in the
//! order of its calls, and those that stay in this process, because the server is away, keep their place among them.

use std::collections::VecDeque;
use std::sync::Arc;

use redis::Value;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::inbox::Inbox;
use super::topic::Target;
use crate::config::Fallback;
use crate::drops::{self, DropReason};
use crate::error::Result;
use crate::layer::Modes;
use crate::message::Message;
use crate::redis::node::fault::Fault;
use crate::redis::pubsub::subscribe::manager::{Reachability, SubscriptionManager};
use crate::redis::send::batch::TASK;
use crate::supervise::contained;

/// The most messages of a batch, and the bytes after which it takes no more.
const MAX_MESSAGES: usize = 1000;
const MAX_BYTES: usize = 1 << 20;

/// A message on its way out, and somebody who waits to hear what became of it.
pub(crate) struct OutboundMessage {
    pub(crate) target: Target,
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
    /// What those in this process get if the server is away.
    pub(crate) message: Message,
    pub(crate) done: oneshot::Sender<Result<()>>,
}

/// The lanes of all servers, by their position.
pub(crate) struct Publisher {
    lanes: Vec<mpsc::UnboundedSender<OutboundMessage>>,
}

impl Publisher {
    /// Starts the lanes on `tasks`; they end when `closing` is cancelled and their queues are empty.
    pub(crate) fn start(
        stations: &[Arc<SubscriptionManager>],
        inbox: &Arc<Inbox>,
        modes: &Arc<Modes>,
        tasks: &TaskTracker,
        closing: &CancellationToken,
    ) -> Self {
        let start_lane = |station: &Arc<SubscriptionManager>| {
            let (sender, queue) = mpsc::unbounded_channel();
            let lane = PublishQueue { station: station.clone(), inbox: inbox.clone(), modes: modes.clone() };
            tasks.spawn(lane.run(queue, closing.clone()));
            sender
        };
        Self { lanes: stations.iter().map(start_lane).collect() }
    }

    /// Queues `letter` for `shard`.
    pub(crate) fn post(&self, shard: usize, letter: OutboundMessage) {
        // A closed lane drops the letter and with it `done`, which is how the caller learns of it.
        let _ = self.lanes[shard].send(letter);
    }
}

/// Publishes on one server, one batch at a time.
struct PublishQueue {
    station: Arc<SubscriptionManager>,
    inbox: Arc<Inbox>,
    modes: Arc<Modes>,
}

impl PublishQueue {
    async fn run(self, mut queue: mpsc::UnboundedReceiver<OutboundMessage>, closing: CancellationToken) {
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
                && let Some(letter) = waiting.pop_front()
            {
                bytes += letter.payload.len();
                batch.push(letter);
            }
            contained(TASK, self.send(batch)).await;
        }
    }

    async fn send(&self, batch: Vec<OutboundMessage>) {
        let reach = self.station.reach();
        match (&reach, self.station.fallback) {
            (Reachability::Away(_), Fallback::Local) => self.keep(batch),
            (Reachability::Away(fault), Fallback::Fail) => {
                for letter in batch {
                    self.fail(letter, fault.clone());
                }
            }
            // Over another link than that over which this process hears it would reach everybody else alone.
            (Reachability::There(_, generation), _) => self.publish(batch, &reach, Some(*generation)).await,
            (Reachability::Unknown, _) => self.publish(batch, &reach, None).await,
        }
    }

    /// Delivers to those in this process alone.
    fn keep(&self, batch: Vec<OutboundMessage>) {
        self.modes.count_local(self.station.shard.index, batch.len());
        for letter in batch {
            self.inbox.deliver(&letter.target, letter.message);
            let _ = letter.done.send(Ok(()));
        }
    }

    async fn publish(&self, batch: Vec<OutboundMessage>, reach: &Reachability, generation: Option<u64>) {
        metrics::histogram!("channel_layer_batch_size").record(u32::try_from(batch.len()).unwrap_or(u32::MAX));
        let mut pipeline = redis::pipe();
        for letter in &batch {
            pipeline.cmd(self.station.publish).arg(&letter.topic).arg(&letter.payload[..]);
        }
        let mut unsent = Vec::new();
        let answers = self.station.shard.run_each(&pipeline, batch.len(), generation).await;
        for (letter, answer) in batch.into_iter().zip(answers) {
            match answer {
                Ok(reached) => published(letter, &reached),
                Err(fault) if self.stays(&fault) => unsent.push(letter),
                Err(fault) => self.fail(letter, fault),
            }
        }
        if !unsent.is_empty() {
            // As long as the station listens, a message from before could still come after these.
            self.station.departed(reach).await;
            self.keep(unsent);
        }
    }

    /// Whether a message that was not published for this fault stays in this process instead.
    fn stays(&self, fault: &Fault) -> bool {
        self.station.fallback == Fallback::Local && fault.outage && !fault.may_have_run
    }

    fn fail(&self, letter: OutboundMessage, fault: Fault) {
        let result = if self.station.fallback == Fallback::Local && fault.outage {
            // It is not sent twice, and that the server is away is no failure of the call.
            drops::count(DropReason::Unconfirmed, 1);
            Ok(())
        } else {
            Err(self.station.shard.error(fault))
        };
        let _ = letter.done.send(result);
    }
}

/// Tells that `letter` was published, and counts it if the server says that it has `reached` nobody.
fn published(letter: OutboundMessage, reached: &Value) {
    metrics::counter!("channel_layer_sent_total").increment(1);
    if matches!((reached, &letter.target), (Value::Int(0), Target::Channel(_))) {
        drops::count(DropReason::NoReader, 1);
    }
    // The caller may have gone; the message is published all the same.
    let _ = letter.done.send(Ok(()));
}
