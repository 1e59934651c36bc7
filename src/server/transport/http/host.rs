//! The host of a request: `Host` and the authority of the target (RFC 9112, section 3.2; RFC 9113, section 8.3.1).

use std::net::Ipv6Addr;

use axum::http::header::HOST;
use axum::http::uri::{Authority, Uri};
use axum::http::{HeaderMap, HeaderValue, Version};

/// `Host` is missing, repeated or invalid, or differs from the authority of the target.
#[derive(Debug, PartialEq)]
pub(crate) struct InvalidHost;

/// Returns the value of `Host` for the application: the authority of the target if it has one, otherwise the header.
/// Returns `None` if an HTTP/1.0 client names no host.
///
/// # Errors
///
/// If the host is missing or ambiguous.
pub(crate) fn resolve(version: Version, target: &Uri, headers: &HeaderMap) -> Result<Option<HeaderValue>, InvalidHost> {
    let mut hosts = headers.get_all(HOST).iter();
    let header = hosts.next();
    if hosts.next().is_some() {
        return Err(InvalidHost);
    }
    let header_text = header.map(|host| host.to_str().map_err(|_| InvalidHost)).transpose()?;
    let authority = target.authority().map(Authority::as_str);
    if !header_text.into_iter().chain(authority).all(is_valid) {
        return Err(InvalidHost);
    }
    let (http2, http10) = (version == Version::HTTP_2, version == Version::HTTP_10);
    match (header_text, authority) {
        // In HTTP/1 the authority takes precedence, and the header only has to be present.
        (Some(_), Some(authority)) if !http2 => Ok(HeaderValue::from_str(authority).ok()),
        (Some(host), Some(authority)) if is_same(host, authority, target.scheme_str()) => Ok(header.cloned()),
        (None, Some(authority)) if http2 || http10 => Ok(HeaderValue::from_str(authority).ok()),
        (Some(_), None) => Ok(header.cloned()),
        (None, None) if http10 => Ok(None),
        _ => Err(InvalidHost),
    }
}

/// Returns `true` for `uri-host [ ":" port ]` (RFC 9110, section 7.2) with a host that is not empty. User information
/// is not part of that grammar.
fn is_valid(authority: &str) -> bool {
    let (host, port) = split(authority);
    let valid_host = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').is_some_and(|address| address.parse::<Ipv6Addr>().is_ok()),
        None => is_name(host.as_bytes()),
    };
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    valid_host && digits && (port.is_empty() || port.parse::<u16>().is_ok())
}

/// Splits an authority into host and port; the port is empty if there is none.
fn split(authority: &str) -> (&str, &str) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port),
        _ => (authority, ""),
    }
}

/// Returns `true` for a `reg-name` of RFC 3986, section 3.2.2, which includes IPv4 addresses.
fn is_name(name: &[u8]) -> bool {
    let mut rest = name;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = match (byte, tail) {
            (b'%', [high, low, tail @ ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => tail,
            (byte, tail) if byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(&byte) => tail,
            _ => return false,
        };
    }
    !name.is_empty()
}

/// Returns `true` if two valid authorities are the same host and port. A missing port means the default port of the
/// scheme.
fn is_same(one: &str, other: &str, scheme: Option<&str>) -> bool {
    let default = if scheme == Some("http") { 80 } else { 443 };
    let port = |port: &str| port.parse().unwrap_or(default);
    let ((one, one_port), (other, other_port)) = (split(one), split(other));
    one.eq_ignore_ascii_case(other) && port(one_port) == port(other_port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_or_an_address_with_or_without_a_port() {
        for valid in ["a", "example.org:8000", "a_b.c-d", "127.0.0.1:80", "[::1]", "[2001:db8::7]:443", "a:", "%41"] {
            assert!(is_valid(valid), "{valid}");
        }
        for invalid in [
            "",
            ":80",
            "a b",
            "a/b",
            "user@a",
            "a:b",
            "a:+80",
            "a:65536",
            "::1",
            "[::1",
            "[a]",
            "[::1]a",
            "a,b c",
            "%4",
            "a?b",
            "a#b",
            "caf\u{e9}",
            "a:80:80",
        ] {
            assert!(!is_valid(invalid), "{invalid}");
        }
    }

    #[test]
    fn the_default_port_may_be_omitted() {
        assert!(is_same("Example.org", "example.ORG:443", Some("https")));
        assert!(is_same("example.org:", "example.org:80", Some("http")));
        assert!(!is_same("example.org", "example.org:80", Some("https")));
        assert!(!is_same("example.org", "example.net", Some("https")));
    }
}
