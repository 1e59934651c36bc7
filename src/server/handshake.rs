//! The WebSocket handshake: answered when the application has decided.

use std::sync::Arc;

use axum::extract::{FromRequestParts, Request, WebSocketUpgrade};
use axum::http::header::UPGRADE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};

use super::asgi::{Peer, Reply, decode_path};
use super::session::{Decision, Session};
use super::shared::Shared;
use super::websocket;
use crate::error::Error;

pub(crate) fn is_upgrade(headers: &HeaderMap) -> bool {
    headers.get(UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// Asks the application and answers the request: 101 if it accepts, 403 if it does not or says nothing in time, 503 if
/// it cannot be asked.
pub(crate) async fn answer(shared: Arc<Shared>, peer: Peer, request: Request) -> Response {
    let mut parts = request.into_parts().0;
    let upgrade = match WebSocketUpgrade::from_request_parts(&mut parts, &()).await {
        Ok(upgrade) => upgrade,
        Err(rejection) => return rejection.into_response(),
    };
    let mut session = Session::new(&shared, decode_path(parts.uri.path()));
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
fn open(upgrade: WebSocketUpgrade, session: Session, first: Reply) -> Response {
    let limit = session.shared().settings.max_message_size;
    upgrade
        // The default of 128 KiB is set aside for each socket, and most are idle.
        .read_buffer_size(8 * 1024)
        .max_message_size(limit)
        .max_frame_size(limit)
        .on_upgrade(move |socket| websocket::run(socket, session, first))
}
