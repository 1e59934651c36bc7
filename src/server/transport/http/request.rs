//! The checks of every request that hyper leaves to the server.

use axum::extract::Request;
use axum::http::header::{CONTENT_LENGTH, COOKIE, EXPECT, HOST, TRANSFER_ENCODING};
use axum::http::uri::{Scheme, Uri};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};

use crate::server::transport::http::host;
use crate::trace::{self, TraceParent};

/// Maximum number of headers in a request, as in hyper's HTTP/1.
const MAX_HEADERS: usize = 100;

/// Refuses a malformed request, and normalizes any other: `Host` is the authority of the target, and the cookies of an
/// HTTP/2 request are one header.
///
/// # Errors
///
/// The status of the response.
pub(crate) fn normalize(request: &mut Request) -> Result<(), StatusCode> {
    let version = request.version();
    if !has_valid_form(request.method(), request.uri()) {
        return Err(StatusCode::BAD_REQUEST);
    }
    if version == Version::HTTP_2 {
        check_fields(request.headers())?;
        join_cookies(request.headers_mut());
        // hyper checks the number of headers for HTTP/1 only.
        if request.headers().len() > MAX_HEADERS {
            return Err(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
        }
    }
    check_transfer_coding(request.headers())?;
    if version != Version::HTTP_10
        && list(request.headers(), &EXPECT).any(|expectation| !is(expectation, "100-continue"))
    {
        return Err(StatusCode::EXPECTATION_FAILED);
    }
    let host = host::resolve(version, request.uri(), request.headers()).map_err(|_| StatusCode::BAD_REQUEST)?;
    if let Some(host) = host {
        request.headers_mut().insert(HOST, host);
    }
    Ok(())
}

/// Returns the members of a list header, from all of its lines.
pub(crate) fn list<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h [u8]> + use<'h> {
    let values = headers.get_all(name).iter();
    values.flat_map(|value| value.as_bytes().split(|&byte| byte == b',')).map(<[u8]>::trim_ascii)
}

/// Returns `true` if a list member is this token.
pub(crate) fn is(member: &[u8], token: &str) -> bool {
    member.eq_ignore_ascii_case(token.as_bytes())
}

/// Returns `true` if the target has a valid form (RFC 9112, section 3.2). The parser reads a target without a leading
/// slash as a host.
fn has_valid_form(method: &Method, target: &Uri) -> bool {
    if method == Method::CONNECT {
        return target.authority().is_some();
    }
    let whole = match target.scheme() {
        Some(scheme) => (*scheme == Scheme::HTTP || *scheme == Scheme::HTTPS) && target.authority().is_some(),
        None => target.authority().is_none(),
    };
    let all = method == Method::OPTIONS && target.path() == "*" && target.query().is_none();
    whole && (target.path().starts_with('/') || all)
}

/// Checks values (RFC 9113, section 8.2.1) and lengths (RFC 9110, section 8.6) of HTTP/2. hyper checks them for HTTP/1.
fn check_fields(headers: &HeaderMap) -> Result<(), StatusCode> {
    let padded = |value: &HeaderValue| value.as_bytes().trim_ascii().len() < value.len();
    let lengths = headers.get_all(CONTENT_LENGTH).iter().count();
    if lengths > 1 || headers.values().any(padded) { Err(StatusCode::BAD_REQUEST) } else { Ok(()) }
}

/// Joins the cookies into one header. HTTP/2 may send each cookie in a header of its own, which compresses better (RFC
/// 9113, section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let cookies: Vec<_> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if cookies.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&cookies.join(&b"; "[..]))
    {
        headers.insert(COOKIE, joined);
    }
}

/// Checks that chunked is the only transfer coding: hyper supports no other, and looks at the last one only.
fn check_transfer_coding(headers: &HeaderMap) -> Result<(), StatusCode> {
    let codings: Vec<_> = list(headers, &TRANSFER_ENCODING).collect();
    let Some((_, applied_before)) = codings.split_last() else { return Ok(()) };
    let wrong = |coding: &&[u8]| coding.is_empty() || is(coding, "chunked");
    match applied_before {
        [] => Ok(()),
        codings if codings.iter().any(wrong) => Err(StatusCode::BAD_REQUEST),
        _ => Err(StatusCode::NOT_IMPLEMENTED),
    }
}

/// Returns the trace context of a request, if it has a valid one.
pub(crate) fn trace_parent(request: &HeaderMap) -> Option<TraceParent> {
    TraceParent::parse(request.get(trace::KEY)?.to_str().ok()?)
}
