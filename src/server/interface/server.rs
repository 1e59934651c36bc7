//! `InterfaceServer`: what a program sets up and runs.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use bytes::Bytes;
use bytestring::ByteString;
use tokio::net::ToSocketAddrs;

use crate::error::{Error, Result};
use crate::layer::ChannelLayer;
use crate::server::asgi::messages::code;
use crate::server::http::HttpSettings;
use crate::server::interface::bound::BoundServer;
use crate::server::interface::settings::{DataLoss, Settings};
use crate::server::limits::origin::Origins;
use crate::server::options::SocketOptions;
use crate::server::status::page::Page;
use crate::server::transport::connection::Transport;
use crate::server::transport::listener::{Listening, Tls};
use crate::server::transport::proxy::TrustedProxies;

/// An interface server: takes clients' connections and exchanges ASGI messages with an application behind a channel
/// layer. See the [module](crate::server) for how it works.
#[must_use]
pub struct InterfaceServer {
    pub(crate) layer: Arc<dyn ChannelLayer>,
    pub(crate) settings: Settings,
    pub(crate) http: HttpSettings,
    pub(crate) transport: Transport,
    pub(crate) origins: Origins,
    pub(crate) proxies: TrustedProxies,
    pub(crate) root_path: ByteString,
    pub(crate) pages: HashMap<String, Page>,
    pub(crate) routes: Router,
    pub(crate) status_page: bool,
    pub(crate) trace: bool,
}

impl InterfaceServer {
    /// A server of the applications behind `layer`.
    pub fn new(layer: Arc<dyn ChannelLayer>) -> Self {
        Self {
            layer,
            settings: Settings::default(),
            http: HttpSettings::default(),
            transport: Transport::default(),
            origins: Origins::default(),
            proxies: TrustedProxies::default(),
            root_path: ByteString::new(),
            pages: HashMap::new(),
            routes: Router::new(),
            status_page: false,
            trace: false,
        }
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

    /// Over how long the closing of all sockets is spread, in a shutdown or when the layer has lost its data: clients
    /// come back as they are closed, and should not do so all at once. A few are closed at once, 20 a second at the
    /// least. Defaults to 5 s.
    pub fn close_spread(mut self, over: Duration) -> Self {
        self.settings.close_spread = over;
        self
    }

    /// Whether a shutdown closes sockets with 1012 (the service restarts) rather than 1001 (it is going away). Defaults
    /// to `false`.
    pub fn restarts(mut self, restarts: bool) -> Self {
        self.settings.shutdown_code = if restarts { code::SERVICE_RESTART } else { code::GOING_AWAY };
        self
    }

    /// How long a shutdown goes on taking connections while `/ready` says already, with 503, that it is not ready, so that
    /// load balancers find out before clients do. Defaults to 0.
    pub fn shutdown_delay(mut self, delay: Duration) -> Self {
        self.settings.shutdown_delay = delay;
        self
    }

    /// How long a shutdown waits, once all sockets have been told to close, for them to do so, for requests under way,
    /// and for the application to be told. Defaults to 10 s.
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.settings.drain_timeout = timeout;
        self
    }

    /// Whether the application is asked about HTTP requests; WebSockets it is asked about in any case. Without, a
    /// request for which there is no page and no route is answered with 404. Defaults to `true`.
    pub fn http(mut self, enabled: bool) -> Self {
        self.http.enabled = enabled;
        self
    }

    /// How long the application may take to answer an HTTP request before it is answered with 504, and for each further
    /// part of a response before the connection is cut. Defaults to 120 s.
    pub fn response_timeout(mut self, timeout: Duration) -> Self {
        self.http.response_timeout = timeout;
        self
    }

    /// How much of a response may wait for its client, in bytes of memory, before the client is cut off: the reader of all
    /// responses waits for none. Each part counts as 256 bytes beside its content, and each header as 128 beside its own.
    /// Defaults to 16 MiB.
    pub fn response_buffer(mut self, bytes: usize) -> Self {
        self.http.response_buffer = bytes;
        self
    }

    /// How much all responses together may hold that wait for their clients, in bytes of memory as in
    /// [`response_buffer`](Self::response_buffer). When it is more the client for which most waits is cut off. Defaults to
    /// 1 GiB.
    pub fn response_memory(mut self, bytes: usize) -> Self {
        self.http.response_memory = bytes;
        self
    }

    /// How large the body of a request may be, in bytes; a larger one is refused with 413. Defaults to 16 MiB.
    pub fn max_body_size(mut self, bytes: usize) -> Self {
        self.http.max_body_size = bytes;
        self
    }

    /// How long a client may take for each part of its body before it is refused with 408. Defaults to 30 s.
    pub fn body_timeout(mut self, timeout: Duration) -> Self {
        self.http.body_timeout = timeout;
        self
    }

    /// How long a client may take for its whole body before it is refused with 408; the time that the application takes for
    /// it does not count. Defaults to 5 minutes.
    pub fn upload_timeout(mut self, timeout: Duration) -> Self {
        self.http.upload_timeout = timeout;
        self
    }

    /// How long a client may take nothing of a response before it is cut off. On HTTP/2, where a client says itself how much
    /// it takes, it has to take 16 KiB in that time, or up to twice that. Defaults to 30 s.
    pub fn stall_timeout(mut self, timeout: Duration) -> Self {
        self.transport.stall_timeout = timeout;
        self
    }

