//! The WebSocket handshake: answered when the application has decided.

use std::sync::Arc;

use axum::extract::{FromRequestParts, Request};
use axum::http::header::UPGRADE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};

use super::asgi::{Peer, Reply, decode_path};
use super::heartbeat::LONGEST;
use super::session::{Decision, Session};
use super::shared::Shared;
use super::upgrade::Upgrade;
use super::websocket;
use crate::error::Error;

pub(crate) fn is_upgrade(headers: &HeaderMap) -> bool {
    headers.get(UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// Asks the application and answers the request: 101 if it accepts, 403 if it does not or says nothing in time, 503 if
/// it cannot be asked.
pub(crate) async fn answer(shared: Arc<Shared>, peer: Peer, request: Request) -> Response {
    let mut parts = request.into_parts().0;
    if !shared.origins.permit(&parts.headers) {
        tracing::debug!(client = ?peer.client, "a handshake comes from a page of another site");
        return StatusCode::FORBIDDEN.into_response();
    }
    let upgrade = match Upgrade::from_request_parts(&mut parts, &()).await {
        Ok(upgrade) => upgrade,
        Err(rejection) => return rejection.into_response(),
    };
    let mut session = match Session::new(&shared, decode_path(parts.uri.path()), peer) {
        Ok(session) => session,
        Err(refused) => return refused.into_response(),
    };
    if let Err(error) = session.connect(&parts, peer).await {
        tracing::debug!(%error, "a handshake cannot be passed on");
        return refusal(&error).into_response();
    }
    match decision(&mut session).await {
        Ok(first) => open(upgrade, session, first),
        Err(status) => status.into_response(),
    }
}

fn refusal(error: &Error) -> StatusCode {
    match error {
        Error::ChannelFull { .. } | Error::Redis { .. } | Error::Closed => StatusCode::SERVICE_UNAVAILABLE,
        Error::MessageTooLarge { .. } => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The reply that opens the socket, or the status to refuse it with.
async fn decision(session: &mut Session) -> Result<Reply, StatusCode> {
    match session.decision().await {
        Decision::Accepted(first) => Ok(first),
        Decision::Refused => Err(StatusCode::FORBIDDEN),
        Decision::Closing => Err(StatusCode::SERVICE_UNAVAILABLE),
    }
}

/// If the upgrade fails the closure is dropped and the session with it, which sends the disconnect.
fn open(upgrade: Upgrade, mut session: Session, first: Reply) -> Response {
    upgrade.open(None, async move |stream| {
        let options = session.shared().settings.sockets;
        let expires = session.begun() + session.shared().layer.group_expiry().min(LONGEST);
        let queue = session.queue().clone();
        let end = websocket::run(stream, &mut session, &queue, &options, expires, first).await;
        session.set_code(end.code());
    })
}
