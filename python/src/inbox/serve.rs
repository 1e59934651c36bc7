//! Hands the messages of a channel to the calls of one event loop, on the thread of the loop.

use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use pyo3::Python;

use super::delivery::Delivery;
use super::entry::{Entry, Source};
use super::state::{State, waker};
use crate::bridge::call::CallState;
use crate::bridge::event_loop::LoopCalls;
use crate::core::Core;
use crate::outcome::Outcome;

/// The most calls that are served at once.
const AT_ONCE: usize = 256;

/// Makes a loop serve `channels`.
pub(crate) fn on_loop(calls: &LoopCalls, core: Weak<Core>, channels: Vec<Arc<str>>) {
    calls.mailbox.run(move |py, calls| {
        let Some(core) = core.upgrade() else { return };
        for channel in &channels {
            serve(py, calls, &core, channel);
        }
    });
}

/// Hands over messages until there are none, or no call of this loop waits.
fn serve(py: Python<'_>, calls: &Arc<LoopCalls>, core: &Arc<Core>, channel: &Arc<str>) {
    loop {
        let (waiting, may_read) = waiting_calls(core, channel, calls);
        if waiting.is_empty() {
            break;
        }
        // A call that was cancelled takes no message. Its task has not run yet, or it would have left the queue.
        let (live, cancelled): (Vec<_>, Vec<_>) =
            waiting.into_iter().partition(|call| calls.is_waiting(py, call.number));
        let take = || take(core, channel, calls, &live, &cancelled);
        // A receiver may write to a socket and decode messages.
        let Some(completed) = (if may_read { py.detach(take) } else { take() }) else { break };
        for number in completed {
            calls.complete(py, number);
        }
    }
    pass_on(core, channel, calls);
}

fn waiting_calls(core: &Core, channel: &str, calls: &Arc<LoopCalls>) -> (Vec<Arc<CallState>>, bool) {
    let state = core.inbox.state();
    let Some(entry) = state.entries.get(channel) else { return (Vec::new(), false) };
    let own = entry.waiters.iter().filter(|waiter| Arc::ptr_eq(&waiter.calls, calls));
    let may_read = entry.queue.is_empty() && matches!(entry.source, Source::Receiver(Some(_)));
    (own.take(AT_ONCE).map(|waiter| waiter.call.clone()).collect(), may_read)
}

/// Completes calls among `live`, and returns their numbers; `None` if there is no message.
fn take(
    core: &Arc<Core>,
    channel: &Arc<str>,
    calls: &Arc<LoopCalls>,
    live: &[Arc<CallState>],
    cancelled: &[Arc<CallState>],
) -> Option<Vec<u64>> {
    let _inside = core.runtime.enter();
    let mut state = core.inbox.state();
    let State { entries, numbers, .. } = &mut *state;
    let entry = entries.get_mut(channel)?;
    for call in cancelled {
        entry.remove_waiter(call.number);
    }
    if live.is_empty() {
        return Some(Vec::new());
    }
    let waker = waker(core, channel, calls);
    let Poll::Ready(result) = entry.poll_take(&mut Context::from_waker(&waker), live.len(), numbers) else {
        return None;
    };
    let results = match result {
        Ok(held) => {
            held.into_iter().map(|held| Ok(Outcome::Message(Delivery::new(core, channel.clone(), held)))).collect()
        }
        Err(error) => vec![Err(Arc::new(error))],
    };
    let completed: Vec<_> = live.iter().zip(results).collect();
    for (call, _) in &completed {
        entry.remove_waiter(call.number);
    }
    drop(state);
    // A call that another thread has ended gives its message back, which locks the inbox.
    let complete = |(call, result): (&Arc<CallState>, _)| {
        call.complete(result);
        call.number
    };
    Some(completed.into_iter().map(complete).collect())
}

/// Leaves the rest to the next loop that waits for the channel.
fn pass_on(core: &Arc<Core>, channel: &Arc<str>, calls: &Arc<LoopCalls>) {
    let mut state = core.inbox.state();
    let next = state.entries.get_mut(channel).and_then(Entry::next_loop);
    state.remove_unused(channel);
    drop(state);
    if let Some(next) = next.filter(|next| !Arc::ptr_eq(next, calls)) {
        on_loop(&next, Arc::downgrade(core), vec![channel.clone()]);
    }
}
