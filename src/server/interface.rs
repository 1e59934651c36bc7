//! `InterfaceServer`: what a program sets up and runs.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::serve::{IncomingStream, Listener};
use bytes::Bytes;
use tokio::net::{TcpListener, TcpStream, ToSocketAddrs};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use super::asgi::Peer;
use super::connection::Connections;
use super::dispatch::{dispatch, shed_on_data_loss};
use super::handshake;
use super::options::SocketOptions;
use super::page::Page;
use super::settings::{DataLoss, Settings};
use super::shared::Shared;
use crate::error::Result;
use crate::layer::ChannelLayer;

/// An interface server: takes clients' connections and exchanges ASGI messages with an application behind a channel
/// layer. See the [module](super) for how it works.
#[must_use]
pub struct InterfaceServer {
    layer: Arc<dyn ChannelLayer>,
    settings: Settings,
    pages: HashMap<String, Page>,
}

impl InterfaceServer {
    /// A server of the applications behind `layer`.
    pub fn new(layer: Arc<dyn ChannelLayer>) -> Self {
        Self { layer, settings: Settings::default(), pages: HashMap::new() }
    }

    /// How long a handshake waits for the application's accept before it is refused with 403. Defaults to 30 s.
    pub fn accept_timeout(mut self, timeout: Duration) -> Self {
        self.settings.accept_timeout = timeout;
        self
    }

    /// How sockets are held: their queues, times and limits.
    pub fn sockets(mut self, options: SocketOptions) -> Self {
        self.settings.sockets = options;
        self
    }

    /// How long a client's frame waits for room on `websocket.receive` before the client is closed with 1013. Defaults
    /// to 5 s.
    pub fn send_patience(mut self, patience: Duration) -> Self {
        self.settings.send_patience = patience;
        self
    }

    /// What happens to the sockets when the layer has lost its data. Defaults to [`DataLoss::Close`].
    pub fn on_data_loss(mut self, action: DataLoss) -> Self {
        self.settings.data_loss = action;
        self
    }

    /// How long a shutdown waits for sockets to close and for the application to be told. Defaults to 10 s.
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.settings.drain_timeout = timeout;
        self
    }

    /// Gives out a page at `path`. Pages may load from this server only: they get a strict Content-Security-Policy.
    pub fn page(mut self, path: &str, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        self.pages.insert(path.to_owned(), Page { content_type, body: body.into() });
        self
    }

    /// Listens at `address`; connections wait until [`serve`](BoundServer::serve).
    ///
    /// # Errors
    ///
    /// What the operating system says, for example that the address is in use.
    pub async fn bind(self, address: impl ToSocketAddrs) -> io::Result<BoundServer> {
        self.listen(TcpListener::bind(address).await?)
    }

    /// Takes connections from a listener that is there already.
    ///
    /// # Errors
    ///
    /// If the listener has no address.
    pub fn listen(self, listener: TcpListener) -> io::Result<BoundServer> {
        let address = listener.local_addr()?;
        Ok(BoundServer { server: self, listener, address })
    }
}

/// An [`InterfaceServer`] that has its address.
#[derive(Debug)]
#[must_use]
pub struct BoundServer {
    server: InterfaceServer,
    listener: TcpListener,
    address: SocketAddr,
}

impl BoundServer {
    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown` completes; then takes no more connections, closes the sockets with 1001 after what is
    /// queued for them, tells the application, and puts unread replies back. The layer stays open: it belongs to the
    /// caller.
    ///
    /// # Cancel safety
    ///
    /// When dropped, no more connections are taken and replies are no longer read; sockets that are open stay until
    /// their clients go.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`](crate::Error::Closed) if the layer is closed at the start.
    pub async fn serve(self, shutdown: impl Future<Output = ()> + Send + 'static) -> Result<()> {
        let InterfaceServer { layer, settings, pages } = self.server;
        let connections = Connections::new(settings.sockets)?;
        let receiver = layer.receiver(&[connections.channel().as_str()])?;
        let stop = CancellationToken::new();
        let dispatching = AbortOnDropHandle::new(tokio::spawn(dispatch(receiver, connections.clone(), stop.clone())));
        let _shedding = (settings.data_loss == DataLoss::Close)
            .then(|| AbortOnDropHandle::new(tokio::spawn(shed_on_data_loss(layer.events(), connections.clone()))));
        let (tracker, runtime) = (TaskTracker::new(), Handle::current());
        let shared = Arc::new(Shared { layer, settings, connections, pages, tracker, runtime });

        accept(self.listener, &shared, shutdown).await;
        drain(&shared).await;
        stop.cancel();
        if let Err(error) = dispatching.await {
            tracing::error!(%error, "the reader of replies failed");
        }
        Ok(())
    }
}

/// Takes connections until `shutdown`, and then answers the requests under way.
async fn accept(listener: TcpListener, shared: &Arc<Shared>, shutdown: impl Future<Output = ()> + Send + 'static) {
    let service =
        Router::new().fallback(answer).with_state(shared.clone()).into_make_service_with_connect_info::<Peer>();
    let stopping = CancellationToken::new();
    let stopped = {
        let (shared, stopping) = (shared.clone(), stopping.clone());
        async move {
            shutdown.await;
            tracing::info!(connections = shared.connections.len(), "shutting down");
            shared.connections.shut_down();
            stopping.cancel();
        }
    };
    // A client that stays silent in the middle of a request must not hold up the shutdown.
    let overdue = async {
        stopping.cancelled().await;
        tokio::time::sleep(shared.settings.drain_timeout).await;
    };
    tokio::select! {
        _ = axum::serve(Accepting(listener), service).with_graceful_shutdown(stopped) => {}
        () = overdue => {}
    }
}

async fn drain(shared: &Shared) {
    shared.tracker.close();
    if tokio::time::timeout(shared.settings.drain_timeout, shared.tracker.wait()).await.is_err() {
        tracing::warn!(connections = shared.connections.len(), "the shutdown does not wait any longer");
    }
}

async fn answer(State(shared): State<Arc<Shared>>, ConnectInfo(peer): ConnectInfo<Peer>, request: Request) -> Response {
    if handshake::is_upgrade(request.headers()) {
        return handshake::answer(shared, peer, request).await;
    }
    match shared.pages.get(request.uri().path()) {
        Some(page) => page.answer(request.method()),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

/// A listener that knows both ends of each connection and sends small frames at once.
struct Accepting(TcpListener);

impl Listener for Accepting {
    type Io = TcpStream;
    type Addr = Peer;

    async fn accept(&mut self) -> (TcpStream, Peer) {
        loop {
            let (stream, client) = Listener::accept(&mut self.0).await;
            // A connection that has gone already has no address any more.
            if let Ok(server) = stream.local_addr().and_then(|server| stream.set_nodelay(true).map(|()| server)) {
                return (stream, Peer { client, server });
            }
        }
    }

    fn local_addr(&self) -> io::Result<Peer> {
        self.0.local_addr().map(|server| Peer { client: server, server })
    }
}

impl Connected<IncomingStream<'_, Accepting>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Accepting>) -> Self {
        *stream.remote_addr()
    }
}

impl fmt::Debug for InterfaceServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InterfaceServer").field("settings", &self.settings).finish_non_exhaustive()
    }
}
