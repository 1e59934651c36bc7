//! `MemoryLayer`: the layer of one process.

use std::sync::Arc;
use std::time::Duration;

use channel_layer::MemoryLayer;
use tokio::runtime::{Builder, Runtime};

use super::super::guarantees::Promise;
use super::super::tools::Layer;
use super::{Backend, Options};

/// The guarantees that a layer inside one process lacks.
const ONE_PROCESS: &[Promise] = &[Promise::BetweenProcesses, Promise::Drain];

/// [`MemoryLayer`] with paused time, which advances only when a test says so or when all tasks wait.
pub struct Memory(Layer);

impl Backend for Memory {
    const COLUMN: &'static str = "MemoryLayer";
    const LACKS: &'static [Promise] = ONE_PROCESS;
    // Days pass in these tests. If all tasks wait for an event that never happens, this time passes immediately.
    const LIMIT: Duration = Duration::from_hours(24 * 365);

    async fn start(options: Options) -> Self {
        Self(Arc::new(MemoryLayer::with_config(&options.config()).unwrap()))
    }

    fn layer(&self) -> Layer {
        Arc::clone(&self.0)
    }

    async fn peer(&self) -> Layer {
        self.layer()
    }

    async fn pass(&self, time: Duration) {
        tokio::time::advance(time).await;
    }

    fn runtime() -> Runtime {
        Builder::new_current_thread().enable_all().start_paused(true).build().expect("a runtime starts")
    }

    fn one_thread() -> Runtime {
        Self::runtime()
    }
}

/// [`MemoryLayer`] on several threads, where tasks run in parallel.
pub struct MemoryThreaded(Layer);

impl Backend for MemoryThreaded {
    const COLUMN: &'static str = "MemoryLayer";
    const LACKS: &'static [Promise] = ONE_PROCESS;

    async fn start(options: Options) -> Self {
        Self(Arc::new(MemoryLayer::with_config(&options.config()).unwrap()))
    }

    fn layer(&self) -> Layer {
        Arc::clone(&self.0)
    }

    async fn peer(&self) -> Layer {
        self.layer()
    }
}
