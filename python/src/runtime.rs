//! The tokio runtime of a process, and values that belong to one process.
//!
//! A fork copies the memory of a process, and only the thread that forks. A runtime and everything that runs on it is
//! dead in the child: a thread that no longer exists may hold a lock, and the parent still uses the sockets. A child
//! therefore never uses such a value, and never drops it.

use std::io;

use parking_lot::Mutex;
use tokio::runtime::{Builder, Runtime};

/// The runtime and the id of its process. Locked only by threads that hold the GIL. The thread that forks holds the GIL
/// too, so the lock is free in the child.
static RUNTIME: Mutex<Option<(u32, &'static Runtime)>> = Mutex::new(None);

/// Returns the runtime of this process, which is created on first use and lives as long as the process.
///
/// It has one thread: the work is input, output and encryption, and more threads would mostly wake each other.
pub(crate) fn runtime() -> io::Result<&'static Runtime> {
    let mut current = RUNTIME.lock();
    if let Some((process, runtime)) = *current
        && process == std::process::id()
    {
        return Ok(runtime);
    }
    let runtime = Builder::new_multi_thread().worker_threads(1).thread_name("channel-layer").enable_all().build()?;
    // Never dropped: a drop waits for the threads of the runtime, which do not exist in a child.
    let runtime: &'static Runtime = Box::leak(Box::new(runtime));
    *current = Some((std::process::id(), runtime));
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
        Self { process: std::process::id(), value: Some(value) }
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
        self.process == std::process::id()
    }
}

impl<T> Drop for PerProcess<T> {
    fn drop(&mut self) {
        if !self.is_own() {
            std::mem::forget(self.value.take());
        }
    }
}
