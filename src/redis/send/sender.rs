//! `Sender`: queues messages for shards and returns what happened to them.
//!
//! Each shard has a few queues, and a channel always uses the same one. A queue sends the messages that gathered during
//! its previous batch, so no message waits for company. A queue has one batch under way, so the order within a channel
//! holds whatever happens to a batch. In a cluster the messages for a list that is on another node have a call of
//! their own ([`parts`](super::parts)).

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use xxhash_rust::xxh3::xxh3_64;

use super::batch::{Batch, Outgoing, SendOutcome, TASK, record_size};
use super::format::{OutboundMessage, WriteFormat};
use super::open_calls::OpenCalls;
use super::parts::{fail_waiting, send_parts};
use super::queue::{BatchReceiver, BypassPermit, Queue};
use super::slots::{PendingInSlot, SlotQueues};
use crate::drops::{CountedIfUnread, OutcomeReceiver};
use crate::name::ChannelName;
use crate::redis::driven::DrivenTask;
use crate::redis::node::cluster::Slot;
use crate::redis::node::fault::Fault;
use crate::redis::node::shard::Shard;
use crate::redis::topology::lists::ListName;
use crate::redis::topology::places::Places;
use crate::spread::LISTS;
use crate::supervise::contained;

/// Queues of a shard. More queues overlap more round trips and make each batch smaller: with 256 senders on two
/// processors two queues send a tenth more than four and a fifth more than one or eight.
const QUEUES: usize = 2;
/// How many messages in turn go to the same list of a channel that is spread. Those that are sent together then need
/// few calls.
const MESSAGES_PER_LIST: usize = 8;

/// The sending half of a layer.
pub struct Sender<F: WriteFormat> {
    places: Arc<Places>,
    format: Arc<F>,
    /// By shard, then by queue. Those of a new shard of a cluster are added when they are first needed.
    queues: boxcar::Vec<[Queue<F::Body>; QUEUES]>,
    /// Held while queues are added.
    adding: Mutex<()>,
    /// Which shard's queues have the messages of each slot of a cluster; `None` outside of one.
    slots: Option<Arc<SlotQueues>>,
    /// The shard that takes the next message to a normal channel.
    turn: AtomicUsize,
    /// How many messages have been sent to channels that are spread over lists, beginning at a random number.
    list_turn: AtomicUsize,
    /// The open calls that send to more than one channel. The layer refuses no part of them while it closes.
    calls: OpenCalls,
    /// Cancelled when the queues may end.
    ending: CancellationToken,
    tasks: TaskTracker,
    runtime: Handle,
}

/// A message that has been queued, and the shards or lists that can still take it if the present one does not.
pub struct PendingSend<B> {
    message: OutboundMessage<B>,
    attempts: Attempts,
    state: SendState,
}

enum SendState {
    /// The shard has the message, and will report its outcome.
    Queued { shard: usize, queue: usize, outcome: OutcomeReceiver<SendOutcome> },
    /// No shard or list is left.
    Ended(CountedIfUnread<SendOutcome>),
}

/// How far a message has been offered to the shards, or to the lists of its channel, and why they did not take it.
struct Attempts {
    first: usize,
    count: usize,
    /// How many lists the channel is spread over; `None` if the message is offered to shards.
    lists: Option<usize>,
    /// Whether a refusal by the present shard is final; see [`Outgoing::is_final`].
    is_final: bool,
    /// The shard that failed and its fault.
    failed: Option<(usize, Fault)>,
}

impl Attempts {
    fn starting_at(first: usize, lists: Option<usize>) -> Self {
        Self { first, count: 0, lists, is_final: false, failed: None }
    }

    /// Records that `shard` did not take the message because of `fault`. A lasting fault does not replace one that may
    /// pass, so that the send is retried whatever the order of the shards.
    fn fail(&mut self, shard: usize, fault: Fault) {
        let may_pass = self.failed.as_ref().is_some_and(|(_, failed)| failed.is_retryable());
        if fault.is_retryable() || !may_pass {
            self.failed = Some((shard, fault));
        }
    }

