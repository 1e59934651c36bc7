//! The accept loop of one listener.

use std::pin::pin;
use std::sync::Arc;

use axum::Router;
use tokio::task::{JoinError, JoinSet};

use crate::server::transport::connection::{TransportContext, serve};
use crate::server::transport::listener::{Listener, Peer, Stream};
use crate::supervise::contain;

/// Accepts connections until the drain starts, and then waits until the accepted connections have ended. When dropped,
/// they are aborted.
pub(crate) async fn accept(listener: Listener, router: Router, context: Arc<TransportContext>) {
    let mut connections = JoinSet::new();
    {
        // The future outlives an iteration: after an error of the system it sleeps, and the end of a connection must
        // not cut that pause short.
        let mut accepting = pin!(listener.accept());
        loop {
            tokio::select! {
                // Connections above the limit wait in the backlog of the system.
                (stream, peer) = &mut accepting, if connections.len() < context.settings.max_connections => {
                    accepting.set(listener.accept());
                    contain("acceptor", || spawn(stream, peer, &router, &context, &mut connections));
                }
                Some(ended) = connections.join_next() => log_panic(&ended),
                () = context.shutdown.draining.cancelled() => break,
            }
        }
    }
    drop(listener);
    while let Some(ended) = connections.join_next().await {
        log_panic(&ended);
    }
}

/// Spawns the task of a connection. A connection above the limits is closed without a response, since it has sent no
/// request.
fn spawn(stream: Stream, peer: Peer, router: &Router, context: &Arc<TransportContext>, connections: &mut JoinSet<()>) {
    let Ok(permit) = context.limiter.acquire(peer.client.map(|client| client.ip())) else { return };
    let serving = serve(stream, peer, router.clone(), context.clone());
    connections.spawn(async move {
        serving.await;
        drop(permit);
    });
}

/// Logs the panic of a connection task. It ends one connection and nothing else.
fn log_panic(ended: &Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!("a page or route panicked, and its connection ended");
    }
}
