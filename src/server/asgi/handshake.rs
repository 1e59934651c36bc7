//! The WebSocket handshake: asks the application, and answers the client.

use std::sync::Arc;

use axum::extract::{FromRequestParts, Request};
use axum::http::StatusCode;
use axum::http::header::ORIGIN;
use axum::response::{IntoResponse, Response};

use crate::error::Error;
use crate::server::asgi::messages::decode_path;
use crate::server::asgi::session::{Decision, Session, SocketContext};
use crate::server::counters::Count;
use crate::server::options::LONGEST_TIMEOUT;
use crate::server::transport::listener::Peer;
use crate::server::websocket::protocol as websocket;
use crate::server::websocket::upgrade::Upgrade;
use crate::supervise::update_metric;

/// Answers a request for a WebSocket, and counts the outcome.
pub(crate) async fn answer(context: Arc<SocketContext>, peer: Peer, request: Request) -> Response {
    let (outcome, response) = match try_answer(&context, peer, request).await {
        Ok(opened) => ("accepted", opened),
        Err(Denied { outcome, response }) => (outcome, response),
    };
    update_metric(|| metrics::counter!("channel_layer_handshakes_total", "outcome" => outcome).increment(1));
    let counted = match outcome {
        "accepted" => Count::Accepted,
        "refused" => Count::Refused,
        "timeout" => Count::TimedOut,
        _ => Count::Rejected,
    };
    context.counters.add(counted, 1);
    response
}

/// The response to a handshake that opens no socket.
struct Denied {
    /// Label of the metric.
    outcome: &'static str,
    response: Response,
}

impl Denied {
    fn new(outcome: &'static str, response: impl IntoResponse) -> Self {
        Self { outcome, response: response.into_response() }
    }
}

/// Asks the application and answers the request: 101 if the application accepts, 403 if it refuses or does not answer
/// in time, 503 if it cannot be asked.
async fn try_answer(context: &Arc<SocketContext>, peer: Peer, request: Request) -> Result<Response, Denied> {
    let mut parts = request.into_parts().0;
    if !context.origins.permit(parts.headers.get_all(ORIGIN)) {
        tracing::debug!(client = ?peer.client, "handshake refused: origin is not allowed");
        return Err(Denied::new("origin", StatusCode::FORBIDDEN));
    }
    let upgrade =
        Upgrade::from_request_parts(&mut parts, &()).await.map_err(|rejection| Denied::new("malformed", rejection))?;
    let mut session = Session::new(context, decode_path(parts.uri.path()), peer)
        .map_err(|refused| Denied::new("limited", refused))?;
    session.connect(&parts, peer).await.map_err(|error| {
        tracing::debug!(%error, "cannot pass a handshake to the application");
        refusal(&error)
    })?;
    match session.decision().await {
        Decision::Accepted(first) => {
            session.keep_first(first);
            Ok(open(upgrade, session))
        }
        Decision::Refused => Err(Denied::new("refused", StatusCode::FORBIDDEN)),
        Decision::TimedOut => Err(Denied::new("timeout", StatusCode::FORBIDDEN)),
        Decision::Closing => Err(Denied::new("closing", StatusCode::SERVICE_UNAVAILABLE)),
    }
}

fn refusal(error: &Error) -> Denied {
    match error {
        Error::ChannelFull { .. } => Denied::new("full", StatusCode::SERVICE_UNAVAILABLE),
        Error::Redis { .. } | Error::Closed | Error::RuntimeEnded => {
            Denied::new("unavailable", StatusCode::SERVICE_UNAVAILABLE)
        }
        Error::MessageTooLarge { .. } => Denied::new("too_large", StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
        _ => Denied::new("error", StatusCode::INTERNAL_SERVER_ERROR),
    }
}

/// Returns the response that opens the socket. If the upgrade fails, the closure is dropped with the session, which
/// sends the disconnect. So does the end of the server, which aborts the socket.
fn open(upgrade: Upgrade, mut session: Session) -> Response {
    upgrade.open(async move |stream| {
        let context = session.context().clone();
        let serving = async {
            let expires = session.started() + context.application.layer.group_expiry().min(LONGEST_TIMEOUT);
            let (queue, first) = (session.queue().clone(), session.take_first());
            websocket::run(stream, &mut session, &queue, &context.options, expires, first).await
        };
        if let Some(end) = context.shutdown.aborted.run_until_cancelled(serving).await {
            session.set_code(end.code());
        }
    })
}
