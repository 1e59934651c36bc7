//! `Batch`: messages to one shard that travel in one call.

use std::collections::HashMap;

use redis::Value;

use super::format::{OutboundMessage, Weight, WriteFormat};
use super::slots::PendingInSlot;
use crate::drops::{self, CountedIfUnread, DropReason, OutcomeReceiver, OutcomeSender};
use crate::name::ChannelName;
use crate::redis::node::commands::asking::Node;
use crate::redis::node::fault::Fault;
use crate::redis::node::shard::Shard;
use crate::redis::topology::lists::ListName;
use crate::redis::topology::places::Places;
use crate::supervise::{contained, metric_value, update_metric};

/// The name of the sending tasks in the metric of panics.
pub(crate) const TASK: &str = "sender to Redis";

/// The result of sending one message.
#[derive(Clone, Debug)]
pub(crate) enum SendOutcome {
    Sent,
    /// The channel was at capacity.
    Full,
    Failed {
        shard: usize,
        fault: Fault,
    },
    /// The layer was closed before the message was sent.
    Closed,
}

impl SendOutcome {
    /// The outcome for the caller of the message.
    pub(crate) fn counted_if_unread(self) -> CountedIfUnread<Self> {
        let reason = match &self {
            Self::Sent => None,
            Self::Full => Some(DropReason::Full),
            Self::Failed { fault, .. } => Some(DropReason::of_failed(fault.may_have_run)),
            Self::Closed => Some(DropReason::Closed),
        };
        CountedIfUnread::new(self, reason)
    }
}

/// A message on its way to one shard, with the sender of its outcome.
pub struct Outgoing<B> {
    pub(crate) channel: ChannelName,
    /// The list of the channel that takes it.
    list: ListName,
    /// How many messages the list may hold on the shard.
    pub(crate) capacity: usize,
    /// Whether a refusal by this shard is final: no shard that has not been tried was up when the message was queued. A
    /// refusal that is not final is not counted, and another shard is tried.
    pub(crate) is_final: bool,
    /// Whether no other shard can take the message.
    pinned: bool,
    pub(crate) body: B,
    outcome: OutcomeSender<SendOutcome>,
    /// Keeps the messages of its slot of a cluster on one queue. `None` outside of a cluster.
    pending: Option<PendingInSlot>,
}

impl<B> Outgoing<B> {
    /// `message` for a list that may hold `capacity` messages on a shard, and the receiver of its outcome there.
    pub(crate) fn new(
        message: OutboundMessage<B>,
        list: ListName,
        capacity: usize,
        is_final: bool,
        pending: Option<PendingInSlot>,
    ) -> (Self, OutcomeReceiver<SendOutcome>) {
        let (outcome, receiver) = OutcomeSender::new();
        let OutboundMessage { channel, body, pinned, .. } = message;
        (Self { channel, list, capacity, is_final, pinned, body, outcome, pending }, receiver)
    }

    /// The name of the list that takes it.
    pub(crate) fn list(&self) -> &str {
        self.list.text(&self.channel)
    }

    /// Whether the message waits for a server that is unreachable: no other shard can take it, and its caller still
    /// waits. During an outage only callers bound how many messages wait.
    pub(crate) fn waits_for_server(&self) -> bool {
        self.pinned && !self.outcome.is_closed()
    }

    /// Reports `outcome`. The caller may have dropped its future.
    fn finish(self, outcome: SendOutcome) {
        // The next message of the caller can take another queue.
        drop(self.pending);
        self.outcome.send(outcome.counted_if_unread());
    }

    /// Reports that the queue was closed before it took the message.
    pub(crate) fn refuse(self) {
        self.finish(SendOutcome::Closed);
    }

    pub(crate) fn fail(self, shard: usize, fault: &Fault) {
        self.finish(SendOutcome::Failed { shard, fault: fault.clone() });
    }
}

impl<B: Weight> Outgoing<B> {
    /// How many bytes it has in Redis.
    pub(crate) fn bytes(&self) -> usize {
        self.body.bytes()
    }
}

/// Consecutive messages for one list with the same capacity and the same `is_final`.
pub(crate) type Run<B> = Vec<Outgoing<B>>;

/// Messages in runs, each for one list. The messages for a list keep their order. A list has several runs if the
/// capacity or `is_final` changes between two of its messages.
pub struct Batch<B> {
    runs: Vec<Run<B>>,
    /// The last run for each list, by its name.
    last_runs: HashMap<Box<str>, usize>,
    messages: usize,
}

/// In place of a number of messages: a node of a cluster refused them, because it does not have their list.
const ELSEWHERE: i64 = -2;

/// What a script that adds messages returns.
pub struct Pushed {
    /// For each run how many of its messages were added, from the first on; -1 if its key holds another type of value,
    /// and [`ELSEWHERE`].
    accepted: Vec<i64>,
    /// How many expired messages were removed to make room.
    expired: usize,
}

