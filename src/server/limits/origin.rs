//! `Origins`: the origins whose pages may open WebSockets.

use axum::http::HeaderValue;

use crate::error::{Error, Result};

/// The origins whose pages may open WebSockets.
///
/// A browser sends the cookies of its user with a handshake even if a page of another site opens it. It names the
/// origin of that page in `Origin`. The server refuses a handshake from any other origin with 403. A handshake without
/// `Origin` passes: the client is not a browser, and its headers prove nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Origins {
    /// Empty if every origin is allowed.
    allowed: Vec<Allowed>,
}

#[derive(Clone, Debug)]
enum Allowed {
    /// An origin in lower case.
    Exact(String),
    /// Every subdomain: the scheme before it and the suffix after it, in lower case.
    Subdomains { scheme: String, suffix: String },
}

impl Origins {
    /// Parses origins and patterns of origins.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] for a value that no browser sends as an origin.
    pub(crate) fn parse<T: AsRef<str>>(origins: impl IntoIterator<Item = T>) -> Result<Self> {
        let allowed = origins.into_iter().map(|origin| Allowed::parse(origin.as_ref())).collect::<Result<_>>()?;
        Ok(Self { allowed })
    }

    /// Returns `true` if all of the `Origin` headers of a handshake are allowed.
    pub(crate) fn permit<'h>(&self, origins: impl IntoIterator<Item = &'h HeaderValue>) -> bool {
        if self.allowed.is_empty() {
            return true;
        }
        origins.into_iter().all(|origin| {
            let origin = String::from_utf8_lossy(origin.as_bytes()).to_ascii_lowercase();
            self.allowed.iter().any(|allowed| allowed.matches(&origin))
        })
    }
}

impl Allowed {
    fn parse(origin: &str) -> Result<Self> {
        let refuse = |reason| Error::config("allowed_origins", origin, reason);
        let (scheme, host) =
            origin.split_once("://").ok_or_else(|| refuse("an origin starts with https:// or http://"))?;
        if host.is_empty() || host.contains(['/', '?', '#', '@']) {
            return Err(refuse("an origin ends with the host or the port"));
        }
        let (scheme, host) = (format!("{}://", scheme.to_ascii_lowercase()), host.to_ascii_lowercase());
        match host.strip_prefix('*') {
            Some(suffix) if suffix.starts_with('.') && !suffix.contains('*') => {
                Ok(Self::Subdomains { scheme, suffix: suffix.to_owned() })
            }
            None if !host.contains('*') => Ok(Self::Exact(scheme + &host)),
            _ => Err(refuse("* is only allowed as the first label of the host, as in https://*.example.org")),
        }
    }

    fn matches(&self, origin: &str) -> bool {
        match self {
            Self::Exact(allowed) => allowed == origin,
            Self::Subdomains { scheme, suffix } => origin
                .strip_prefix(scheme.as_str())
                .and_then(|host| host.strip_suffix(suffix.as_str()))
                .is_some_and(|name| !name.is_empty() && name.bytes().all(is_host_name_byte)),
        }
    }
}

fn is_host_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permits(origin: Option<&str>) -> bool {
        let origins = Origins::parse(["https://example.org", "https://*.Example.com:8443"]).unwrap();
        let header: Option<HeaderValue> = origin.map(|origin| origin.parse().unwrap());
        origins.permit(&header)
    }

    #[test]
    fn only_listed_origins_are_permitted() {
        for origin in
            ["https://example.org", "https://EXAMPLE.org", "https://a.example.com:8443", "https://a.b.example.com:8443"]
        {
            assert!(permits(Some(origin)), "{origin}");
        }
        for origin in [
            "http://example.org",
            "https://example.org:8443",
            "https://a.example.com",
            "https://.example.com:8443",
            "https://evilexample.com:8443",
            "https://example.org.evil.net",
            "https://evil.net/.example.com:8443",
            "https://evil.net?.example.com:8443",
            "https://evil.net:1.example.com:8443",
            "https://a@b.example.com:8443",
            "null",
            "",
        ] {
            assert!(!permits(Some(origin)), "{origin}");
        }
    }

    #[test]
    fn a_handshake_without_an_origin_passes_and_so_does_any_without_a_list() {
        assert!(permits(None));
        assert!(Origins::default().permit([&HeaderValue::from_static("https://anywhere.net")]));
    }

    #[test]
    fn an_invalid_origin_is_named_in_the_error() {
        for origin in ["example.org", "https://example.org/", "https://*", "https://a.*.org", "https://"] {
            let error = Origins::parse([origin]).unwrap_err();
            assert!(error.to_string().contains(origin), "{error}");
        }
    }
}
