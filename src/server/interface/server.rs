//! `InterfaceServer`: the settings of an interface server, as a builder.

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
use crate::server::http::HttpSettings;
use crate::server::interface::bound::BoundServer;
use crate::server::interface::settings::{DataLoss, Settings};
use crate::server::limits::origin::Origins;
use crate::server::options::{SocketOptions, check_positive};
use crate::server::status::page::Page;
use crate::server::transport::listener::{Listener, Tls};
use crate::server::transport::proxy::TrustedProxies;
use crate::server::transport::settings::TransportSettings;
use crate::server::websocket::close_code;

/// A server that accepts connections of clients and exchanges ASGI messages with an application behind a channel layer.
/// The [module](crate::server) explains how it works.
#[must_use]
pub struct InterfaceServer {
    pub(crate) layer: Arc<dyn ChannelLayer>,
    pub(crate) settings: Settings,
    pub(crate) http: HttpSettings,
    pub(crate) transport: TransportSettings,
    pub(crate) origins: Origins,
    pub(crate) proxies: TrustedProxies,
    pub(crate) root_path: ByteString,
    pub(crate) pages: HashMap<String, Page>,
    pub(crate) routes: Router,
    pub(crate) status_page: bool,
    pub(crate) trace: bool,
}

impl InterfaceServer {
    /// Creates a server for the application behind `layer`.
    pub fn new(layer: Arc<dyn ChannelLayer>) -> Self {
        Self {
            layer,
            settings: Settings::default(),
            http: HttpSettings::default(),
            transport: TransportSettings::default(),
            origins: Origins::default(),
            proxies: TrustedProxies::default(),
            root_path: ByteString::new(),
            pages: HashMap::new(),
            routes: Router::new(),
            status_page: false,
            trace: false,
        }
    }

    /// Sets how long a handshake waits for the application before it is refused with 403. Defaults to 30 s.
    pub fn accept_timeout(mut self, timeout: Duration) -> Self {
        self.settings.accept_timeout = timeout;
        self
    }

    /// Sets the queues, timeouts and limits of WebSockets.
    pub fn sockets(mut self, options: SocketOptions) -> Self {
        self.settings.sockets = options;
        self
    }

    /// Sets how long a frame of a client waits for room on `websocket.receive` before the client is closed with 1013.
    /// Defaults to 5 s.
    pub fn send_timeout(mut self, timeout: Duration) -> Self {
        self.settings.send_timeout = timeout;
        self
    }

    /// Sets what happens to the sockets when the layer has lost its data. Defaults to [`DataLoss::Close`].
    pub fn on_data_loss(mut self, action: DataLoss) -> Self {
        self.settings.data_loss = action;
        self
    }

    /// Sets the time over which the closing of all sockets is spread, in a shutdown or after a loss of data, so that
    /// clients do not all reconnect at once. The server closes a few of them immediately, and at least 20 per second.
    /// Defaults to 5 s.
    pub fn close_spread(mut self, over: Duration) -> Self {
        self.settings.close_spread = over;
        self
    }

    /// Sets whether a shutdown closes sockets with 1012 (service restart) instead of 1001 (going away). Defaults to
    /// `false`.
    pub fn restarts(mut self, restarts: bool) -> Self {
        self.settings.shutdown_code = if restarts { close_code::SERVICE_RESTART } else { close_code::GOING_AWAY };
        self
    }

    /// Sets how long the server accepts connections after the start of a shutdown. `/ready` answers 503 in that time,
    /// so that load balancers notice the shutdown before clients do. Defaults to 0.
    pub fn shutdown_delay(mut self, delay: Duration) -> Self {
        self.settings.shutdown_delay = delay;
        self
    }