    /// The outcome of a message that no shard took.
    fn outcome(&self) -> SendOutcome {
        self.failed.clone().map_or(SendOutcome::Full, |(shard, fault)| SendOutcome::Failed { shard, fault })
    }
}

impl<F: WriteFormat> Sender<F> {
    /// Starts the queues on `tasks`. They end when `closing` is cancelled, no [call](Self::call) is under way, and they
    /// are empty.
    pub(crate) fn start(places: Arc<Places>, format: Arc<F>, tasks: &TaskTracker, closing: &CancellationToken) -> Self {
        let timeout = places.shard(0).command_timeout();
        // One round trip for the members of a group, and one to send.
        let (calls, ending) = OpenCalls::new(tasks, closing, 2 * timeout);
        let shards = places.count();
        let sender = Self {
            queues: boxcar::Vec::with_capacity(shards),
            adding: Mutex::default(),
            slots: places.is_cluster().then(SlotQueues::new),
            turn: AtomicUsize::new(format.first_shard(shards)),
            list_turn: AtomicUsize::new(rand::random_range(0..MESSAGES_PER_LIST * LISTS.end())),
            places,
            format,
            calls,
            ending,
            tasks: tasks.clone(),
            runtime: Handle::current(),
        };
        sender.queues_of(shards - 1);
        sender
    }

    /// The queues of a shard. Adds those that are missing.
    fn queues_of(&self, shard: usize) -> &[Queue<F::Body>; QUEUES] {
        self.queues.get(shard).unwrap_or_else(|| {
            let _adding = self.adding.lock();
            for index in self.queues.count()..=shard {
                self.queues.push(std::array::from_fn(|_| self.start_queue(self.places.shard(index))));
            }
            &self.queues[shard]
        })
    }

    fn start_queue(&self, shard: &Arc<Shard>) -> Queue<F::Body> {
        let work = Arc::<DrivenTask>::default();
        let (queue, batches) = BatchReceiver::new(work.clone(), self.ending.clone());
        let (places, shard, format) = (self.places.clone(), shard.clone(), self.format.clone());
        if places.is_cluster() {
            let sending = send_parts(places, shard, format, batches);
            self.tasks.spawn_on(work.run(sending, self.runtime.clone()), &self.runtime);
        } else {
            let sending = send_batches(places, shard, format, batches);
            self.tasks.spawn_on(work.run(sending, self.runtime.clone()), &self.runtime);
        }
        queue
    }

    /// Begins a call that sends to more than one channel; see [`OpenCalls::begin`].
    pub(crate) fn call(&self) -> TaskTrackerToken {
        self.calls.begin()
    }

    /// Queues `message` without sending it; [`flush`](Self::flush) does that. Messages to one channel are sent in the
    /// order of these calls.
    pub(crate) fn enqueue(&self, mut message: OutboundMessage<F::Body>) -> PendingSend<F::Body> {
        message.pinned |= !self.places.is_cluster() && self.places.count() == 1;
        let mut attempts = self.attempts(&message);
        let state = self.enqueue_at_next(&message, &mut attempts);
        PendingSend { message, attempts, state }
    }

