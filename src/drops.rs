//! Counters of messages, above all of undelivered ones, so that no message is lost silently.
//!
//! The recorder of metrics is foreign code. A panic of it costs the count, and nothing else.

use tokio::sync::oneshot;

use crate::error::{Error, Result};
use crate::supervise::update_metric;

/// Why a message was not delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DropReason {
    /// The message waited longer than the layer's expiry.
    Expired,
    /// A channel was full, and no caller waited for the error.
    Full,
    /// The queue of a slow reader was full, on a layer that cannot refuse a message for that.
    Overflow,
    /// No reader was subscribed when the message was published.
    NoReader,
    /// The connection broke during the send, and the message may have arrived or not.
    Unconfirmed,
    /// No configured key opens the message.
    Undecryptable,
    /// The bytes are no valid message, or the message does not belong to its channel.
    Undecodable,
    /// The layer was closed while the message waited in the memory of this process, or before it was sent.
    Closed,
    /// The bytes are a message, but not one that its reader accepts.
    Malformed,
    /// A server failed: a send whose caller is gone, a part of a group send that sent other parts, a put-back, the
    /// lookup of the members of a group, or the fetch of a message whose key was taken. Also a group send whose caller
    /// was gone before the members were known, a message that exceeded the room for those that wait for the server of
    /// their group, and a message that a reader held when its runtime ended.
    ShardDown,
    /// A worker was stopped before its handler started, and the message could not be requeued. A delay server counts a
    /// message that it could neither send nor requeue.
    Stopped,
}

impl DropReason {
    /// Returns the drop reason of a message whose send failed: `Unconfirmed` if the send may have run.
    pub(crate) fn of_failed(may_have_run: bool) -> Self {
        if may_have_run { Self::Unconfirmed } else { Self::ShardDown }
    }

    /// Returns the drop reason of a message that was taken from its channel and cannot be sent because of `error`.
    pub(crate) fn of_taken(error: &Error) -> Self {
        match Self::of(error) {
            Some(reason @ (Self::Full | Self::Unconfirmed)) => reason,
            _ => Self::Stopped,
        }
    }

    /// Returns the drop reason of a message whose send failed with `error`. `None` for a mistake of the caller: the
    /// layer never had the message.
    fn of(error: &Error) -> Option<Self> {
        match error {
            Error::ChannelFull { .. } => Some(Self::Full),
            Error::Closed | Error::RuntimeEnded => Some(Self::Closed),
            Error::Redis { .. } | Error::Panicked => Some(Self::of_failed(error.may_have_run())),
            _ => None,
        }
    }
}

/// The value of the metric's label `reason`.
impl From<DropReason> for &'static str {
    fn from(reason: DropReason) -> Self {
        match reason {
            DropReason::Expired => "expired",
            DropReason::Full => "full",
            DropReason::Overflow => "overflow",
            DropReason::NoReader => "no_reader",
            DropReason::Unconfirmed => "unconfirmed",
            DropReason::Undecryptable => "undecryptable",
            DropReason::Undecodable => "undecodable",
            DropReason::Closed => "closed",
            DropReason::Malformed => "malformed",
            DropReason::ShardDown => "shard_down",
            DropReason::Stopped => "stopped",
        }
    }
}

/// The outcome of a message for its caller. A caller that drops its future never [reads](Self::read) the outcome; if
/// the message was not sent, it then counts as dropped.
pub(crate) struct CountedIfUnread<T> {
    outcome: T,
    dropped: CountOnDrop,
}

/// Counts one message as dropped for the reason.
struct CountOnDrop(Option<DropReason>);

impl<T> CountedIfUnread<T> {
    /// `outcome` of a message that counts as dropped for `reason` if its caller does not read the outcome. A message
    /// that was sent has no reason.
    pub(crate) fn new(outcome: T, reason: Option<DropReason>) -> Self {
        Self { outcome, dropped: CountOnDrop(reason) }
    }

    pub(crate) fn read(self) -> T {
        let Self { outcome, mut dropped } = self;
        dropped.0 = None;
        outcome
    }

    pub(crate) fn outcome(&self) -> &T {
        &self.outcome
    }

    pub(crate) fn map<U>(self, change: impl FnOnce(T) -> U) -> CountedIfUnread<U> {
        CountedIfUnread { outcome: change(self.outcome), dropped: self.dropped }
    }

    /// Separates the outcome from the count.
    pub(crate) fn split(self) -> (T, CountedIfUnread<()>) {
        (self.outcome, CountedIfUnread { outcome: (), dropped: self.dropped })
    }
}

impl<T> CountedIfUnread<Option<T>> {
    /// The outcome if there is one. The caller reads that there is none.
    pub(crate) fn into_option(self) -> Option<CountedIfUnread<T>> {
        let Self { outcome, mut dropped } = self;
        if outcome.is_none() {
            dropped.0 = None;
        }
        outcome.map(|outcome| CountedIfUnread { outcome, dropped })
    }
}

impl CountedIfUnread<Result<()>> {
    /// The result of a send.
    pub(crate) fn of_send(result: Result<()>) -> Self {
        let reason = result.as_ref().err().and_then(DropReason::of);
        Self::new(result, reason)
    }

    /// The result of a group send. If the call may have run, its layer has counted the members that it may have missed.
    pub(crate) fn of_group_send(result: Result<()>) -> Self {
        let reason = result.as_ref().err().filter(|error| !error.may_have_run()).and_then(DropReason::of);
        Self::new(result, reason)
    }
}

