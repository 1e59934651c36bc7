//! The response to one request: the checks before the routes, the counters, and whether the connection stays open.

use axum::Router;
use axum::extract::Request;
use axum::http::header::CONNECTION;
use axum::http::{HeaderValue, StatusCode, Version};
use axum::response::{IntoResponse, Response};
use tokio_util::task::task_tracker::TaskTrackerToken;
use tower_service::Service;

use crate::server::counters::Count;
use crate::server::transport::connection::TransportContext;
use crate::server::transport::http::chunked::CleanEnd;
use crate::server::transport::http::content;
use crate::server::transport::http::request::normalize;
use crate::server::transport::listener::Peer;
use crate::server::transport::response::access_log::Entry;
use crate::server::transport::response::body::TrackedBody;
use crate::supervise::update_metric;

/// Path of the readiness probe of load balancers.
const READY: &str = "/ready";

/// Answers one request. `token` is dropped with the body of the response.
pub(crate) async fn respond(
    request: Request,
    clean_end: Option<CleanEnd>,
    peer: Peer,
    router: Router,
    context: &TransportContext,
    token: TaskTrackerToken,
) -> Response<TrackedBody> {
    let peer = context.proxies.resolve(peer, request.headers());
    let entry = context.settings.access_log.then(|| Entry::new(peer.client, &request));
    let mut response = check_and_route(request, peer, router, context).await;
    if clean_end.is_some_and(|end| !end.is_reached()) {
        close_after(&mut response);
    }
    let status = response.status();
    response.map(|body| TrackedBody::new(body, status, entry, token))
}

/// Checks a request, routes it, and counts the response.
async fn check_and_route(mut request: Request, peer: Peer, router: Router, context: &TransportContext) -> Response {
    let (method, version) = (request.method().clone(), request.version());
    let is_counted = !context.uncounted_paths.contains(&request.uri().path());
    let (mut response, well_formed) = match check(&mut request, context) {
        Ok(()) => {
            request.extensions_mut().insert(peer);
            (route(request, router, context).await, true)
        }
        Err(status) => (status.into_response(), false),
    };
    // After these responses the server does not read the rest of the body.
    let unread_body = matches!(response.status(), StatusCode::REQUEST_TIMEOUT | StatusCode::PAYLOAD_TOO_LARGE);
    if version != Version::HTTP_2 && (unread_body || !well_formed) {
        close_after(&mut response);
    }
    count(response.status(), is_counted, context);
    content::strip(&method, response)
}

fn check(request: &mut Request, context: &TransportContext) -> Result<(), StatusCode> {
    let length = request.uri().path_and_query().map_or(0, |url| url.as_str().len());
    if length > context.settings.max_url_size {
        return Err(StatusCode::URI_TOO_LONG);
    }
    normalize(request)
}

/// Makes an HTTP/1 response the last one on its connection.
fn close_after(response: &mut Response) {
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
}

async fn route(request: Request, mut router: Router, context: &TransportContext) -> Response {
    // The routes do not know that the server is shutting down.
    if context.shutdown.requested.is_cancelled() && request.uri().path() == READY {
        return (StatusCode::SERVICE_UNAVAILABLE, "shutting down\n").into_response();
    }
    let Ok(response) = router.call(request).await;
    response
}

fn count(status: StatusCode, is_counted: bool, context: &TransportContext) {
    let (class, count) = match status.as_u16() / 100 {
        1 => ("1xx", None),
        2 => ("2xx", Some(Count::Succeeded)),
        3 => ("3xx", Some(Count::Redirected)),
        4 => ("4xx", Some(Count::ClientError)),
        _ => ("5xx", Some(Count::ServerError)),
    };
    update_metric(|| metrics::counter!("channel_layer_http_responses_total", "status" => class).increment(1));
    if let Some(count) = count
        && is_counted
    {
        context.counters.add(count, 1);
    }
}
