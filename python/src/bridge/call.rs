//! `Call`: the awaitable of a call of a layer.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use channel_layer::Error;
use parking_lot::Mutex;
use pyo3::exceptions::{PyRuntimeError, PyStopIteration};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyType;
use tokio::runtime::Runtime;

use super::event_loop::{self, LoopCalls};
use crate::errors;
use crate::outcome::Outcome;
use crate::runtime::{PerProcess, runtime};

/// The result of a call.
pub(crate) type CallResult = Result<Outcome, Arc<Error>>;

type CallFuture = Pin<Box<dyn Future<Output = CallResult> + Send>>;

/// Ends a call whose result is no longer wanted.
pub(crate) type Cancel = Box<dyn FnOnce() + Send>;

/// Returns a number that this process has not used before.
pub(super) fn next_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A call without a result, or with a result that the caller has not taken. Shared by the awaitable and by the thread
/// that has the result.
pub(crate) struct CallState {
    pub(crate) number: u64,
    phase: Mutex<Phase>,
}

enum Phase {
    /// With the function that ends the call.
    Waiting(Option<Cancel>),
    Completed(Box<CallResult>),
    /// The result was taken, or the call was cancelled.
    Ended,
}

/// How a call has begun.
pub(crate) enum Begun {
    Complete(CallResult),
    /// With the function that ends the call.
    Waiting(Cancel),
}

impl CallState {
    /// Stores the result, unless the call was cancelled. The caller then completes the future of the call.
    pub(crate) fn complete(&self, result: CallResult) {
        let mut phase = self.phase.lock();
        if matches!(*phase, Phase::Waiting(_)) {
            let previous = std::mem::replace(&mut *phase, Phase::Completed(Box::new(result)));
            drop(phase);
            drop(previous);
        }
    }

    /// Sets how the call is cancelled, unless it has ended.
    fn on_cancel(&self, cancel: Cancel) {
        if let Phase::Waiting(slot) = &mut *self.phase.lock() {
            *slot = Some(cancel);
        }
    }

    /// Ends the call. Drops the result if there is one: a message then goes back to its channel.
    fn cancel(&self) {
        let previous = std::mem::replace(&mut *self.phase.lock(), Phase::Ended);
        if let Phase::Waiting(Some(cancel)) = previous {
            cancel();
        }
    }

    fn take(&self) -> Option<CallResult> {
        let mut phase = self.phase.lock();
        match std::mem::replace(&mut *phase, Phase::Ended) {
            Phase::Completed(result) => Some(*result),
            other => {
                *phase = other;
                None
            }
        }
    }
}

/// The awaitable of a call. Await it once, on the loop on which it was made.
///
/// A call that is cancelled, closed or dropped ends the work behind it.
#[pyclass(frozen, module = "channel_layer._native")]
pub(crate) struct Call {
    state: PerProcess<Arc<CallState>>,
    /// `None` for a call that was complete at once.
    waiting: Option<Waiting>,
}

/// The future of a call, and the loop that completes it.
struct Waiting {
    future: Py<PyAny>,
    calls: PerProcess<Arc<LoopCalls>>,
}

