//! What every request has to be before anything else looks at it, as far as hyper does not check it.

use axum::extract::Request;
use axum::http::header::{CONTENT_LENGTH, COOKIE, EXPECT, HOST, TRANSFER_ENCODING};
use axum::http::uri::{Scheme, Uri};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};

use crate::server::http::host;

/// How many headers a request may have, as in hyper's HTTP/1.
const MAX_HEADERS: usize = 100;

/// Refuses a malformed request, and brings every other one into one form: `Host` names the authority of the target, and
/// the cookies of HTTP/2 are one header.
///
/// # Errors
///
/// The status of the answer.
pub(crate) fn normalize(request: &mut Request) -> Result<(), StatusCode> {
    let version = request.version();
    if !has_valid_form(request.method(), request.uri()) {
        return Err(StatusCode::BAD_REQUEST);
    }
    if version == Version::HTTP_2 {
        check_fields(request.headers())?;
        join_cookies(request.headers_mut());
        // hyper counts those of HTTP/1.
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

/// The members of a header that is a list, whatever lines they stand in.
pub(crate) fn list<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h [u8]> + use<'h> {
    let values = headers.get_all(name).iter();
    values.flat_map(|value| value.as_bytes().split(|&byte| byte == b',')).map(<[u8]>::trim_ascii)
}

/// Whether a member of a list is this token.
pub(crate) fn is(member: &[u8], token: &str) -> bool {
    member.eq_ignore_ascii_case(token.as_bytes())
}

/// The forms of a target in RFC 9112, section 3.2. What has no leading slash is a host for the parser.
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

/// What RFC 9113, section 8.2.1, says of values, and RFC 9110, section 8.6, of lengths; HTTP/1 has no such values.
fn check_fields(headers: &HeaderMap) -> Result<(), StatusCode> {
    let padded = |value: &HeaderValue| value.as_bytes().trim_ascii().len() < value.len();
    let lengths = headers.get_all(CONTENT_LENGTH).iter().count();
    if lengths > 1 || headers.values().any(padded) { Err(StatusCode::BAD_REQUEST) } else { Ok(()) }
}

/// HTTP/2 sends each cookie by itself so that it compresses well (RFC 9113, section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let crumbs: Vec<_> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if crumbs.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..]))
    {
        headers.insert(COOKIE, joined);
    }
}

/// The body is chunked and nothing else: hyper knows no other coding, and looks at the last one only.
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
