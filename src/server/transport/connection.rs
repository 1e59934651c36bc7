//! One client connection: TLS, HTTP/1 or HTTP/2, timeouts, and its end during a shutdown.

use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_io_timeout::TimeoutStream;

use crate::server::counters::Counters;
use crate::server::limits::ConnectionLimiter;
use crate::server::options::LONGEST_TIMEOUT;
use crate::server::transport::http::chunked;
use crate::server::transport::linger::linger;
use crate::server::transport::listener::{Peer, Stream, is_http2};
use crate::server::transport::pending_writes::PendingWrites;
use crate::server::transport::proxy::TrustedProxies;
use crate::server::transport::response::respond;
use crate::server::transport::settings::TransportSettings;
use crate::server::transport::shutdown::{RequestActivity, Shutdown, serve_until_shutdown};
use crate::server::transport::streams::{Progress, StreamExecutor};

/// Interval of the pings that check whether an HTTP/2 client is alive.
const HTTP2_PING: Duration = Duration::from_secs(25);

/// Maximum number of concurrent requests of an HTTP/2 connection.
const HTTP2_STREAMS: u32 = 100;

/// Bytes of a response that may wait between an HTTP/2 stream and a connection that takes them slowly.
const HTTP2_SEND_BUFFER: usize = 64 * 1024;

/// The smallest buffer that hyper accepts.
const SMALLEST_BUFFER: usize = 8 * 1024;

/// State that all connections of one server share.
pub(crate) struct TransportContext {
    pub(crate) settings: TransportSettings,
    pub(crate) proxies: TrustedProxies,
    /// Limits the connections. Open sockets do not count.
    pub(crate) limiter: Arc<ConnectionLimiter>,
    /// Write timeout of open WebSockets, which enforce it themselves.
    pub(crate) socket_write_timeout: Duration,
    pub(crate) counters: Arc<Counters>,
    /// Paths of the status page. Their responses are not counted, so that the page does not show its own requests.
    pub(crate) uncounted_paths: &'static [&'static str],
    pub(crate) shutdown: Shutdown,
}

/// Answers the requests of a client until it disconnects or the server shuts down. A shutdown finishes the requests in
/// progress. An open WebSocket outlives this future.
pub(crate) async fn serve(stream: Stream, peer: Peer, router: Router, context: Arc<TransportContext>) {
    let served = match stream {
        Stream::Tcp(stream) => serve_stream(stream, peer, router, &context).await,
        Stream::Unix(stream) => serve_stream(stream, peer, router, &context).await,
    };
    if let Err(error) = served {
        tracing::debug!(error = &*error as &dyn std::error::Error, client = ?peer.client, "connection failed");
    }
}

/// How serving a connection ended.
pub(crate) type Served = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// Runs the TLS handshake if the server has a certificate, and then HTTP.
async fn serve_stream<S>(stream: S, peer: Peer, router: Router, context: &Arc<TransportContext>) -> Served
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Some(tls) = &context.settings.tls else { return serve_http(stream, peer, false, router, context).await };
    let handshake = timeout(context.settings.header_timeout, tls.accept(stream));
    let stream = tokio::select! {
        finished = handshake => finished.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??,
        () = context.shutdown.draining.cancelled() => return Ok(()),
    };
    let http2 = is_http2(&stream);
    serve_http(stream, Peer { secure: true, ..peer }, http2, router, context).await
}

async fn serve_http<S>(stream: S, peer: Peer, http2: bool, router: Router, context: &Arc<TransportContext>) -> Served
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let pending_writes = PendingWrites::default();
    let activity = RequestActivity::new(http2, pending_writes.clone());
    let service = service_fn({
        let (activity, context) = (activity.clone(), context.clone());
        move |request: hyper::Request<Incoming>| {
            let (token, router, context) = (activity.begin(), router.clone(), context.clone());
            async move {
                let (request, clean_end) = chunked::watch(request);
                Ok::<_, Infallible>(respond(request, clean_end, peer, router, &context, token).await)
            }
        }
    });
    let stream = TokioIo::new(pending_writes.track(with_write_timeout(stream, context)));
    if http2 {
        let connection = pin!(http2_builder(&context.settings).serve_connection(stream, service));
        return serve_until_shutdown(connection, http2::Connection::graceful_shutdown, &activity, context).await;
    }
    let mut connection = http1_builder(&context.settings).serve_connection(stream, service).with_upgrades();
    let graceful_shutdown = http1::UpgradeableConnection::graceful_shutdown;
    let serving = serve_until_shutdown(Pin::new(&mut connection), graceful_shutdown, &activity, context);
    let Some(served) = Progress::default().run(serving).await else { return Ok(()) };
    if let Some(parts) = connection.into_parts() {
        tokio::select! {
            () = linger(parts.io.into_inner()) => {}
            () = context.shutdown.draining.cancelled() => {}
        }
    }
    served
}

/// Adds the write timeout. It is longer than the write timeout of WebSockets, which has to fire first for an open
/// socket.
fn with_write_timeout<S>(stream: S, context: &TransportContext) -> Pin<Box<TimeoutStream<S>>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let sockets = context.socket_write_timeout.saturating_add(Duration::from_secs(1));
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(context.settings.stall_timeout.max(sockets).min(LONGEST_TIMEOUT)));
    Box::pin(stream)
}

fn http1_builder(settings: &TransportSettings) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(settings.header_timeout.min(LONGEST_TIMEOUT))
        .max_header_size(settings.max_header_size)
        .max_buf_size(settings.max_header_size.max(SMALLEST_BUFFER));
    builder
}

fn http2_builder(settings: &TransportSettings) -> http2::Builder<StreamExecutor> {
    let mut builder = http2::Builder::new(StreamExecutor::new(settings.stall_timeout));
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(HTTP2_PING)
        .max_concurrent_streams(HTTP2_STREAMS)
        .max_send_buf_size(HTTP2_SEND_BUFFER)
        .max_header_list_size(u32::try_from(settings.max_header_size).unwrap_or(u32::MAX));
    builder
}
