//! From which sites browsers may open WebSockets.

use axum::http::HeaderValue;

use crate::error::{Error, Result};

/// The sites whose pages may open WebSockets.
///
/// A browser sends the cookies of a user with a handshake whichever page asks for it, and says in `Origin` which. A
/// handshake with another origin than these is refused with 403. One without an `Origin` passes: that is no browser,
/// and what it says about itself proves nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Origins {
    /// Empty: all may.
    allowed: Vec<Allowed>,
}

#[derive(Clone, Debug)]
enum Allowed {
    /// In lower case.
    Exactly(String),
    /// Every name below: what stands before it and after, in lower case.
    Below { scheme: String, suffix: String },
}

impl Origins {
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] for what no browser sends as an origin.
    pub(crate) fn parse<T: AsRef<str>>(origins: impl IntoIterator<Item = T>) -> Result<Self> {
        let allowed = origins.into_iter().map(|origin| Allowed::parse(origin.as_ref())).collect::<Result<_>>()?;
        Ok(Self { allowed })
    }

    /// Whether a handshake may come from where it says.
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
            origin.split_once("://").ok_or_else(|| refuse("an origin begins with https:// or http://"))?;
        if host.is_empty() || host.contains(['/', '?', '#', '@']) {
            return Err(refuse("an origin ends with the host or the port"));
        }
        let (scheme, host) = (format!("{}://", scheme.to_ascii_lowercase()), host.to_ascii_lowercase());
        match host.strip_prefix('*') {
            Some(suffix) if suffix.starts_with('.') && !suffix.contains('*') => {
                Ok(Self::Below { scheme, suffix: suffix.to_owned() })
            }
            None if !host.contains('*') => Ok(Self::Exactly(scheme + &host)),
            _ => Err(refuse("* may only stand for the first part of the host, as in https://*.example.org")),
        }
    }

    fn matches(&self, origin: &str) -> bool {
        match self {
            Self::Exactly(allowed) => allowed == origin,
            Self::Below { scheme, suffix } => origin
                .strip_prefix(scheme.as_str())
                .and_then(|host| host.strip_suffix(suffix.as_str()))
                .is_some_and(|name| !name.is_empty() && name.bytes().all(is_of_a_name)),
        }
    }
}

fn is_of_a_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permits(origin: Option<&str>) -> bool {
        let origins = Origins::parse(["https://example.org", "https://*.Example.com:8443"]).unwrap();
        let said: Option<HeaderValue> = origin.map(|origin| origin.parse().unwrap());
        origins.permit(&said)
    }

    #[test]
    fn listed_origins_pass_and_no_others() {
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
    fn who_is_no_browser_passes_and_without_a_list_everybody() {
        assert!(permits(None));
        assert!(Origins::default().permit([&HeaderValue::from_static("https://anywhere.net")]));
    }

    #[test]
    fn what_is_no_origin_is_named() {
        for origin in ["example.org", "https://example.org/", "https://*", "https://a.*.org", "https://"] {
            let error = Origins::parse([origin]).unwrap_err();
            assert!(error.to_string().contains(origin), "{error}");
        }
    }
}
