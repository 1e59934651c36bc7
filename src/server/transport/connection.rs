//! One connection of a client: TLS, the protocol, its limits and timeouts, and its end when the server shuts down.

use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::header::CONNECTION;
use axum::http::{HeaderValue, StatusCode, Version};
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{sleep, timeout};
use tokio_io_timeout::TimeoutStream;
use tokio_util::task::TaskTracker;
use tower_service::Service;

use crate::server::asgi::messages::Peer;
use crate::server::http::chunked;
use crate::server::http::content;
use crate::server::http::request::normalize;
use crate::server::interface::shared::Shared;
use crate::server::status;
use crate::server::status::Count;
use crate::server::status::access_log::{Entry, Tracked};
use crate::server::transport::linger::linger;
use crate::server::transport::listener::{Stream, Tls, is_http2};
use crate::server::transport::pending_writes::Unwritten;
use crate::server::transport::streams::{Progress, Streams};
use crate::server::websocket::heartbeat::LONGEST;

/// For how long nothing has to be written before a connection without requests ends in a shutdown.
const LAST_BYTES: Duration = Duration::from_millis(500);

/// How often an HTTP/2 client is asked whether it is there.
const HTTP2_PING: Duration = Duration::from_secs(25);

/// How many requests an HTTP/2 client may have under way.
const HTTP2_STREAMS: u32 = 100;

/// How many bytes of a response may wait between an HTTP/2 stream and a connection that takes them slowly.
const HTTP2_SEND_BUFFER: usize = 64 * 1024;

/// What is asked of a connection, whatever its requests are.
#[derive(Clone, Debug)]
pub(crate) struct Transport {
    pub(crate) tls: Option<Tls>,
    /// How long the client may take for the handshake of TLS, and for the head of each request.
    pub(crate) header_timeout: Duration,
    /// How long nothing may move while something is to be written, or waits for an HTTP/2 client to allow it.
    pub(crate) stall_timeout: Duration,
    /// On each listener; sockets that are open do not count.
    pub(crate) max_connections: usize,
    /// From one address, whatever the listener; 0 is no limit.
    pub(crate) max_connections_per_address: usize,
    pub(crate) max_header_size: usize,
    pub(crate) max_url_size: usize,
    pub(crate) access_log: bool,
}

impl Default for Transport {
    fn default() -> Self {
        Self {
            tls: None,
            header_timeout: Duration::from_secs(10),
            stall_timeout: Duration::from_secs(30),
            max_connections: 10_000,
            max_connections_per_address: 0,
            max_header_size: 32 * 1024,
            max_url_size: 8 * 1024,
            access_log: false,
        }
    }
}

/// Where load balancers ask whether the server should get clients.
const READY: &str = "/ready";

/// The smallest buffer that hyper takes.
const SMALLEST_BUFFER: usize = 8 * 1024;

/// Answers a client's requests until it leaves or the server shuts down; requests under way are finished then. A
/// WebSocket goes on without this.
pub(crate) async fn serve(stream: Stream, peer: Peer, router: Router, shared: Arc<Shared>) {
    let served = match stream {
        Stream::Tcp(stream) => secured(stream, peer, router, &shared).await,
        Stream::Unix(stream) => secured(stream, peer, router, &shared).await,
    };
    if let Err(error) = served {
        tracing::debug!(error = &*error as &dyn std::error::Error, client = ?peer.client, "a connection broke");
    }
}

type Served = Result<(), Box<dyn std::error::Error + Send + Sync>>;

async fn secured<S>(stream: S, peer: Peer, router: Router, shared: &Arc<Shared>) -> Served
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Some(tls) = &shared.transport.tls else { return connection(stream, peer, false, router, shared).await };
    let handshake = timeout(shared.transport.header_timeout, tls.accept(stream));
    let stream = tokio::select! {
        shaken = handshake => shaken.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??,
        () = shared.stopping.cancelled() => return Ok(()),
    };
    let http2 = is_http2(&stream);
    connection(stream, Peer { secure: true, ..peer }, http2, router, shared).await
}

async fn connection<S>(stream: S, peer: Peer, http2: bool, router: Router, shared: &Arc<Shared>) -> Served
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (requests, taken) = (TaskTracker::new(), Arc::new(AtomicUsize::new(0)));
    let service = service_fn({
        let (requests, taken, shared) = (requests.clone(), taken.clone(), shared.clone());
        move |request: hyper::Request<Incoming>| {
            taken.fetch_add(1, Ordering::Relaxed);
            let (busy, router, shared) = (requests.token(), router.clone(), shared.clone());
            async move {
                let (request, clean_end) = chunked::watch(request);
                let peer = shared.proxies.resolve(peer, request.headers());
                let entry = shared.transport.access_log.then(|| Entry::new(peer.client, &request));
                let mut response = respond(request, peer, router, &shared).await;
                if clean_end.is_some_and(|end| !end.is_reached()) {
                    close_behind(&mut response);
                }
                let status = response.status();
                Ok::<_, Infallible>(response.map(|body| Tracked::new(body, status, entry, busy)))
            }
        }
    });
    let transport = &shared.transport;
    let mut stream = TimeoutStream::new(stream);
    // Of a socket the other timeout is the one that counts, and is to come first.
    let sockets = shared.settings.sockets.write_timeout.saturating_add(Duration::from_secs(1));
    stream.set_write_timeout(Some(transport.stall_timeout.max(sockets).min(LONGEST)));
    let unwritten = Unwritten::default();
    let stream = TokioIo::new(unwritten.watch(Box::pin(stream)));
    let ending = Ending { requests, taken, unwritten, http2 };
    if http2 {
        let mut builder = http2::Builder::new(Streams::new(transport.stall_timeout));
        builder
            .timer(TokioTimer::new())
            .keep_alive_interval(HTTP2_PING)
            .max_concurrent_streams(HTTP2_STREAMS)
            .max_send_buf_size(HTTP2_SEND_BUFFER)
            .max_header_list_size(u32::try_from(transport.max_header_size).unwrap_or(u32::MAX));
        let connection = pin!(builder.serve_connection(stream, service));
        return until_shutdown(connection, http2::Connection::graceful_shutdown, ending, shared).await;
    }
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(transport.header_timeout.min(LONGEST))
        .max_header_size(transport.max_header_size)
        .max_buf_size(transport.max_header_size.max(SMALLEST_BUFFER));
    let mut connection = builder.serve_connection(stream, service).with_upgrades();
    let graceful_shutdown = http1::UpgradeableConnection::graceful_shutdown;
    let until_shutdown = until_shutdown(Pin::new(&mut connection), graceful_shutdown, ending, shared);
    let Some(served) = Progress::default().run(until_shutdown).await else { return Ok(()) };
    if let Some(parts) = connection.into_parts() {
        tokio::select! {
            () = linger(parts.io.into_inner()) => {}
            () = shared.stopping.cancelled() => {}
        }
    }
    served
}