/// The number of messages that a call has yet to send. If the call is dropped, they count as dropped.
pub(crate) struct Unsent(pub(crate) usize);

impl Drop for Unsent {
    fn drop(&mut self) {
        count(DropReason::ShardDown, self.0);
    }
}

impl Drop for CountOnDrop {
    fn drop(&mut self) {
        if let Some(reason) = self.0 {
            count(reason, 1);
        }
    }
}

/// The receiver of the outcome of a message, which is `None` if there is none.
pub(crate) type OutcomeReceiver<T> = oneshot::Receiver<CountedIfUnread<Option<T>>>;

/// The sender of the outcome of a message to its caller. When it is dropped, because its task has panicked or ended
/// with its runtime, it sends that there is no outcome. If the caller does not read that, the message counts as
/// [unconfirmed](DropReason::Unconfirmed).
pub(crate) struct OutcomeSender<T>(Option<oneshot::Sender<CountedIfUnread<Option<T>>>>);

impl<T> OutcomeSender<T> {
    pub(crate) fn new() -> (Self, OutcomeReceiver<T>) {
        let (sender, receiver) = oneshot::channel();
        (Self(Some(sender)), receiver)
    }

    pub(crate) fn send(mut self, outcome: CountedIfUnread<T>) {
        let CountedIfUnread { outcome, dropped } = outcome;
        self.finish(CountedIfUnread { outcome: Some(outcome), dropped });
    }

    /// Drops the sender of a message that is not sent. The message counts elsewhere.
    pub(crate) fn forget(mut self) {
        self.0 = None;
    }

    /// Whether the caller has dropped its future.
    pub(crate) fn is_closed(&self) -> bool {
        self.0.as_ref().is_none_or(oneshot::Sender::is_closed)
    }

    fn finish(&mut self, outcome: CountedIfUnread<Option<T>>) {
        if let Some(sender) = self.0.take() {
            let _ = sender.send(outcome);
        }
    }
}

impl<T> Drop for OutcomeSender<T> {
    fn drop(&mut self) {
        if self.0.is_some() {
            self.finish(CountedIfUnread::new(None, Some(DropReason::Unconfirmed)));
        }
    }
}

/// Counts `messages` as dropped for a reason.
pub(crate) fn count(reason: impl Into<&'static str>, messages: usize) {
    let reason = reason.into();
    if messages > 0 {
        update_metric(|| {
            metrics::counter!("channel_layer_dropped_total", "reason" => reason).increment(messages as u64);
        });
    }
}

/// Counts `messages` as received. The caller has them already.
pub(crate) fn count_received(messages: usize) {
    update_metric(|| metrics::counter!("channel_layer_received_total").increment(messages as u64));
}

/// The messages that `recorder` has counted as dropped, by reason.
#[cfg(test)]
pub(crate) fn recorded(recorder: &metrics_util::debugging::DebuggingRecorder) -> Vec<(String, u64)> {
    use metrics_util::debugging::DebugValue;

    let counted = recorder.snapshotter().snapshot().into_vec();
    let dropped = counted.into_iter().filter_map(|(key, _, _, value)| match value {
        DebugValue::Counter(count) if key.key().name() == "channel_layer_dropped_total" => {
            Some((key.key().labels().next()?.value().to_owned(), count))
        }
        _ => None,
    });
    dropped.collect()
}

/// Messages that have been dropped and are not counted yet. The recorder of metrics is foreign code, so they are
/// counted outside of locks.
#[derive(Debug, Default)]
pub(crate) struct Drops(Vec<(DropReason, usize)>);

impl Drops {
    /// Adds `messages` that were dropped for `reason`.
    pub(crate) fn add(&mut self, reason: DropReason, messages: usize) {
        match self.0.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, count)) => *count += messages,
            None if messages == 0 => {}
            None => self.0.push((reason, messages)),
        }
    }

    /// Adds all of `other`.
    pub(crate) fn append(&mut self, other: Self) {
        other.0.into_iter().for_each(|(reason, messages)| self.add(reason, messages));
    }

    /// Counts them.
    pub(crate) fn count(self) {
        self.0.into_iter().for_each(|(reason, messages)| count(reason, messages));
    }
}

#[cfg(test)]
mod tests {
    use metrics_util::debugging::DebuggingRecorder;

    use super::*;

    #[test]
    fn a_message_without_outcome_counts_as_unconfirmed_unless_its_caller_learns_it() {
        let recorder = DebuggingRecorder::new();
        let _recording = metrics::set_default_local_recorder(&recorder);
        let (abandoned, waiting) = OutcomeSender::<()>::new();
        drop(abandoned);
        assert!(waiting.blocking_recv().unwrap().into_option().is_none());
        let (forgotten, caller) = OutcomeSender::<()>::new();
        drop(caller);
        forgotten.forget();
        assert_eq!(recorded(&recorder), []);
        for caller_first in [true, false] {
            let (abandoned, caller) = OutcomeSender::<()>::new();
            if caller_first {
                drop(caller);
                drop(abandoned);
            } else {
                drop(abandoned);
                drop(caller);
            }
            assert_eq!(recorded(&recorder), [("unconfirmed".to_owned(), 1)], "{caller_first}");
        }
    }
}