    /// The attempts to send `message`, before the first one.
    fn attempts(&self, message: &OutboundMessage<F::Body>) -> Attempts {
        if message.pinned {
            return Attempts::starting_at(self.places.shard_of_channel(&message.channel).index, None);
        }
        let Some(lists) = self.places.lists_in_cluster(&message.channel) else {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed);
            return Attempts::starting_at(turn % self.places.count(), None);
        };
        let turn = self.list_turn.fetch_add(1, Ordering::Relaxed) / MESSAGES_PER_LIST % lists;
        // A list whose master is being replaced comes last.
        let mut numbers = (turn..turn + lists).map(|number| number % lists);
        let first = numbers.find(|number| self.places.list(&message.channel, *number).1.is_up()).unwrap_or(turn);
        Attempts::starting_at(first, Some(lists))
    }

    /// Sends a queued message, with everything else on its queue.
    pub(crate) fn flush(&self, pending: &PendingSend<F::Body>) {
        self.flush_queue(&pending.state);
    }

    fn flush_queue(&self, state: &SendState) {
        if let SendState::Queued { shard, queue, .. } = state {
            self.queues_of(*shard)[*queue].flush();
        }
    }

    /// Waits until the message has been sent or refused. If all shards fail that could take it, it is offered to them
    /// again as often as retries are configured; the queue of the only shard of a message has done that already.
    pub(crate) async fn outcome(&self, pending: PendingSend<F::Body>) -> CountedIfUnread<SendOutcome> {
        let PendingSend { message, mut attempts, mut state } = pending;
        let mut retry = self.places.shard(0).retry();
        loop {
            match state {
                SendState::Queued { shard, outcome, .. } => match outcome.await.ok().and_then(CountedIfUnread::read) {
                    Some(SendOutcome::Full) if !attempts.is_final => {}
                    Some(SendOutcome::Failed { shard, fault }) if !fault.may_have_run => attempts.fail(shard, fault),
                    Some(outcome) => return outcome.counted_if_unread(),
                    // A queue refuses what it has not taken, so the message was in a batch.
                    None => return SendOutcome::Failed { shard, fault: Fault::abandoned() }.counted_if_unread(),
                },
                SendState::Ended(outcome) => match &attempts.failed {
                    Some((_, fault)) if !message.pinned && retry.wait_after(fault).await => {
                        _ = outcome.read();
                        attempts = Attempts::starting_at(attempts.first, attempts.lists);
                    }
                    _ => return outcome,
                },
            }
            state = self.enqueue_at_next(&message, &mut attempts);
            self.flush_queue(&state);
        }
    }

    /// Permits to send to `channels` on `shard` past their queues, which send nothing meanwhile. Returns `None` if a
    /// queue has messages that could be overtaken.
    pub(crate) fn bypass<'c>(
        &self,
        shard: &Shard,
        channels: impl Iterator<Item = &'c ChannelName> + Clone,
    ) -> Option<Vec<BypassPermit<F::Body>>> {
        let queues = self.queues_of(shard.index).iter().enumerate();
        let used = queues.filter(|(place, _)| channels.clone().any(|channel| queue_of(channel.non_local()) == *place));
        used.map(|(_, queue)| queue.bypass()).collect()
    }

    /// Runs `push` to its end even if the caller stops polling, because other sends may wait for it. It is polled here
    /// first, so that the command leaves at once, and then by a task. Returns `None` if the task ends without a result.
    pub(crate) async fn complete<T: Send + 'static>(
        &self,
        push: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let mut push = Box::pin(push);
        let first = poll_fn(|cx| {
            // Its timers belong to the runtime of the layer.
            let _inside = self.runtime.enter();
            Poll::Ready(push.as_mut().poll(cx))
        });
        match first.await {
            Poll::Ready(result) => Some(result),
            Poll::Pending => self.tasks.spawn_on(push, &self.runtime).await.ok(),
        }
    }

    pub(crate) fn format(&self) -> &Arc<F> {
        &self.format
    }

    /// Queues a message for the next shard or list that may take it, if one is left.
    fn enqueue_at_next(&self, message: &OutboundMessage<F::Body>, attempts: &mut Attempts) -> SendState {
        loop {
            let Some((place, capacity)) = self.candidates(message, attempts).next() else {
                return SendState::Ended(attempts.outcome().counted_if_unread());
            };
            attempts.count = place + 1;
            let (list, shard) = self.at(message, attempts, place);
            // The queue of the only shard repeats the attempt as configured.
            let waits = message.pinned && shard.retries_during_outage();
            if !waits && let Some(fault) = shard.fault().filter(|fault| !self.waits_through(fault)) {
                attempts.fail(shard.index, fault);
                continue;
            }
            let is_final =
                !self.candidates(message, attempts).any(|(place, _)| self.at(message, attempts, place).1.is_up());
            attempts.is_final = is_final;
            let name = list.text(&message.channel);
            let ((shard, pending), queue) = (self.choose_shard(name, shard), queue_of(name));
            let (outgoing, outcome) = Outgoing::new(message.clone(), list, capacity, is_final, pending);
            self.queues_of(shard)[queue].add(outgoing);
            return SendState::Queued { shard, queue, outcome };
        }
    }

    /// Whether a queue waits until another node of the cluster has taken over.
    fn waits_through(&self, fault: &Fault) -> bool {
        self.slots.is_some() && fault.redirect.is_some()
    }

    /// The shard whose queue takes a message for the list `name`, which is on `shard`.
    fn choose_shard(&self, name: &str, shard: &Shard) -> (usize, Option<PendingInSlot>) {
        let Some(slots) = &self.slots else { return (shard.index, None) };
        let (shard, pending) = slots.add(Slot::of(name), shard.index);
        (shard, Some(pending))
    }

    /// The places of the shards or lists that the message has not been offered to and that may hold messages of its
    /// channel, with the capacity of the channel there.
    fn candidates(
        &self,
        message: &OutboundMessage<F::Body>,
        attempts: &Attempts,
    ) -> impl Iterator<Item = (usize, usize)> {
        let all = attempts.lists.unwrap_or_else(|| self.places.count());
        let last = if message.pinned { 1 } else { all };
        let is_whole = message.pinned || message.capacity == usize::MAX;
        let capacity_at = move |place| {
            let number = (attempts.first + place) % all;
            if is_whole { message.capacity } else { self.format.capacity_on(number, message.capacity, all) }
        };
        (attempts.count..last).map(move |place| (place, capacity_at(place))).filter(|(_, capacity)| *capacity > 0)
    }

    /// The list and the shard at a place in the order in which they are tried.
    fn at(&self, message: &OutboundMessage<F::Body>, attempts: &Attempts, place: usize) -> (ListName, &Shard) {
        let number = attempts.first + place;
        match attempts.lists {
            Some(lists) => {
                let (list, shard) = self.places.list(&message.channel, number % lists);
                (list, shard)
            }
            None => (ListName::default(), self.places.shard(number % self.places.count())),
        }
    }
}

