//! `Progress`: how fast clients accept their responses, and the timeout of HTTP/2 streams.
//!
//! An HTTP/2 client controls how much of each response it accepts, and may keep its connection alive without accepting
//! any. Its connection then has nothing to write, and hyper waits without a deadline.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use hyper::rt::Executor;
use tokio::sync::Notify;
use tokio::task_local;
use tokio::time::sleep;

use crate::server::counters;

task_local! {
    static PROGRESS: Progress;
}

/// Executor for the streams of an HTTP/2 connection. It drops a stream whose client accepts no bytes.
#[derive(Clone, Debug)]
pub(crate) struct StreamExecutor {
    /// How long a client may accept no bytes of a response.
    timeout: Duration,
}

impl StreamExecutor {
    pub(crate) fn new(timeout: Duration) -> Self {
        Self { timeout }
    }
}

/// The spawned tasks end with their connection.
impl<Stream: Future<Output = ()> + Send + 'static> Executor<Stream> for StreamExecutor {
    fn execute(&self, stream: Stream) {
        let (progress, timeout) = (Progress::flow_controlled(), self.timeout);
        tokio::spawn(async move {
            tokio::select! {
                // Dropping an unfinished stream resets it.
                _ended = progress.run(stream) => {}
                () = progress.stalled(timeout) => {
                    counters::count_slow_consumers(1);
                    tracing::info!("an HTTP/2 client accepts no bytes of its response; stream reset");
                }
            }
        });
    }
}

/// Progress of the response of an HTTP/2 stream, or of the responses of an HTTP/1 connection. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress(Arc<State>);

#[derive(Debug, Default)]
struct State {
    /// Number of pieces that the client has accepted.
    pieces: AtomicUsize,
    /// Whether the client has to accept a piece before the response continues.
    waits_for_client: AtomicBool,
    /// Whether the client controls the flow of this response, as in HTTP/2.
    flow_controlled: bool,
    /// Notified when the responses are cut off.
    cut_off: Notify,
}

impl Progress {
    /// Creates the progress of a flow-controlled response, which is passed on piece by piece.
    fn flow_controlled() -> Self {
        Self(Arc::new(State { flow_controlled: true, ..State::default() }))
    }

    pub(crate) fn is_flow_controlled(&self) -> bool {
        self.0.flow_controlled
    }

    /// Returns the progress of the current stream or connection; `None` outside of one.
    pub(crate) fn current() -> Option<Self> {
        PROGRESS.try_with(Clone::clone).ok()
    }

    /// Runs the future that writes responses. Returns `None` if they are cut off.
    pub(crate) async fn run<Writing: Future>(&self, writing: Writing) -> Option<Writing::Output> {
        tokio::select! {
            biased;
            () = self.is_cut_off() => None,
            done = PROGRESS.scope(self.clone(), writing) => Some(done),
        }
    }

    /// Cuts the responses off and frees their memory.
    pub(crate) fn cut_off(&self) {
        counters::count_slow_consumers(1);
        self.0.cut_off.notify_one();
    }

    pub(crate) async fn is_cut_off(&self) {
        self.0.cut_off.notified().await;
    }

    /// Records that a piece was passed to hyper, which asks for the next one when the client has accepted it.
    pub(crate) fn piece_yielded(&self) {
        self.0.pieces.fetch_add(1, Ordering::Relaxed);
        self.0.waits_for_client.store(true, Ordering::Relaxed);
    }

    /// Records that hyper asks for a piece, which the application has yet to send.
    pub(crate) fn piece_requested(&self) {
        self.0.waits_for_client.store(false, Ordering::Relaxed);
    }

    /// Waits until the client has accepted no piece for `timeout`, or up to twice that.
    async fn stalled(&self, timeout: Duration) {
        let mut before = None;
        loop {
            let waits = self.0.waits_for_client.load(Ordering::Relaxed);
            let now = waits.then(|| self.0.pieces.load(Ordering::Relaxed));
            if now.is_some() && now == before {
                return;
            }
            before = now;
            sleep(timeout).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn a_client_that_accepts_pieces_slowly_is_not_stalled() {
        let progress = Progress::default();
        let stalled = progress.stalled(TIMEOUT);
        tokio::pin!(stalled);
        for _ in 0..10 {
            progress.piece_yielded();
            assert!(timeout(TIMEOUT / 2, &mut stalled).await.is_err());
        }
        assert!(timeout(TIMEOUT * 3, stalled).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_application_does_not_stall_the_client() {
        let progress = Progress::default();
        assert!(timeout(TIMEOUT * 10, progress.stalled(TIMEOUT)).await.is_err());
        progress.piece_yielded();
        progress.piece_requested();
        assert!(timeout(TIMEOUT * 10, progress.stalled(TIMEOUT)).await.is_err());
    }
}
