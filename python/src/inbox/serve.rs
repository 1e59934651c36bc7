//! Hands the messages of a channel to the calls of one event loop, on the thread of the loop.

use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Wake, Waker};

use pyo3::Python;

use super::channel::{Channel, ChannelState, Source};
use super::delivery::Delivery;
use crate::bridge::call::CallState;
use crate::bridge::event_loop::LoopCalls;
use crate::core::Core;
use crate::outcome::Outcome;

/// The most calls that are served at once.
const AT_ONCE: usize = 256;

/// Makes a loop serve a channel. The receiver of the channel holds it, so it does not hold the channel.
struct LoopWaker {
    core: Weak<Core>,
    channel: Weak<Channel>,
    calls: Arc<LoopCalls>,
}

impl Wake for LoopWaker {
    fn wake(self: Arc<Self>) {
        if let (Some(core), Some(channel)) = (self.core.upgrade(), self.channel.upgrade()) {
            on_loop(&self.calls, &core, vec![channel]);
        }
    }
}

/// Returns the waker of a poll of the channel by a loop.
pub(super) fn waker(core: &Arc<Core>, channel: &Arc<Channel>, state: &ChannelState, calls: &Arc<LoopCalls>) -> Waker {
    if matches!(state.source, Source::Pump) {
        // The pump wakes the loop.
        return Waker::noop().clone();
    }
    let (core, channel) = (Arc::downgrade(core), Arc::downgrade(channel));
    Arc::new(LoopWaker { core, channel, calls: calls.clone() }).into()
}

/// Makes a loop serve `channels`.
pub(super) fn on_loop(calls: &LoopCalls, core: &Arc<Core>, channels: Vec<Arc<Channel>>) {
    let core = Arc::downgrade(core);
    calls.mailbox.run(move |py, calls| {
        let Some(core) = core.upgrade() else { return };
        for channel in &channels {
            serve(py, calls, &core, channel);
        }
    });
}

/// Hands over messages until there are none, or no call of this loop waits.
fn serve(py: Python<'_>, calls: &Arc<LoopCalls>, core: &Arc<Core>, channel: &Arc<Channel>) {
    loop {
        let mut state = channel.state();
        let own = state.waiters.iter().filter(|waiter| Arc::ptr_eq(&waiter.calls, calls));
        let waiting: Vec<_> = own.take(AT_ONCE).map(|waiter| waiter.call.clone()).collect();
        let may_read = state.queue.is_empty() && matches!(state.source, Source::Receiver(Some(_)));
        let next = if waiting.is_empty() { state.next_loop() } else { None };
        drop(state);
        if waiting.is_empty() {
            // The rest is for another loop.
            if let Some(next) = next {
                on_loop(&next, core, vec![channel.clone()]);
            }
            return;
        }
        // A call that was cancelled takes no message. Its task has not run yet, or the call would not be here.
        let (live, cancelled): (Vec<_>, Vec<_>) =
            waiting.into_iter().partition(|call| calls.is_waiting(py, call.number));
        let take = || take(core, channel, calls, &live, &cancelled);
        // A receiver may write to a socket, and decode messages.
        let Some(completed) = (if may_read { py.detach(take) } else { take() }) else {
            return;
        };
        for number in completed {
            calls.complete(py, number);
        }
    }
}

/// Completes calls among `live`, and returns their numbers; `None` if there is no message.
fn take(
    core: &Arc<Core>,
    channel: &Arc<Channel>,
    calls: &Arc<LoopCalls>,
    live: &[Arc<CallState>],
    cancelled: &[Arc<CallState>],
) -> Option<Vec<u64>> {
    let mut state = channel.state();
    for call in cancelled {
        state.remove_waiter(call.number);
    }
    if live.is_empty() {
        return Some(Vec::new());
    }
    let _inside = core.runtime.enter();
    let waker = waker(core, channel, &state, calls);
    let polled = state.poll_take(&mut Context::from_waker(&waker), live.len(), &core.inbox.stamps);
    let Poll::Ready(result) = polled else {
        return None;
    };
    let results = match result {
        Ok(held) => held.into_iter().map(|held| Ok(Outcome::Message(Delivery::new(core, channel, held)))).collect(),
        Err(error) => vec![Err(Arc::new(error))],
    };
    let completed: Vec<_> = live.iter().zip(results).collect();
    for (call, _) in &completed {
        state.remove_waiter(call.number);
    }
    drop(state);
    // Without the lock: the message of a call that another thread has ended returns to the channel.
    let complete = |(call, result): (&Arc<CallState>, _)| {
        call.complete(result);
        call.number
    };
    Some(completed.into_iter().map(complete).collect())
}
