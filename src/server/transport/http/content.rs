//! The responses that have content (RFC 9110, section 6.4.1).

use axum::body::Body;
use axum::http::header::CONTENT_LENGTH;
use axum::http::{Method, StatusCode};
use axum::response::Response;

/// Returns `true` if the response to a request with this method may have content.
pub(crate) fn is_allowed(method: &Method, status: StatusCode) -> bool {
    method != Method::HEAD && !status.is_informational() && !forbids_content(status)
}

fn forbids_content(status: StatusCode) -> bool {
    matches!(status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED)
}

/// Removes the content and the length that a response must not have. A response to HEAD keeps the length, which is the
/// length of the response to GET.
pub(crate) fn strip(method: &Method, mut response: Response) -> Response {
    if is_allowed(method, response.status()) {
        return response;
    }
    if forbids_content(response.status()) {
        response.headers_mut().remove(CONTENT_LENGTH);
    }
    response.map(|_| Body::empty())
}