    /// Sets how long a shutdown waits, once all sockets have been asked to close, for the sockets, for the HTTP
    /// requests in progress, and for the disconnect notices to the application. Defaults to 10 s.
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.settings.drain_timeout = timeout;
        self
    }

    /// Sets whether HTTP requests are passed to the application. WebSockets always are. If `false`, a request that
    /// matches no page and no route is answered with 404. Defaults to `true`.
    pub fn http(mut self, enabled: bool) -> Self {
        self.http.enabled = enabled;
        self
    }

    /// Sets how long the application may take to answer an HTTP request before the server answers 504, and how long for
    /// each further part of a response before the server cuts the connection. Defaults to 120 s.
    pub fn response_timeout(mut self, timeout: Duration) -> Self {
        self.http.response_timeout = timeout;
        self
    }

    /// Sets how many bytes of memory a response may take while it waits for its client. A client above it is cut off,
    /// because the reader of all responses waits for no client. Each part counts as 256 bytes in addition to its
    /// content, and each header as 128 in addition to its own. Defaults to 16 MiB.
    pub fn response_buffer(mut self, bytes: usize) -> Self {
        self.http.response_buffer = bytes;
        self
    }

    /// Sets how many bytes of memory all responses together may take while they wait for their clients, counted as in
    /// [`response_buffer`](Self::response_buffer). Above it, the client with the most waiting bytes is cut off.
    /// Defaults to 1 GiB.
    pub fn response_memory(mut self, bytes: usize) -> Self {
        self.http.response_memory = bytes;
        self
    }

    /// Sets the maximum size of a request body, in bytes. A larger one is refused with 413. Defaults to 16 MiB.
    pub fn max_body_size(mut self, bytes: usize) -> Self {
        self.http.max_body_size = bytes;
        self
    }

    /// Sets how long a client may take for each part of a request body before it is refused with 408. Defaults to 30 s.
    pub fn body_timeout(mut self, timeout: Duration) -> Self {
        self.http.body_timeout = timeout;
        self
    }

    /// Sets how long a client may take for a whole request body before it is refused with 408. The time that the
    /// application takes for it does not count. Defaults to 5 minutes.
    pub fn upload_timeout(mut self, timeout: Duration) -> Self {
        self.http.upload_timeout = timeout;
        self
    }

    /// Sets how long a client may accept no bytes of a response before it is cut off. An HTTP/2 client, which controls
    /// the flow itself, has to accept 16 KiB in that time, or in up to twice that. Defaults to 30 s.
    pub fn stall_timeout(mut self, timeout: Duration) -> Self {
        self.transport.stall_timeout = timeout;
        self
    }

    /// Sets how long a client may take for the TLS handshake, and for the head of each request, including the silence
    /// before it. An HTTP/2 connection is closed when no request was in progress for that time, or up to twice that.
    /// Defaults to 10 s.
    pub fn header_timeout(mut self, timeout: Duration) -> Self {
        self.transport.header_timeout = timeout;
        self
    }

    /// Sets the maximum size of the head of a request, in bytes, above which it is refused with 431, and of its URL,
    /// above which it is refused with 414. A request may have 100 headers. Defaults to 32 KiB and 8 KiB.
    pub fn max_header_size(mut self, head: usize, url: usize) -> Self {
        self.transport.max_header_size = head;
        self.transport.max_url_size = url;
        self
    }

    /// Sets the maximum number of connections on each listener, at least 1. HTTP connections and connections that have
    /// sent no request yet count; open WebSockets do not. Further connections wait until one ends. Defaults to 10,000.
    pub fn max_http_connections(mut self, connections: usize) -> Self {
        self.transport.max_connections = connections.max(1);
        self
    }

    /// Sets the maximum number of such connections from one address, or from one /64 of IPv6; 0 means no limit. Further
    /// connections are closed immediately. Behind a proxy all connections come from its address. Defaults to no limit.
    pub fn max_http_connections_per_address(mut self, connections: usize) -> Self {
        self.transport.max_connections_per_address = connections;
        self
    }

    /// Enables TLS on all TCP and unix listeners. Defaults to no TLS, which a proxy in front of the server then
    /// provides.
    pub fn tls(mut self, tls: Tls) -> Self {
        self.transport.tls = Some(tls);
        self
    }

    /// Sets whether the server logs each request when its response has ended, under the target `channel_layer::access`
    /// at level info. The line contains client, method, path, version, status, bytes and milliseconds, but no query and
    /// no header. Defaults to `false`.
    pub fn access_log(mut self, enabled: bool) -> Self {
        self.transport.access_log = enabled;
        self
    }

    /// Sets the origins whose pages may open WebSockets, as browsers name them in `Origin`: `https://example.org`, or
    /// `https://*.example.org` for every subdomain. A handshake from another origin is refused with 403. Defaults to
    /// all origins.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if a value is not an origin.
    pub fn allowed_origins<T: AsRef<str>>(mut self, origins: impl IntoIterator<Item = T>) -> Result<Self> {
        self.origins = Origins::parse(origins)?;
        Ok(self)
    }

    /// Sets the proxies whose `X-Forwarded-For` and `X-Forwarded-Proto` are trusted. Defaults to none.
    pub fn trusted_proxies(mut self, proxies: TrustedProxies) -> Self {
        self.proxies = proxies;
        self
    }

    /// Sets the path at which a proxy mounts the application. Messages carry it as `root_path`. Defaults to none.
    pub fn root_path(mut self, path: &str) -> Self {
        self.root_path = path.into();
        self
    }

    /// Sets whether the server serves a page for operators at `/status`, which reloads every 2 s: rates of the last two
    /// minutes, depths of channels, outcomes of handshakes and requests, shards. The page names channels, but no
    /// clients. Every client that reaches the server can open it: restrict access to it in your proxy. Defaults to
    /// `false`.
    pub fn status_page(mut self, enabled: bool) -> Self {
        self.status_page = enabled;
        self
    }

    /// Sets whether `websocket.connect`, `websocket.receive` and `http.request` carry a trace context as text under
    /// `traceparent` ([`trace`](crate::trace)): a child of the request's own context, or a new trace for each message.
    /// The application sees the key, and a [`Worker`](crate::Worker) passes the trace on with the messages that it
    /// sends. Spans are logged to `tracing` under the target `channel_layer::trace` at level debug. Defaults to
    /// `false`.
    pub fn trace(mut self, enabled: bool) -> Self {
        self.trace = enabled;
        self
    }

    /// Adds routes. Requests that they do not match go to the pages and then to the application.
    pub fn routes(mut self, routes: Router) -> Self {
        self.routes = self.routes.merge(routes);
        self
    }

    /// Adds a page at `path`. It is served with a strict Content-Security-Policy: a page may load from this server
    /// only.
    pub fn page(mut self, path: &str, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        self.pages.insert(path.to_owned(), Page { content_type, body: body.into() });
        self
    }

    /// Checks that no timeout or limit with which no client could be served is 0, and that the limit on messages of
    /// clients is not above that of the layer. A message to the application also contains the path and the names of
    /// channels, so the largest messages of clients fit only if the limit of the layer is larger.
    /// [`serve`](BoundServer::serve) checks the settings too.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] with the setting that is 0, or with both limits, if [`SocketOptions::max_message_size`]
    /// is above the limit of the layer.
    pub fn validate(&self) -> Result<()> {
        self.settings.sockets.validate()?;
        check_positive([
            ("InterfaceServer::accept_timeout (--accept-timeout)", self.settings.accept_timeout.is_zero()),
            ("InterfaceServer::response_timeout (--response-timeout)", self.http.response_timeout.is_zero()),
            ("InterfaceServer::response_buffer (--response-buffer)", self.http.response_buffer == 0),
            ("InterfaceServer::response_memory (--response-memory)", self.http.response_memory == 0),
            ("InterfaceServer::body_timeout (--body-timeout)", self.http.body_timeout.is_zero()),
            ("InterfaceServer::upload_timeout (--upload-timeout)", self.http.upload_timeout.is_zero()),
            ("InterfaceServer::stall_timeout (--stall-timeout)", self.transport.stall_timeout.is_zero()),
            ("InterfaceServer::header_timeout (--header-timeout)", self.transport.header_timeout.is_zero()),
            ("InterfaceServer::max_header_size (--max-header-size)", self.transport.max_header_size == 0),
            ("InterfaceServer::max_header_size (--max-url-size)", self.transport.max_url_size == 0),
        ])?;
        let (clients, layer) = (self.settings.sockets.max_message_size, self.layer.max_message_size());
        if clients <= layer {
            return Ok(());
        }
        let reason = format!(
            "it is above the limit of the layer, Config::max_message_size (CHANNEL_LAYER_MAX_MESSAGE_SIZE) = {layer}"
        );
        Err(Error::config("SocketOptions::max_message_size (--max-message-size)", clients, reason))
    }

    /// Listens on a TCP address. Connections wait until [`serve`](BoundServer::serve) accepts them.
    ///
    /// # Cancel safety
    ///
    /// When dropped, nothing listens.
    ///
    /// # Errors
    ///
    /// The error of the operating system, for example that the address is in use.
    pub async fn bind(self, address: impl ToSocketAddrs) -> io::Result<BoundServer> {
        Ok(self.listen(Listener::tcp(address).await?))
    }

    /// Accepts connections from `listener`.
    pub fn listen(self, listener: Listener) -> BoundServer {
        BoundServer::new(self, listener)
    }
}

impl fmt::Debug for InterfaceServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InterfaceServer").field("settings", &self.settings).finish_non_exhaustive()
    }
}
