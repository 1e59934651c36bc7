//! The tokio runtime of a process, and values that belong to one process.
//!
//! A fork copies the memory of a process, and only the thread that forks. A runtime and everything that runs on it is
//! dead in the child: a thread that no longer exists may hold a lock, and the parent still uses the sockets. A child
//! therefore never uses such a value, and never drops it.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::Mutex;
use tokio::runtime::{Builder, Runtime};

/// The id of this process, so that a call need not ask the system for it. The hook that Python runs in the child of a
/// fork renews it.
static PROCESS: AtomicU32 = AtomicU32::new(0);

/// Stores the id of this process, when the module is loaded and in the child of a fork.
pub(crate) fn enter_process() {
    PROCESS.store(std::process::id(), Ordering::Relaxed);
}

/// Returns the id of this process.
pub(crate) fn process() -> u32 {
    PROCESS.load(Ordering::Relaxed)
}

/// The runtime and the id of its process. Locked only by threads that hold the GIL. The thread that forks holds the GIL
/// too, so the lock is free in the child.
static RUNTIME: Mutex<Option<(u32, &'static Runtime)>> = Mutex::new(None);

/// Returns the runtime of this process, which is created on first use and lives as long as the process.
///
/// It has one thread: the work is input, output and encryption, and more threads would mostly wake each other.
pub(crate) fn runtime() -> io::Result<&'static Runtime> {
    let mut current = RUNTIME.lock();
    if let Some((of, runtime)) = *current
        && of == process()
    {
        return Ok(runtime);
    }
    let runtime = Builder::new_multi_thread().worker_threads(1).thread_name("channel-layer").enable_all().build()?;
    // Never dropped: a drop waits for the threads of the runtime, which do not exist in a child.
    let runtime: &'static Runtime = Box::leak(Box::new(runtime));
    *current = Some((process(), runtime));
    Ok(runtime)
}

/// A value that only the process that created it may use or drop. In any other process it is leaked.
pub(crate) struct PerProcess<T> {
    process: u32,
    /// `None` only during the drop.
    value: Option<T>,
}

impl<T> PerProcess<T> {
    pub(crate) fn new(value: T) -> Self {
        Self { process: process(), value: Some(value) }
    }

    /// Returns the value, or `None` if another process created it.
    pub(crate) fn get(&self) -> Option<&T> {
        self.value.as_ref().filter(|_| self.is_own())
    }

    /// Takes the value out, if this process created it.
    pub(crate) fn into_inner(mut self) -> Option<T> {
        if self.is_own() { self.value.take() } else { None }
    }

    fn is_own(&self) -> bool {
        self.process == process()
    }
}

impl<T> Drop for PerProcess<T> {
    fn drop(&mut self) {
        if !self.is_own() {
            std::mem::forget(self.value.take());
        }
    }
}
