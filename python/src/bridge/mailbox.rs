//! `Mailbox`: what other threads have for an event loop.

use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

use parking_lot::Mutex;
use pyo3::Python;

use super::event_loop::LoopCalls;
use super::wake::WakeFd;

/// A function that runs on the thread of an event loop.
type OnLoop = Box<dyn FnOnce(Python<'_>, &Arc<LoopCalls>) + Send>;

/// What an event loop has to do.
pub(crate) enum Entry {
    /// Complete the future of a call, whose result is in the state of the call.
    Completed(u64),
    Run(OnLoop),
}

/// The queue of an event loop. It holds no reference to a Python object, so any thread may drop it.
pub(crate) struct Mailbox {
    /// Locked for a push or a take, never while Python runs.
    state: Mutex<State>,
}

struct State {
    entries: Vec<Entry>,
    /// `None` when the loop has closed.
    wake: Option<WakeFd>,
}

impl Mailbox {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { state: Mutex::new(State { entries: Vec::new(), wake: Some(WakeFd::new()?) }) })
    }

    /// Adds an entry, and wakes the loop unless a wake is under way. Drops the entry if the loop has closed.
    pub(crate) fn push(&self, entry: Entry) {
        let mut state = self.state.lock();
        let is_first = state.entries.is_empty();
        let Some(wake) = &state.wake else { return };
        if is_first {
            wake.wake();
        }
        state.entries.push(entry);
    }

    /// Adds a function for the thread of the loop.
    pub(crate) fn run(&self, function: impl FnOnce(Python<'_>, &Arc<LoopCalls>) + Send + 'static) {
        self.push(Entry::Run(Box::new(function)));
    }

    /// Whether the loop has closed, so that nothing is taken any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.state.lock().wake.is_none()
    }

    /// Takes all entries. The next push wakes the loop again.
    pub(super) fn take(&self) -> Vec<Entry> {
        let mut state = self.state.lock();
        if let Some(wake) = &state.wake {
            wake.clear();
        }
        std::mem::take(&mut state.entries)
    }

    /// Drops the entries, and closes the file descriptor.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        let closed = (std::mem::take(&mut state.entries), state.wake.take());
        drop(state);
        drop(closed);
    }

    /// The descriptor that is readable while there are entries; `None` if the loop has closed.
    pub(super) fn fd(&self) -> Option<RawFd> {
        self.state.lock().wake.as_ref().map(WakeFd::fd)
    }
}
