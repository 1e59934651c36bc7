//! `BoundServer`: an interface server that has its listeners, from the first client to the end of the drain.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use axum::response::Response;
use axum::{Extension, Router};
use tokio::runtime::Handle;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::error::Result;
use crate::server::asgi::connections::Connections;
use crate::server::asgi::dispatch::{dispatch, shed_on_data_loss};
use crate::server::asgi::messages::Peer;
use crate::server::http;
use crate::server::http::Exchanges;
use crate::server::interface::server::InterfaceServer;
use crate::server::interface::settings::DataLoss;
use crate::server::interface::shared::Shared;
use crate::server::limits::Gate;
use crate::server::options::SocketOptions;
use crate::server::status;
use crate::server::status::Watch;
use crate::server::status::gauges;
use crate::server::transport::connection as transport;
use crate::server::transport::listener::{Address, Listening, Stream};
use crate::server::websocket::handshake;
use crate::server::websocket::upgrade::is_upgrade;
use crate::supervise::contain;

/// An [`InterfaceServer`] that listens.
#[derive(Debug)]
#[must_use]
pub struct BoundServer {
    server: InterfaceServer,
    address: Address,
    listening: Vec<Listening>,
}

impl BoundServer {
    pub(crate) fn new(server: InterfaceServer, listening: Listening) -> Self {
        Self { server, address: listening.address().clone(), listening: vec![listening] }
    }

    /// Takes connections from one more listener.
    pub fn and(mut self, listening: Listening) -> Self {
        self.listening.push(listening);
        self
    }

    /// Where it listens, the first of several.
    pub fn local_addr(&self) -> &Address {
        &self.address
    }

    /// Serves until `shutdown` completes. Then it is no longer ready, takes no more connections, closes the sockets one
    /// after the other, each after what is queued for it, finishes the HTTP requests under way, tells the application,
    /// and puts unread replies back. The layer stays open: it belongs to the caller.
    ///
    /// # Cancel safety
    ///
    /// When dropped, no more connections are taken and replies are no longer read; sockets that are open stay until
    /// their clients go.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`](crate::Error::InvalidConfig) as [`InterfaceServer::validate`],
    /// [`Error::Closed`](crate::Error::Closed) if the layer is closed at the start.
    pub async fn serve(self, shutdown: impl Future<Output = ()>) -> Result<()> {
        let Self { server, listening, .. } = self;
        server.validate()?;
        let (shared, routes) = share(server)?;
        let reading = read(&shared)?;
        let _shedding = (shared.settings.data_loss == DataLoss::Close).then(|| {
            let over = shared.settings.close_spread;
            let shedding = shed_on_data_loss(shared.layer.events(), shared.connections.clone(), over);
            AbortOnDropHandle::new(tokio::spawn(shedding))
        });
        let _gauging = AbortOnDropHandle::new(tokio::spawn(gauges::keep(shared.connections.clone())));
        let _watching = shared.watch.is_some().then(|| {
            let shared = shared.clone();
            AbortOnDropHandle::new(tokio::spawn(async move {
                if let Some(watch) = &shared.watch {
                    watch.run(&shared).await;
                }
            }))
        });
        let service = routes.fallback({
            let shared = shared.clone();
            move |Extension(peer): Extension<Peer>, request: Request| answer(shared, peer, request)
        });
        let accepting = listening
            .into_iter()
            .map(|listening| AbortOnDropHandle::new(tokio::spawn(accept(listening, service.clone(), shared.clone()))))
            .collect();

        shutdown.await;
        shared.leaving.cancel();
        sleep(shared.settings.shutdown_delay).await;
        drain(&shared, accepting).await;
        reading.stop.cancel();
        for reader in reading.tasks {
            if let Err(error) = reader.await {
                tracing::error!(%error, "a reader of replies failed");
            }
        }
        Ok(())
    }
}

