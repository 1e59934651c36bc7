//! `Shutdown`: the signals of a shutdown, and how a connection ends during one or when it is idle.

use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::server::transport::connection::{Served, TransportContext};
use crate::server::transport::pending_writes::PendingWrites;

/// How long a connection without requests must have had no pending writes before it is closed.
const QUIET_PERIOD: Duration = Duration::from_millis(500);

/// The shutdown signals of an interface server. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Shutdown {
    /// Cancelled at the start of the shutdown: the server is no longer ready, and may accept connections for a while.
    pub(crate) requested: CancellationToken,
    /// Cancelled when the server accepts no more connections, at the latest with `aborted`.
    pub(crate) draining: CancellationToken,
    /// Cancelled at the end of the server: the sockets that are still open are aborted.
    pub(crate) aborted: CancellationToken,
}

impl Default for Shutdown {
    fn default() -> Self {
        let aborted = CancellationToken::new();
        Self { requested: CancellationToken::new(), draining: aborted.child_token(), aborted }
    }
}

/// The requests of one connection: how many were received, and which are in progress.
#[derive(Clone)]
pub(crate) struct RequestActivity {
    in_progress: TaskTracker,
    received: Arc<AtomicUsize>,
    pending_writes: PendingWrites,
    http2: bool,
}

impl RequestActivity {
    pub(crate) fn new(http2: bool, pending_writes: PendingWrites) -> Self {
        Self { in_progress: TaskTracker::new(), received: Arc::default(), pending_writes, http2 }
    }

    /// Counts a request. It is in progress until the token is dropped.
    pub(crate) fn begin(&self) -> TaskTrackerToken {
        self.received.fetch_add(1, Ordering::Relaxed);
        self.in_progress.token()
    }

    fn has_received(&self) -> bool {
        self.received.load(Ordering::Relaxed) > 0
    }

    /// Waits until no request was received or in progress for `timeout`, or up to twice that. Never returns for HTTP/1,
    /// where hyper closes idle connections.
    async fn idle(&self, timeout: Duration) {
        if !self.http2 {
            pending::<()>().await;
        }
        let mut before = None;
        loop {
            let received = self.received.load(Ordering::Relaxed);
            if before == Some(received) && self.in_progress.is_empty() {
                return;
            }
            before = Some(received);
            sleep(timeout).await;
        }
    }

    /// Waits until the requests in progress are answered and no bytes of the responses wait to be written.
    async fn answered(&self) {
        self.in_progress.close();
        self.in_progress.wait().await;
        if self.http2 && self.has_received() {
            // Parts of responses may wait for a window update. Only hyper knows when all of them are written.
            pending::<()>().await;
        }
        loop {
            sleep(QUIET_PERIOD).await;
            if !self.pending_writes.any() {
                return;
            }
        }
    }
}

/// Serves a connection to its end. Closes it when it is idle, and during a shutdown when the requests in progress are
/// answered. A request that the application has not seen yet does not delay a shutdown.
pub(crate) async fn serve_until_shutdown<C: Future<Output = hyper::Result<()>>>(
    mut connection: Pin<&mut C>,
    graceful_shutdown: fn(Pin<&mut C>),
    activity: &RequestActivity,
    context: &TransportContext,
) -> Served {
    tokio::select! {
        served = connection.as_mut() => return Ok(served?),
        () = context.shutdown.draining.cancelled() => graceful_shutdown(connection.as_mut()),
        () = activity.idle(context.settings.header_timeout) => {
            graceful_shutdown(connection.as_mut());
            // A request may have arrived in the meantime, and is answered first.
            let finished = async {
                activity.idle(QUIET_PERIOD).await;
                if activity.has_received() {
                    // The end of a response may wait for a window update. Only hyper knows when all of it is written.
                    activity.idle(context.settings.stall_timeout).await;
                }
            };
            return tokio::select! {
                served = connection => Ok(served?),
                () = finished => Ok(()),
            };
        }
    }
    tokio::select! {
        served = connection => Ok(served?),
        () = activity.answered() => Ok(()),
    }
}
