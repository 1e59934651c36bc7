//! How responses get to their clients: those of HTTP/2, each in a task of its own, and those of a connection of HTTP/1, end
//! when they have to.
//!
//! An HTTP/2 client says how much it takes of each response, and may go on talking without ever taking any. Nothing is
//! pending on its connection then, and hyper waits without a deadline.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use hyper::rt::Executor;
use tokio::sync::Notify;
use tokio::task_local;
use tokio::time::sleep;

use crate::server::asgi::lost;

task_local! {
    static PROGRESS: Progress;
}

/// What hyper runs the requests of HTTP/2 connections on.
#[derive(Clone, Debug)]
pub(crate) struct Streams {
    /// For how long a client may take nothing of a response.
    patience: Duration,
}

impl Streams {
    pub(crate) fn new(patience: Duration) -> Self {
        Self { patience }
    }
}

/// The tasks end with their connection.
impl<Stream: Future<Output = ()> + Send + 'static> Executor<Stream> for Streams {
    fn execute(&self, stream: Stream) {
        let (progress, patience) = (Progress::in_pieces(), self.patience);
        tokio::spawn(async move {
            tokio::select! {
                // What is dropped without an end is reset.
                _ended = progress.run(stream) => {}
                () = progress.stops(patience) => {
                    lost::count_slow_consumer();
                    tracing::info!("an HTTP/2 client takes nothing of a response, which is cut off");
                }
            }
        });
    }
}

/// How a response of HTTP/2 gets to its client, or those of a connection of HTTP/1 do.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress(Arc<State>);

#[derive(Debug, Default)]
struct State {
    /// Pieces that the client has made room for.
    pieces: AtomicUsize,
    /// Whether it is the client that has to do something.
    waits_for_client: AtomicBool,
    in_pieces: bool,
    cut_off: Notify,
}

impl Progress {
    /// Of a client that says how much it takes, and is given no more than a piece at once.
    fn in_pieces() -> Self {
        Self(Arc::new(State { in_pieces: true, ..State::default() }))
    }

    pub(crate) fn is_in_pieces(&self) -> bool {
        self.0.in_pieces
    }

    /// That of the stream or connection in whose task this is called.
    pub(crate) fn current() -> Option<Self> {
        PROGRESS.try_with(Clone::clone).ok()
    }

    /// Runs what makes and writes responses; nothing comes of it if they are cut off.
    pub(crate) async fn run<Writing: Future>(&self, writing: Writing) -> Option<Writing::Output> {
        tokio::select! {
            biased;
            () = self.is_cut_off() => None,
            done = PROGRESS.scope(self.clone(), writing) => Some(done),
        }
    }

    /// Ends what is written, and frees what it holds.
    pub(crate) fn cut_off(&self) {
        lost::count_slow_consumer();
        self.0.cut_off.notify_one();
    }

    pub(crate) async fn is_cut_off(&self) {
        self.0.cut_off.notified().await;
    }

    /// A piece is handed over, and the next one is asked for when the client takes this one.
    pub(crate) fn handed_over(&self) {
        self.0.pieces.fetch_add(1, Ordering::Relaxed);
        self.0.waits_for_client.store(true, Ordering::Relaxed);
    }

    /// A piece was asked for, and the application has yet to make it.
    pub(crate) fn asked(&self) {
        self.0.waits_for_client.store(false, Ordering::Relaxed);
    }

    /// Waits until the client has taken nothing for `patience`, or up to twice that.
    async fn stops(&self, patience: Duration) {
        let mut before = None;
        loop {
            let waits = self.0.waits_for_client.load(Ordering::Relaxed);
            let now = waits.then(|| self.0.pieces.load(Ordering::Relaxed));
            if now.is_some() && now == before {
                return;
            }
            before = now;
            sleep(patience).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_a_piece_now_and_then_goes_on() {
        let progress = Progress::default();
        let stops = progress.stops(PATIENCE);
        tokio::pin!(stops);
        for _ in 0..10 {
            progress.handed_over();
            assert!(timeout(PATIENCE / 2, &mut stops).await.is_err());
        }
        assert!(timeout(PATIENCE * 3, stops).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn the_application_may_take_its_time() {
        let progress = Progress::default();
        assert!(timeout(PATIENCE * 10, progress.stops(PATIENCE)).await.is_err());
        progress.handed_over();
        progress.asked();
        assert!(timeout(PATIENCE * 10, progress.stops(PATIENCE)).await.is_err());
    }
}