impl<B> FromIterator<Outgoing<B>> for Batch<B> {
    fn from_iter<I: IntoIterator<Item = Outgoing<B>>>(messages: I) -> Self {
        let mut batch = Self { runs: Vec::new(), last_runs: HashMap::new(), messages: 0 };
        messages.into_iter().for_each(|message| batch.add(message));
        batch
    }
}

impl<B> Batch<B> {
    fn add(&mut self, message: Outgoing<B>) {
        self.messages += 1;
        let name = message.list();
        if let Some(run) = self.last_runs.get(name).map(|run| &mut self.runs[*run])
            && (run[0].capacity, run[0].is_final) == (message.capacity, message.is_final)
        {
            run.push(message);
        } else {
            self.last_runs.insert(name.into(), self.runs.len());
            self.runs.push(vec![message]);
        }
    }

    pub(crate) fn runs(&self) -> &[Run<B>] {
        &self.runs
    }

    /// How many messages it has.
    pub(crate) fn message_count(&self) -> usize {
        self.messages
    }

    /// Whether it has messages for more than one list.
    pub(super) fn has_several_lists(&self) -> bool {
        self.last_runs.len() > 1
    }

    /// Whether a list has more than one run.
    pub(crate) fn repeats_a_list(&self) -> bool {
        self.runs.len() > self.last_runs.len()
    }

    /// The name of the list of each run.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> + Clone {
        self.runs.iter().map(|run| run[0].list())
    }

    /// The messages for each list as a batch of its own. Lists may be on different nodes of a cluster.
    pub(super) fn by_list(self) -> impl Iterator<Item = Self> {
        let mut parts: Vec<Self> = Vec::with_capacity(self.last_runs.len());
        let mut places = HashMap::<Box<str>, usize>::with_capacity(self.last_runs.len());
        for run in self.runs {
            let (name, messages) = (run[0].list(), run.len());
            let place = places.get(name).copied().unwrap_or_else(|| {
                places.insert(name.into(), parts.len());
                parts.push(Self { runs: Vec::new(), last_runs: HashMap::from([(name.into(), 0)]), messages: 0 });
                parts.len() - 1
            });
            parts[place].runs.push(run);
            parts[place].messages += messages;
        }
        parts.into_iter()
    }

    /// Sends the messages to `shard`, or in a cluster those for a single list to its server, and reports the outcome
    /// of each. An attempt that cannot have run is repeated as often as configured, but only for the messages that
    /// [wait for the server](Outgoing::waits_for_server); the others fail at once. `on_fault` is called with the fault
    /// and its shard before and after each pause. `on_delay` is called when the messages need more than one attempt on
    /// `shard`.
    pub(crate) async fn send<F: WriteFormat<Body = B>>(
        mut self,
        format: &F,
        places: &Places,
        shard: &Shard,
        on_fault: impl Fn(usize, &Fault),
        on_delay: impl Fn(),
    ) {
        let mut retry = shard.retry();
        while !self.runs.is_empty() {
            let (shard, fault) = match self.attempt(format, places, shard, &on_delay).await {
                (shard, Err(fault)) if !fault.may_have_run => (shard, fault),
                (shard, result) => return self.finish(shard, result),
            };
            self.fail_all_but_waiting(shard, &fault);
            on_fault(shard, &fault);
            on_delay();
            if self.runs.is_empty() || !retry.wait_after(&fault).await {
                return self.finish(shard, Err(fault));
            }
            self.fail_all_but_waiting(shard, &fault);
            on_fault(shard, &fault);
        }
    }

    /// Makes one attempt, which follows redirections. Returns the result and the index of the shard that it is of.
    async fn attempt<F: WriteFormat<Body = B>>(
        &self,
        format: &F,
        places: &Places,
        shard: &Shard,
        on_delay: impl Fn(),
    ) -> (usize, Result<Pushed, Fault>) {
        let mut routing = places.routing(shard, self.runs[0][0].list());
        loop {
            let node = routing.node();
            if node.shard.index != shard.index {
                on_delay();
            }
            let pushed = contained(TASK, format.push(node, self)).await;
            let result = pushed.unwrap_or_else(|| Err(Fault::panicked()));
            if let Err(fault) = &result
                && places.postpones(fault)
            {
                on_delay();
                if routing.follow(fault).await {
                    continue;
                }
            }
            return (node.shard.index, result);
        }
    }

    /// The messages for lists of `shard`, a shard of a cluster, and the others.
    pub(super) fn split_by_home(self, places: &Places, shard: &Shard) -> (Self, Self) {
        let is_here = |run: &Run<B>| places.home(run[0].list()).index == shard.index;
        let (here, elsewhere): (Vec<_>, Vec<_>) = self.runs.into_iter().partition(is_here);
        (here.into_iter().flatten().collect(), elsewhere.into_iter().flatten().collect())
    }

    /// Makes one attempt to send the messages to `shard`, a shard of a cluster, in one call, and reports their
    /// outcomes. Returns those that have to be sent on their own, and whether the server took none: no attempt for them
    /// can have run.
    pub(super) async fn send_together<F: WriteFormat<Body = B>>(self, format: &F, shard: &Shard) -> (Self, bool) {
        let pushed = contained(TASK, format.push_together(Node::owner(shard), &self)).await;
        match pushed.unwrap_or_else(|| Err(Fault::panicked())) {
            Ok(Some(pushed)) => {
                let count = self.messages;
                let rest = self.finish_here(shard.index, pushed);
                let took_none = rest.messages == count;
                (rest, took_none)
            }
            Ok(None) => (self, false),
            Err(fault) if !fault.may_have_run || fault.refuses_script => (self, true),
            Err(fault) => {
                self.finish(shard.index, Err(fault));
                (std::iter::empty().collect(), false)
            }
        }
    }

    /// Reports the outcomes of the messages whose lists are on the server that has answered, and returns the others.
    fn finish_here(self, shard: usize, Pushed { accepted, expired }: Pushed) -> Self {
        let (elsewhere, here): (Vec<_>, Vec<_>) =
            self.runs.into_iter().zip(accepted).partition(|(_, accepted)| *accepted == ELSEWHERE);
        settle_all(here, shard, expired);
        elsewhere.into_iter().flat_map(|(run, _)| run).collect()
    }

    /// Fails all messages except those that wait for the server.
    fn fail_all_but_waiting(&mut self, shard: usize, fault: &Fault) {
        let (kept, others): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.runs).into_iter().flatten().partition(Outgoing::waits_for_server);
        *self = kept.into_iter().collect();
        for message in others {
            message.fail(shard, fault);
        }
    }

    /// Drops messages that are not sent, without outcomes.
    pub(crate) fn forget(self) {
        self.runs.into_iter().flatten().for_each(|message| message.outcome.forget());
    }

    /// Reports the outcome of each message, and counts the messages.
    pub(crate) fn finish(self, shard: usize, result: Result<Pushed, Fault>) {
        match result {
            Ok(Pushed { accepted, expired }) => settle_all(self.runs.into_iter().zip(accepted), shard, expired),
            Err(fault) => self.runs.into_iter().flatten().for_each(|message| message.fail(shard, &fault)),
        }
    }
}

