//! Type-erased backends, so that each test is compiled once instead of once per layer.

use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use tokio::runtime::Runtime;

use super::super::guarantees::Promise;
use super::super::tools::Layer;
use super::{Backend, Options};
use crate::support::within;

/// A layer that tests can start, with its properties.
pub struct Kind {
    /// Its column in the table in docs/guarantees.md.
    pub column: &'static str,
    lacks: &'static [Promise],
    /// Whether a flush can succeed.
    pub flushes: bool,
    /// As [`Backend::LIKE_PYTHON`].
    pub like_python: bool,
    limit: Duration,
    start: fn(Options) -> LocalBoxFuture<'static, Started>,
    runtime: fn() -> Runtime,
    one_thread: fn() -> Runtime,
}

impl Kind {
    pub fn of<B: Backend>() -> Self {
        let start = |options| -> LocalBoxFuture<'static, Started> {
            Box::pin(async { Started(Box::new(B::start(options).await)) })
        };
        let (column, lacks, flushes, like_python) = (B::COLUMN, B::LACKS, B::FLUSHES, B::LIKE_PYTHON);
        Self {
            column,
            lacks,
            flushes,
            like_python,
            limit: B::LIMIT,
            start,
            runtime: B::runtime,
            one_thread: B::one_thread,
        }
    }

    /// Starts the layer, empty.
    pub async fn start(&self, options: Options) -> Started {
        (self.start)(options).await
    }

    /// Whether the layer keeps the guarantee `promise`.
    pub fn promises(&self, promise: Promise) -> bool {
        !self.lacks.contains(&promise)
    }

    /// Runs a test of the layer, to its end or to the time limit.
    pub fn run(&self, name: &str, test: impl Future<Output = ()>) {
        (self.runtime)().block_on(within(self.limit, name, test));
    }

    /// Runs `test` and all that it spawns on this thread, to its end or to the time limit.
    pub fn run_on_one_thread(&self, test: impl Future<Output = ()>) {
        (self.one_thread)().block_on(within(self.limit, "what runs on one thread", test));
    }
}

/// A started layer.
pub struct Started(Box<dyn Running>);

impl Started {
    /// The layer.
    pub fn layer(&self) -> Layer {
        self.0.layer()
    }

    /// Returns another instance of the layer, as another process would have.
    pub async fn peer(&self) -> Layer {
        self.0.peer().await
    }

    /// Waits until sent messages are visible to readers.
    pub async fn arrived(&self) {
        self.0.arrived().await;
    }

    /// Lets time pass.
    pub async fn pass(&self, time: Duration) {
        self.0.pass(time).await;
    }
}

trait Running {
    fn layer(&self) -> Layer;
    fn peer(&self) -> LocalBoxFuture<'_, Layer>;
    fn arrived(&self) -> LocalBoxFuture<'_, ()>;
    fn pass(&self, time: Duration) -> LocalBoxFuture<'_, ()>;
}

impl<B: Backend> Running for B {
    fn layer(&self) -> Layer {
        Backend::layer(self)
    }

    fn peer(&self) -> LocalBoxFuture<'_, Layer> {
        Box::pin(Backend::peer(self))
    }

    fn arrived(&self) -> LocalBoxFuture<'_, ()> {
        Box::pin(Backend::arrived(self))
    }

    fn pass(&self, time: Duration) -> LocalBoxFuture<'_, ()> {
        Box::pin(Backend::pass(self, time))
    }
}