impl Call {
    /// Starts `future`. It is polled once on this thread: the work begins without a change of threads, and a future
    /// that is ready needs none. Otherwise it goes on in the runtime.
    pub(crate) fn start<F>(py: Python<'_>, future: F) -> PyResult<Self>
    where
        F: Future<Output = Result<Outcome, Error>> + Send + 'static,
    {
        Self::begin(py, |py, state, calls, runtime| {
            let mut future: CallFuture = Box::pin(async { future.await.map_err(Arc::new) });
            // The task polls again, with its own waker.
            let polled = py.detach(|| future.as_mut().poll(&mut Context::from_waker(Waker::noop())));
            if let Poll::Ready(result) = polled {
                return Begun::Complete(result);
            }
            let completion = Completion { state: state.clone(), calls: calls.clone() };
            let task = runtime.spawn(async move { completion.state.complete(future.await) });
            Begun::Waiting(Box::new(move || task.abort()))
        })
    }

    /// Starts what `begin` does, inside the runtime.
    pub(crate) fn begin(
        py: Python<'_>,
        begin: impl FnOnce(Python<'_>, &Arc<CallState>, &Arc<LoopCalls>, &Runtime) -> Begun,
    ) -> PyResult<Self> {
        // The loop comes first: without one the call fails before it has done anything.
        let (calls, event_loop) = event_loop::running(py)?;
        let runtime = runtime()?;
        let state = Arc::new(CallState { number: next_number(), phase: Mutex::new(Phase::Waiting(None)) });
        let _inside = runtime.enter();
        let waiting = match begin(py, &state, &calls, runtime) {
            Begun::Complete(result) => {
                state.complete(result);
                None
            }
            Begun::Waiting(cancel) => {
                // A result cannot have reached the future before: this thread would have to set it.
                state.on_cancel(cancel);
                let future = event_loop.call_method0(intern!(py, "create_future"))?.unbind();
                calls.wait(state.number, future.clone_ref(py));
                Some(Waiting { future, calls: PerProcess::new(calls) })
            }
        };
        Ok(Self { state: PerProcess::new(state), waiting })
    }

    /// Ends the call. A message that it had received goes back to its channel.
    fn end(&self) {
        if let Some(calls) = self.waiting.as_ref().and_then(|waiting| waiting.calls.get())
            && let Some(state) = self.state.get()
        {
            calls.forget(state.number);
            state.cancel();
        }
    }
}

#[pymethods]
impl Call {
    fn __await__(this: PyRef<'_, Self>) -> PyRef<'_, Self> {
        this
    }

    fn __iter__(this: PyRef<'_, Self>) -> PyRef<'_, Self> {
        this
    }

    /// Yields the future to the task that awaits, until there is a result.
    fn __next__(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let Some(state) = self.state.get() else {
            return Err(PyRuntimeError::new_err("the call was made before the process forked"));
        };
        match state.take() {
            Some(Ok(outcome)) => Err(PyStopIteration::new_err((outcome.into_python(py)?,))),
            Some(Err(error)) => Err(errors::raised(py, &error)),
            None => match &self.waiting {
                Some(Waiting { future, .. }) => {
                    future.setattr(py, intern!(py, "_asyncio_future_blocking"), true)?;
                    Ok(future.clone_ref(py))
                }
                None => Err(PyRuntimeError::new_err("the call has been awaited before")),
            },
        }
    }

    /// Resumes the call, as a generator is resumed.
    fn send(&self, py: Python<'_>, _value: Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        self.__next__(py)
    }

    /// Cancels the call and raises the exception.
    #[pyo3(signature = (kind, value = None, traceback = None))]
    fn throw(
        &self,
        py: Python<'_>,
        kind: Bound<'_, PyAny>,
        value: Option<Bound<'_, PyAny>>,
        traceback: Option<Bound<'_, PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        self.end();
        let raised = match value.filter(|value| !value.is_none()) {
            Some(value) => value,
            None if kind.is_instance_of::<PyType>() => kind.call0()?,
            None => kind,
        };
        if let Some(traceback) = traceback.filter(|traceback| !traceback.is_none()) {
            raised.call_method1(intern!(py, "with_traceback"), (traceback,))?;
        }
        Err(PyErr::from_value(raised))
    }

    /// Cancels the call.
    fn close(&self) {
        self.end();
    }

    /// A future refers to the task that awaits it, and the task to this call. The others of such a cycle break it.
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.waiting.as_ref().map_or(Ok(()), |waiting| visit.call(&waiting.future))
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        // A coroutine that is collected without an exception drops its call.
        self.end();
    }
}

/// Reports the end of a task, also if the task panics or is aborted.
struct Completion {
    state: Arc<CallState>,
    calls: Arc<LoopCalls>,
}

impl Drop for Completion {
    fn drop(&mut self) {
        // A result that is there stays.
        self.state.complete(Err(Arc::new(Error::Panicked)));
        self.calls.completed(self.state.number);
    }
}
