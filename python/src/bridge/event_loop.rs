//! `Bridge`: the side of an event loop, which completes the futures of calls.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyWeakrefMethods, PyWeakrefReference};

use super::mailbox::{Entry, Mailbox};
use crate::runtime::PerProcess;

/// The bridge of each open loop, by the address of the loop. Locked only by threads that hold the GIL.
///
/// A loop owns its bridge, as the callback of a reader. It drops the callback when it closes, and the bridge removes
/// itself here. So an address in this map is that of an open loop.
static BRIDGES: Mutex<Option<HashMap<usize, Py<PyWeakrefReference>>>> = Mutex::new(None);

/// The calls of an event loop that wait for results from other threads.
pub(crate) struct LoopCalls {
    pub(crate) mailbox: Mailbox,
    /// The futures by the numbers of their calls. Locked only by threads that hold the GIL, and never while Python
    /// runs.
    futures: Mutex<HashMap<u64, Py<PyAny>>>,
    /// What the handler of a signal raised while a future was completed, as `KeyboardInterrupt`.
    raised: Mutex<Option<PyErr>>,
}

/// What an event loop runs when other threads have something for it.
#[pyclass(frozen, weakref, module = "channel_layer._native")]
pub(crate) struct Bridge {
    calls: PerProcess<Arc<LoopCalls>>,
    /// The address of the loop.
    key: usize,
}

/// Returns the calls of the running loop, and the loop. The first call registers the loop.
pub(crate) fn running(py: Python<'_>) -> PyResult<(Arc<LoopCalls>, Bound<'_, PyAny>)> {
    static RUNNING: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let event_loop = RUNNING.import(py, "asyncio", "get_running_loop")?.call0()?;
    let key = event_loop.as_ptr() as usize;
    let found = BRIDGES.lock().as_ref().and_then(|bridges| Some(bridges.get(&key)?.clone_ref(py)));
    let bridge = found.and_then(|bridge| bridge.bind(py).upgrade_as::<Bridge>().ok().flatten());
    // The bridge of a parent process is replaced.
    if let Some(calls) = bridge.and_then(|bridge| bridge.get().calls.get().cloned()) {
        return Ok((calls, event_loop));
    }
    let calls = Arc::new(LoopCalls { mailbox: Mailbox::new()?, futures: Mutex::default(), raised: Mutex::default() });
    let fd = calls.mailbox.fd();
    let bridge = Bound::new(py, Bridge { calls: PerProcess::new(calls.clone()), key })?;
    event_loop.call_method1(intern!(py, "add_reader"), (fd, bridge.getattr(intern!(py, "drain"))?))?;
    let reference = PyWeakrefReference::new(&bridge)?.unbind();
    let replaced = BRIDGES.lock().get_or_insert_default().insert(key, reference);
    drop(replaced);
    Ok((calls, event_loop))
}

impl LoopCalls {
    /// Reports from any thread that the state of a call has its result.
    pub(crate) fn completed(&self, number: u64) {
        self.mailbox.push(Entry::Completed(number));
    }

    /// Adds the future of the call with this number.
    pub(super) fn wait(&self, number: u64, future: Py<PyAny>) {
        self.futures.lock().insert(number, future);
    }

    /// Removes the future of a call.
    pub(super) fn forget(&self, number: u64) {
        let forgotten = self.futures.lock().remove(&number);
        drop(forgotten);
    }

    /// Whether the future of this call waits for a result. A future that was cancelled does not.
    pub(crate) fn is_waiting(&self, py: Python<'_>, number: u64) -> bool {
        let future = self.futures.lock().get(&number).map(|future| future.clone_ref(py));
        future.is_some_and(|future| is_pending(future.bind(py)))
    }

    /// Completes the future of a call, if it still waits. The result is in the state of the call.
    pub(crate) fn complete(&self, py: Python<'_>, number: u64) {
        let future = self.futures.lock().remove(&number);
        let Some(future) = future.map(|future| future.into_bound(py)) else {
            return;
        };
        if is_pending(&future)
            && let Err(error) = future.call_method1(intern!(py, "set_result"), (py.None(),))
        {
            self.raised.lock().get_or_insert(error);
        }
    }
}

/// Whether a future has no result and was not cancelled.
fn is_pending(future: &Bound<'_, PyAny>) -> bool {
    let done = future.call_method0(intern!(future.py(), "done"));
    done.and_then(|done| done.extract()).is_ok_and(|done: bool| !done)
}

#[pymethods]
impl Bridge {
    /// Does what other threads have added. The loop calls this when the descriptor is readable.
    fn drain(&self, py: Python<'_>) -> PyResult<()> {
        let Some(calls) = self.calls.get() else {
            return Ok(());
        };
        for entry in calls.mailbox.take() {
            match entry {
                Entry::Completed(number) => calls.complete(py, number),
                Entry::Run(function) => function(py, calls),
            }
        }
        // After all entries, so that no other call hangs.
        calls.raised.lock().take().map_or(Ok(()), Err)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // A collector that runs while the map is locked visits the futures the next time.
        if let Some(futures) = self.calls.get().and_then(|calls| calls.futures.try_lock()) {
            futures.values().try_for_each(|future| visit.call(future))?;
        }
        Ok(())
    }

    fn __clear__(&self) {
        let cleared = self.calls.get().map(|calls| std::mem::take(&mut *calls.futures.lock()));
        drop(cleared);
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        // In a child the loop of the parent is registered anew, under the same address.
        let Some(calls) = self.calls.get() else {
            return;
        };
        let removed = BRIDGES.lock().as_mut().and_then(|bridges| bridges.remove(&self.key));
        drop(removed);
        calls.mailbox.close();
        let futures = std::mem::take(&mut *calls.futures.lock());
        drop(futures);
    }
}