impl<B: Clone> PendingSend<B> {
    pub(crate) fn channel(&self) -> &ChannelName {
        &self.message.channel
    }

    /// `message` for `shard` alone, outside the queues.
    pub(crate) fn beside_queues(message: OutboundMessage<B>, shard: &Shard) -> (Outgoing<B>, Self) {
        let (outgoing, outcome) = Outgoing::new(message.clone(), ListName::default(), message.capacity, true, None);
        let attempts = Attempts { count: 1, is_final: true, ..Attempts::starting_at(shard.index, None) };
        let queue = queue_of(message.channel.non_local());
        (outgoing, Self { message, attempts, state: SendState::Queued { shard: shard.index, queue, outcome } })
    }
}

/// The queue of a shard for the list `name`.
fn queue_of(name: &str) -> usize {
    usize::try_from(xxh3_64(name.as_bytes()) % QUEUES as u64).expect("the number of a queue is small")
}

/// The task of a queue: sends one batch at a time.
async fn send_batches<F: WriteFormat>(
    places: Arc<Places>,
    shard: Arc<Shard>,
    format: Arc<F>,
    batches: BatchReceiver<F::Body>,
) {
    while let Some(messages) = batches.next().await {
        let batch: Batch<F::Body> = messages.into_iter().collect();
        let messages = batch.message_count();
        let on_fault = |shard: usize, fault: &Fault| fail_waiting(&batches, None, shard, fault);
        contained(TASK, batch.send(&*format, &places, &shard, on_fault, || {})).await;
        record_size(messages);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lasting_fault_of_another_shard_does_not_prevent_the_retry() {
        let passing = (0, Fault::unsent("it is unreachable"));
        let lasting = (1, Fault::unexpected("a key of another type").before_sending());
        for faults in [[passing.clone(), lasting.clone()], [lasting, passing]] {
            let mut attempts = Attempts::starting_at(0, None);
            for (shard, fault) in faults {
                attempts.fail(shard, fault);
            }
            assert!(matches!(attempts.outcome(), SendOutcome::Failed { shard: 0, .. }));
        }
    }
}