fn share(server: InterfaceServer) -> Result<(Arc<Shared>, Router)> {
    let InterfaceServer {
        layer,
        settings,
        http,
        transport,
        origins,
        proxies,
        root_path,
        pages,
        routes,
        status_page,
        trace,
    } = server;
    let limits = SocketOptions::new().max_connections_per_address(transport.max_connections_per_address);
    let shared = Shared {
        gate: Arc::new(Gate::new(&limits)),
        connections: Connections::new(settings.sockets)?,
        exchanges: Exchanges::new(http.response_buffer, http.response_memory)?,
        layer,
        settings,
        http,
        transport,
        origins,
        proxies,
        root_path,
        trace,
        pages,
        tally: Arc::default(),
        watch: status_page.then(Watch::new),
        tracker: TaskTracker::new(),
        runtime: Handle::current(),
        leaving: CancellationToken::new(),
        stopping: CancellationToken::new(),
    };
    Ok((Arc::new(shared), routes))
}

/// The readers of this process's channels.
struct Reading {
    tasks: Vec<AbortOnDropHandle<()>>,
    stop: CancellationToken,
}

fn read(shared: &Shared) -> Result<Reading> {
    let stop = CancellationToken::new();
    let replies = shared.layer.receiver(&[shared.connections.channel().as_str()])?;
    let mut tasks =
        vec![tokio::spawn(dispatch(replies, shared.connections.clone(), shared.tally.clone(), stop.clone()))];
    if shared.http.enabled {
        let responses = shared.layer.receiver(&[shared.exchanges.channel().as_str()])?;
        tasks.push(tokio::spawn(http::dispatch(responses, shared.exchanges.clone(), stop.clone())));
    }
    Ok(Reading { tasks: tasks.into_iter().map(AbortOnDropHandle::new).collect(), stop })
}

/// Takes connections until the shutdown, and then waits for them. Ends them when it is dropped.
async fn accept(listening: Listening, router: Router, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    {
        // Kept over the ends of others, for it may wait out a fault of the system.
        let mut accepting = pin!(listening.accept());
        loop {
            tokio::select! {
                // Those beyond the limit wait in the backlog of the system.
                (stream, peer) = &mut accepting, if connections.len() < shared.transport.max_connections => {
                    accepting.set(listening.accept());
                    contain("acceptor", || take(stream, peer, &router, &shared, &mut connections));
                }
                Some(ended) = connections.join_next() => note(&ended),
                () = shared.stopping.cancelled() => break,
            }
        }
    }
    drop(listening);
    while let Some(ended) = connections.join_next().await {
        note(&ended);
    }
}

/// Serves a connection, if the limits let it in. Otherwise it is closed without a word, for it has asked nothing yet.
fn take(stream: Stream, peer: Peer, router: &Router, shared: &Arc<Shared>, connections: &mut JoinSet<()>) {
    let Ok(admission) = shared.gate.admit(peer.client.map(|client| client.ip())) else { return };
    let serving = transport::serve(stream, peer, router.clone(), shared.clone());
    connections.spawn(async move {
        serving.await;
        drop(admission);
    });
}

/// A panic ends one connection and nothing else, and has to be heard of all the same.
fn note(ended: &Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!("a page or route panicked, and its connection ended");
    }
}

async fn drain(shared: &Shared, accepting: Vec<AbortOnDropHandle<()>>) {
    tracing::info!(connections = shared.connections.len(), requests = shared.exchanges.len(), "shutting down");
    shared.stopping.cancel();
    shared.connections.drain(shared.settings.close_spread, shared.settings.shutdown_code).await;
    shared.tracker.close();
    let ended = async {
        for accepting in accepting {
            // It fails in no other way than by being aborted, and nobody does that here.
            let _ = accepting.await;
        }
        shared.tracker.wait().await;
    };
    if timeout(shared.settings.drain_timeout, ended).await.is_ok() {
        return;
    }
    tracing::warn!(
        connections = shared.connections.len(),
        requests = shared.exchanges.len(),
        "the shutdown does not wait any longer"
    );
    // What was cut off just now is told to the application, if that goes at once.
    let _ = timeout(LAST_WORDS, shared.tracker.wait()).await;
}

/// How long the application may take to hear of what a shutdown has cut off.
const LAST_WORDS: Duration = Duration::from_millis(500);

async fn answer(shared: Arc<Shared>, peer: Peer, request: Request) -> Response {
    if is_upgrade(request.version(), request.headers()) {
        return handshake::answer(shared, peer, request).await;
    }
    if let Some(page) = status::answer(&shared, request.method(), request.uri().path()) {
        return page;
    }
    match shared.pages.get(request.uri().path()) {
        Some(page) => page.answer(request.method()),
        None => http::answer(shared, peer, request).await,
    }
}