    /// How long a client may take for the handshake of TLS, and for the head of each request, silence before it
    /// included; on HTTP/2 no request may have been under way for so long, or twice that. Defaults to 10 s.
    pub fn header_timeout(mut self, timeout: Duration) -> Self {
        self.transport.header_timeout = timeout;
        self
    }

    /// How large the head of a request may be, in bytes, beyond which it is refused with 431, and its URL, beyond which
    /// it is refused with 414. There may be 100 headers. Defaults to 32 KiB and 8 KiB.
    pub fn max_header_size(mut self, head: usize, url: usize) -> Self {
        self.transport.max_header_size = head;
        self.transport.max_url_size = url;
        self
    }

    /// How many connections there may be on each listener that are no open WebSockets, at least 1: those of HTTP, and those
    /// of which nothing is known yet. Further ones wait until one ends. Defaults to 10,000.
    pub fn max_http_connections(mut self, connections: usize) -> Self {
        self.transport.max_connections = connections.max(1);
        self
    }

    /// How many such connections there may be from one address, or from one /64 of IPv6; 0 is no limit. Further ones are closed
    /// at once. Behind a proxy all come from its address. Defaults to no limit.
    pub fn max_http_connections_per_address(mut self, connections: usize) -> Self {
        self.transport.max_connections_per_address = connections;
        self
    }

    /// Speaks TLS on all its TCP and unix sockets. Defaults to none: a proxy before the server does that.
    pub fn tls(mut self, tls: Tls) -> Self {
        self.transport.tls = Some(tls);
        self
    }

    /// Writes a line to the log for each request when its response has ended, under the target
    /// `channel_layer::access` at level info: client, method, path, version, status, bytes, milliseconds. No query and
    /// no header is in it. Defaults to `false`.
    pub fn access_log(mut self, enabled: bool) -> Self {
        self.transport.access_log = enabled;
        self
    }

    /// The sites whose pages may open WebSockets, as browsers name them in `Origin`: `https://example.org`, or
    /// `https://*.example.org` for every name below it. A handshake from another one is refused with 403. Defaults to
    /// all.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] for what is no origin.
    pub fn allowed_origins<T: AsRef<str>>(mut self, origins: impl IntoIterator<Item = T>) -> Result<Self> {
        self.origins = Origins::parse(origins)?;
        Ok(self)
    }

    /// Whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed. Defaults to nobody's.
    pub fn trusted_proxies(mut self, proxies: TrustedProxies) -> Self {
        self.proxies = proxies;
        self
    }

    /// The path at which a proxy has mounted the application, passed on as `root_path`. Defaults to none.
    pub fn root_path(mut self, path: &str) -> Self {
        self.root_path = path.into();
        self
    }

    /// Gives out a page at `/status` for operators, which asks for itself again every 2 s: rates of the last two minutes,
    /// depths of channels, outcomes, shards. It names channels and no client, and anybody who reaches the server can
    /// see it, so let a proxy keep it to those who should. Defaults to `false`.
    pub fn status_page(mut self, enabled: bool) -> Self {
        self.status_page = enabled;
        self
    }

    /// Whether `websocket.connect`, `websocket.receive` and `http.request` carry a place in a trace, as text under
    /// `traceparent` ([`trace`](crate::trace)): that of the client's request, or a new trace for each. The application
    /// sees the key; a [`Worker`](crate::Worker) passes it on with what it sends. Steps are told to `tracing` under the
    /// target `channel_layer::trace` at level debug. Defaults to `false`.
    pub fn trace(mut self, enabled: bool) -> Self {
        self.trace = enabled;
        self
    }

    /// Answers what these routes match; everything else is for pages and the application.
    pub fn routes(mut self, routes: Router) -> Self {
        self.routes = self.routes.merge(routes);
        self
    }

    /// Gives out a page at `path`. Pages may load from this server only: they get a strict Content-Security-Policy.
    pub fn page(mut self, path: &str, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        self.pages.insert(path.to_owned(), Page { content_type, body: body.into() });
        self
    }

    /// Checks that a message of a client fits into one of the layer. [`serve`](BoundServer::serve) does the same.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] with both limits, if [`SocketOptions::max_message_size`] is above that of the layer.
    pub fn validate(&self) -> Result<()> {
        let (clients, layer) = (self.settings.sockets.max_message_size, self.layer.max_message_size());
        if clients <= layer {
            return Ok(());
        }
        let reason = format!(
            "it is above the limit of the layer, Config::max_message_size (CHANNEL_LAYER_MAX_MESSAGE_SIZE) = {layer}"
        );
        Err(Error::config("SocketOptions::max_message_size (--max-message-size)", clients, reason))
    }

    /// Listens at a TCP address; connections wait until [`serve`](BoundServer::serve).
    ///
    /// # Cancel safety
    ///
    /// When dropped, nothing listens.
    ///
    /// # Errors
    ///
    /// What the operating system says, for example that the address is in use.
    pub async fn bind(self, address: impl ToSocketAddrs) -> io::Result<BoundServer> {
        Ok(self.listen(Listening::tcp(address).await?))
    }

    /// Takes connections from `listening`.
    pub fn listen(self, listening: Listening) -> BoundServer {
        BoundServer::new(self, listening)
    }
}

impl fmt::Debug for InterfaceServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InterfaceServer").field("settings", &self.settings).finish_non_exhaustive()
    }
}