/// What a connection has to do yet before it may end.
struct Ending {
    requests: TaskTracker,
    /// How many requests have come.
    taken: Arc<AtomicUsize>,
    unwritten: Unwritten,
    http2: bool,
}

impl Ending {
    /// Waits until no request has come, nor been under way, for some time. Of HTTP/1 hyper sees to that itself.
    async fn idle(&self, patience: Duration) {
        if !self.http2 {
            std::future::pending::<()>().await;
        }
        let mut before = None;
        loop {
            let taken = self.taken.load(Ordering::Relaxed);
            if before == Some(taken) && self.requests.is_empty() {
                return;
            }
            before = Some(taken);
            sleep(patience).await;
        }
    }

    /// Waits until the requests under way are answered, and nothing of the answers waits to be written.
    async fn done(&self) {
        self.requests.close();
        self.requests.wait().await;
        if self.http2 && self.taken.load(Ordering::Relaxed) > 0 {
            // Parts of answers may wait for their client to allow them; the protocol knows when all is done.
            std::future::pending::<()>().await;
        }
        loop {
            sleep(LAST_BYTES).await;
            if !self.unwritten.is_some() {
                return;
            }
        }
    }
}

/// Drives a connection to its end. In a shutdown it ends when the requests under way are answered: one of which only a
/// part has come would never be. One that is of no use ends as well.
async fn until_shutdown<C: Future<Output = hyper::Result<()>>>(
    mut connection: Pin<&mut C>,
    graceful_shutdown: fn(Pin<&mut C>),
    ending: Ending,
    shared: &Shared,
) -> Served {
    tokio::select! {
        served = connection.as_mut() => return Ok(served?),
        () = shared.stopping.cancelled() => graceful_shutdown(connection.as_mut()),
        () = ending.idle(shared.transport.header_timeout) => {
            graceful_shutdown(connection.as_mut());
            // Until then a request may have come.
            ending.requests.close();
            let over = async {
                sleep(LAST_BYTES).await;
                ending.requests.wait().await;
            };
            return tokio::select! {
                served = connection => Ok(served?),
                () = over => Ok(()),
            };
        }
    }
    tokio::select! {
        served = connection => Ok(served?),
        () = ending.done() => Ok(()),
    }
}

async fn respond(mut request: Request, peer: Peer, router: Router, shared: &Shared) -> Response {
    let (method, version) = (request.method().clone(), request.version());
    let shown = !status::is_own(shared, request.uri().path());
    let (mut response, well_formed) = match check(&mut request, shared) {
        Ok(()) => {
            request.extensions_mut().insert(peer);
            (answer(request, router, shared).await, true)
        }
        Err(status) => (status.into_response(), false),
    };
    // The rest of the body is not waited for.
    let given_up = matches!(response.status(), StatusCode::REQUEST_TIMEOUT | StatusCode::PAYLOAD_TOO_LARGE);
    if version != Version::HTTP_2 && (given_up || !well_formed) {
        close_behind(&mut response);
    }
    count(response.status(), shown, shared);
    content::strip(&method, response)
}

fn check(request: &mut Request, shared: &Shared) -> Result<(), StatusCode> {
    let length = request.uri().path_and_query().map_or(0, |url| url.as_str().len());
    if length > shared.transport.max_url_size {
        return Err(StatusCode::URI_TOO_LONG);
    }
    normalize(request)
}

/// Makes the response of HTTP/1 the last one on its connection.
fn close_behind(response: &mut Response) {
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
}

async fn answer(request: Request, mut router: Router, shared: &Shared) -> Response {
    // Whatever route tells of readiness cannot know that the server is about to go.
    if shared.leaving.is_cancelled() && request.uri().path() == READY {
        return (StatusCode::SERVICE_UNAVAILABLE, "shutting down\n").into_response();
    }
    let Ok(response) = router.call(request).await;
    response
}

fn count(status: StatusCode, shown: bool, shared: &Shared) {
    let (class, counted) = match status.as_u16() / 100 {
        1 => ("1xx", None),
        2 => ("2xx", Some(Count::Succeeded)),
        3 => ("3xx", Some(Count::Redirected)),
        4 => ("4xx", Some(Count::ClientError)),
        _ => ("5xx", Some(Count::ServerError)),
    };
    metrics::counter!("channel_layer_http_responses_total", "status" => class).increment(1);
    if let Some(counted) = counted
        && shown
    {
        shared.tally.add(counted, 1);
    }
}