/// Records how many messages a batch had.
pub(crate) fn record_size(messages: usize) {
    update_metric(|| metrics::histogram!("channel_layer_batch_size").record(metric_value(messages)));
}

/// Reports the outcomes of the messages of runs, each with the number of messages that were added, and counts them.
fn settle_all<B>(runs: impl IntoIterator<Item = (Run<B>, i64)>, shard: usize, expired: usize) {
    let sent: usize = runs.into_iter().map(|(run, accepted)| settle(run, shard, accepted)).sum();
    drops::count(DropReason::Expired, expired);
    update_metric(|| metrics::counter!("channel_layer_sent_total").increment(sent as u64));
}

/// Reports the outcomes of the messages of a run. The first `accepted` messages were added. Returns how many that are.
fn settle<B>(run: Run<B>, shard: usize, accepted: i64) -> usize {
    let Ok(accepted) = usize::try_from(accepted) else {
        let reason = format!("the key of channel {} holds no messages", run[0].channel.non_local());
        // The scripts add nothing to such a key.
        let fault = Fault::unexpected(&reason).before_sending();
        for message in run {
            message.fail(shard, &fault);
        }
        return 0;
    };
    let sent = accepted.min(run.len());
    for (place, message) in run.into_iter().enumerate() {
        // A message whose caller dropped its future counts as sent too.
        message.finish(if place < accepted { SendOutcome::Sent } else { SendOutcome::Full });
    }
    sent
}

impl Pushed {
    /// For each run how many of its messages were added, from the first on; -1 if its key holds another type of value.
    pub(crate) fn accepted(&self) -> &[i64] {
        &self.accepted
    }

    /// The answer of a script: a number for each of `runs`, and last how many expired messages were removed.
    pub(crate) fn parse(answer: Value, runs: usize) -> Result<Self, Fault> {
        let unexpected =
            || Fault::unexpected("a script that sends returned something else than a number for each channel");
        let mut accepted: Vec<i64> = redis::from_redis_value(answer).map_err(|_| unexpected())?;
        let expired = accepted.pop().ok_or_else(unexpected)?;
        if accepted.len() != runs {
            return Err(unexpected());
        }
        Ok(Self { accepted, expired: usize::try_from(expired).unwrap_or(0) })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use metrics_util::debugging::DebuggingRecorder;

    use super::*;

    #[test]
    fn a_message_that_a_closed_queue_refuses_counts_as_closed_if_its_caller_is_gone() {
        let recorder = DebuggingRecorder::new();
        let _recording = metrics::set_default_local_recorder(&recorder);
        let channel = "work".parse().expect("the name is valid");
        let message = OutboundMessage { channel, capacity: 1, pinned: false, body: Bytes::new() };
        let (outgoing, outcome) = Outgoing::new(message, ListName::default(), 1, true, None);
        drop(outcome);
        outgoing.refuse();
        assert_eq!(drops::recorded(&recorder), [("closed".to_owned(), 1)]);
    }
}
