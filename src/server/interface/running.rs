//! A running interface server: the tasks behind it, the routing of its requests, and its shutdown.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use axum::response::Response;
use axum::{Extension, Router};
use tokio::time::{sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::AbortOnDropHandle;

use crate::error::Result;
use crate::server::asgi::application::Application;
use crate::server::asgi::connections::Connections;
use crate::server::asgi::dispatch::{close_on_data_loss, dispatch};
use crate::server::asgi::handshake;
use crate::server::asgi::session::SocketContext;
use crate::server::counters::Counters;
use crate::server::http::{self, HttpContext, PendingRequests};
use crate::server::interface::server::InterfaceServer;
use crate::server::interface::settings::{DataLoss, Settings};
use crate::server::limits::ConnectionLimiter;
use crate::server::options::SocketOptions;
use crate::server::status::page::Page;
use crate::server::status::{self, StatusCollector, StatusSources, gauges};
use crate::server::transport::acceptor::accept;
use crate::server::transport::connection::TransportContext;
use crate::server::transport::listener::{Listener, Peer};
use crate::server::transport::shutdown::Shutdown;
use crate::server::websocket::upgrade::is_upgrade;

/// How long a shutdown waits for the disconnect notices of the connections and sockets that it has aborted.
const NOTICE_TIMEOUT: Duration = Duration::from_millis(500);

/// Handlers of the requests that no route of the program matches.
struct Endpoints {
    sockets: Arc<SocketContext>,
    http: Arc<HttpContext>,
    status: Option<Arc<StatusCollector>>,
    /// By path.
    pages: HashMap<String, Page>,
}

impl Endpoints {
    async fn answer(&self, peer: Peer, request: Request) -> Response {
        if is_upgrade(request.version(), request.headers()) {
            return handshake::answer(self.sockets.clone(), peer, request).await;
        }
        let (method, path) = (request.method(), request.uri().path());
        if let Some(page) = self.status.as_ref().and_then(|status| status::answer(status, method, path)) {
            return page;
        }
        match self.pages.get(path) {
            Some(page) => page.answer(method),
            None => http::answer(self.http.clone(), peer, request).await,
        }
    }
}

/// A server that accepts connections. When dropped, its tasks and its sockets are aborted.
pub(crate) struct RunningServer {
    settings: Settings,
    application: Arc<Application>,
    connections: Arc<Connections>,
    pending: Arc<PendingRequests>,
    shutdown: Shutdown,
    acceptors: Vec<AbortOnDropHandle<()>>,
    readers: ReplyReaders,
    /// Tasks that end with the server: gauges, the status page, and the closing of sockets after a loss of data.
    _background: Vec<AbortOnDropHandle<()>>,
    _abort_sockets: DropGuard,
}

impl RunningServer {
    pub(crate) fn start(server: InterfaceServer, listeners: Vec<Listener>) -> Result<Self> {
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
        let (shutdown, counters) = (Shutdown::default(), Arc::new(Counters::default()));
        let application = Application::new(layer.clone(), root_path, settings.send_timeout, trace);
        let connections = Connections::new(settings.sockets)?;
        let pending = PendingRequests::new(http.response_buffer, http.response_memory)?;
        let readers = ReplyReaders::start(&application, &connections, &counters, http.enabled.then_some(&pending))?;
        let limits = SocketOptions::new().max_connections_per_address(transport.max_connections_per_address);
        let transport = Arc::new(TransportContext {
            settings: transport,
            proxies,
            limiter: Arc::new(ConnectionLimiter::new(&limits)),
            socket_write_timeout: settings.sockets.write_timeout,
            counters: counters.clone(),
            uncounted_paths: if status_page { &[status::PATH, status::STYLE_PATH] } else { &[] },
            shutdown: shutdown.clone(),
        });
        let status = status_page.then(|| {
            let (connections, pending) = (connections.clone(), pending.clone());
            let (counters, shutdown) = (counters.clone(), shutdown.clone());
            Arc::new(StatusCollector::new(StatusSources { layer, connections, pending, counters, shutdown }))
        });
        let background = start_background_tasks(&settings, &application, &connections, status.as_ref());
        let endpoints = Arc::new(Endpoints {
            sockets: Arc::new(SocketContext {
                application: application.clone(),
                connections: connections.clone(),
                origins,
                options: settings.sockets,
                accept_timeout: settings.accept_timeout,
                counters,
                shutdown: shutdown.clone(),
            }),
            http: Arc::new(HttpContext {
                application: application.clone(),
                pending: pending.clone(),
                settings: http,
                shutdown: shutdown.clone(),
            }),
            status,
            pages,
        });
        let acceptors = start_acceptors(listeners, &router(routes, endpoints), &transport);
        Ok(Self {
            settings,
            application,
            connections,
            pending,
            acceptors,
            readers,
            _background: background,
            _abort_sockets: shutdown.aborted.clone().drop_guard(),
            shutdown,
        })
    }

    /// Shuts the server down in the order that [`BoundServer::serve`](super::bound::BoundServer::serve) documents.
    pub(crate) async fn shut_down(&mut self) {
        self.shutdown.requested.cancel();
        sleep(self.settings.shutdown_delay).await;
        self.drain().await;
        self.readers.stop().await;
    }

    async fn drain(&mut self) {
        tracing::info!(connections = self.connections.len(), requests = self.pending.len(), "shutting down");
        self.shutdown.draining.cancel();
        self.connections.drain(self.settings.close_spread, self.settings.shutdown_code).await;
        let acceptors = std::mem::take(&mut self.acceptors);
        let application = &self.application;
        let finished = async move {
            for acceptor in acceptors {
                // An acceptor fails only when it is aborted, which no code does here.
                let _ = acceptor.await;
            }
            application.finished().await;
        };
        if timeout(self.settings.drain_timeout, finished).await.is_ok() {
            return;
        }
        tracing::warn!(
            connections = self.connections.len(),
            requests = self.pending.len(),
            "drain timeout reached, aborting the rest"
        );
        self.shutdown.aborted.cancel();
        let _ = timeout(NOTICE_TIMEOUT, self.application.finished()).await;
    }
}

fn router(routes: Router, endpoints: Arc<Endpoints>) -> Router {
    routes.fallback(move |Extension(peer): Extension<Peer>, request: Request| async move {
        endpoints.answer(peer, request).await
    })
}

fn start_acceptors(
    listeners: Vec<Listener>,
    router: &Router,
    context: &Arc<TransportContext>,
) -> Vec<AbortOnDropHandle<()>> {
    let start = |listener| tokio::spawn(accept(listener, router.clone(), context.clone()));
    listeners.into_iter().map(start).map(AbortOnDropHandle::new).collect()
}

fn start_background_tasks(
    settings: &Settings,
    application: &Application,
    connections: &Arc<Connections>,
    status: Option<&Arc<StatusCollector>>,
) -> Vec<AbortOnDropHandle<()>> {
    let mut tasks = vec![tokio::spawn(gauges::update(connections.clone()))];
    if settings.data_loss == DataLoss::Close {
        let events = application.layer.events();
        tasks.push(tokio::spawn(close_on_data_loss(events, connections.clone(), settings.close_spread)));
    }
    if let Some(status) = status.cloned() {
        tasks.push(tokio::spawn(async move { status.run().await }));
    }
    tasks.into_iter().map(AbortOnDropHandle::new).collect()
}

/// The tasks that read the process-local channels of the server.
struct ReplyReaders {
    tasks: Vec<AbortOnDropHandle<()>>,
    stop: CancellationToken,
}

impl ReplyReaders {
    /// Starts the reader of replies to sockets. With `pending`, also starts the reader of responses.
    fn start(
        application: &Application,
        connections: &Arc<Connections>,
        counters: &Arc<Counters>,
        pending: Option<&Arc<PendingRequests>>,
    ) -> Result<Self> {
        let stop = CancellationToken::new();
        let replies = application.layer.receiver(&[connections.channel().as_str()])?;
        let mut tasks = vec![tokio::spawn(dispatch(replies, connections.clone(), counters.clone(), stop.clone()))];
        if let Some(pending) = pending {
            let responses = application.layer.receiver(&[pending.channel().as_str()])?;
            tasks.push(tokio::spawn(http::dispatch(responses, pending.clone(), stop.clone())));
        }
        Ok(Self { tasks: tasks.into_iter().map(AbortOnDropHandle::new).collect(), stop })
    }

    /// Stops the readers, which put unread messages back.
    async fn stop(&mut self) {
        self.stop.cancel();
        for task in self.tasks.drain(..) {
            if let Err(error) = task.await {
                tracing::error!(%error, "reader of replies failed");
            }
        }
    }
}
