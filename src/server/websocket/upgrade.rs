//! The upgrade request of RFC 6455, section 4.2: its checks, and the response that opens the socket.

use std::fmt;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};

use axum::body::Body;
use axum::extract::{ConnectInfo, FromRequestParts};
use axum::http::header::{
    ALLOW, CONNECTION, CONTENT_LENGTH, ORIGIN, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, TRANSFER_ENCODING, UPGRADE,
};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Version};
use axum::response::{IntoResponse, Response};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tungstenite::handshake::derive_accept_key;

use crate::server::transport::http::host;
use crate::server::transport::http::request::{is, list, trace_parent};
use crate::trace::TraceParent;

/// The byte stream of an open socket.
pub(crate) type Stream = TokioIo<Upgraded>;

/// A request for a WebSocket, as an axum extractor. Only HTTP/1.1 has such requests.
pub struct Upgrade {
    accept: HeaderValue,
    address: Option<IpAddr>,
    upgraded: OnUpgrade,
    /// The `Origin` headers.
    origins: Vec<HeaderValue>,
    /// The subprotocols that the client offers, in order of preference.
    offered: Vec<String>,
    trace: Option<TraceParent>,
    chosen: Option<HeaderValue>,
}

impl Upgrade {
    /// Sets the address of the client, for the limits. Defaults to the peer address if the app is served with
    /// `into_make_service_with_connect_info::<SocketAddr>()`; behind a proxy that is the address of the proxy.
    #[must_use]
    pub fn from_address(mut self, address: IpAddr) -> Self {
        self.address = Some(address);
        self
    }

    /// Sets the subprotocols of the app. The first of them that the client offers is chosen, and
    /// [`protocol`](Self::protocol) returns it. Without a match the socket opens without a subprotocol, and browsers
    /// close it. Defaults to none.
    #[must_use]
    pub fn protocols<T: AsRef<str>>(mut self, protocols: impl IntoIterator<Item = T>) -> Self {
        let offered = |protocol: &T| self.offered.iter().any(|offered| offered == protocol.as_ref());
        let chosen = protocols.into_iter().find(offered);
        self.chosen = chosen.and_then(|protocol| HeaderValue::from_str(protocol.as_ref()).ok());
        self
    }

    /// Returns the chosen subprotocol.
    pub fn protocol(&self) -> Option<&str> {
        self.chosen.as_ref().and_then(|protocol| protocol.to_str().ok())
    }

    pub(crate) fn origins(&self) -> &[HeaderValue] {
        &self.origins
    }

    pub(crate) fn trace(&self) -> Option<TraceParent> {
        self.trace
    }

    pub(crate) fn address(&self) -> Option<IpAddr> {
        self.address
    }

    /// Returns the response that opens the socket. `serve` gets the stream and runs in a task of its own. If the client
    /// disconnects before that, `serve` is dropped and never called.
    pub(crate) fn open<F: Future<Output = ()> + Send + 'static>(
        self,
        serve: impl FnOnce(Stream) -> F + Send + 'static,
    ) -> Response {
        let upgraded = self.upgraded;
        // The task ends with the socket.
        tokio::spawn(async move {
            match upgraded.await {
                Ok(upgraded) => serve(TokioIo::new(upgraded)).await,
                Err(error) => tracing::debug!(%error, "client disconnected before its socket was open"),
            }
        });
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(SEC_WEBSOCKET_ACCEPT, self.accept);
        if let Some(subprotocol) = self.chosen {
            headers.insert(SEC_WEBSOCKET_PROTOCOL, subprotocol);
        }
        response
    }
}

impl<S: Sync> FromRequestParts<S> for Upgrade {
    type Rejection = NotWebSocket;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, NotWebSocket> {
        let key = key(parts)?;
        let accept = HeaderValue::try_from(derive_accept_key(key.as_bytes())).map_err(|_| NotWebSocket::Key)?;
        let upgraded = parts.extensions.remove::<OnUpgrade>().ok_or(NotWebSocket::Connection)?;
        let address = parts.extensions.get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip());
        let origins = parts.headers.get_all(ORIGIN).iter().cloned().collect();
        let offered = subprotocols(&parts.headers).map(str::to_owned).collect();
        let trace = trace_parent(&parts.headers);
        Ok(Self { accept, address, upgraded, origins, offered, trace, chosen: None })
    }
}

impl fmt::Debug for Upgrade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upgrade").finish_non_exhaustive()
    }
}

/// Why a request cannot open a WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotWebSocket {
    /// The method is not GET.
    #[error("the method of a WebSocket request must be GET")]
    Method,
    /// `Connection` and `Upgrade` do not request an upgrade to `websocket`.
    #[error("this URL is for WebSockets: Connection must be upgrade, and Upgrade must be websocket")]
    Headers,
    /// The version of the protocol is not 13.
    #[error("Sec-WebSocket-Version must be 13")]
    Version,
    /// `Sec-WebSocket-Version` is repeated.
    #[error("Sec-WebSocket-Version must be sent once")]
    Versions,
    /// `Sec-WebSocket-Key` is missing, repeated, or not 16 bytes in base64.
    #[error("Sec-WebSocket-Key must be sent once, and be 16 bytes in base64")]
    Key,
    /// `Host` is missing, repeated or invalid.
    #[error("Host must be sent once, and be a host with or without a port")]
    Host,
    /// The request has content.
    #[error("a WebSocket request must have no content")]
    Content,
    /// The connection cannot become a WebSocket.
    #[error("this connection cannot become a WebSocket")]
    Connection,
}

impl IntoResponse for NotWebSocket {
    fn into_response(self) -> Response {
        let status = match self {
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Headers | Self::Version => StatusCode::UPGRADE_REQUIRED,
            Self::Versions | Self::Key | Self::Host | Self::Content | Self::Connection => StatusCode::BAD_REQUEST,
        };
        let mut response = (status, self.to_string()).into_response();
        if status == StatusCode::METHOD_NOT_ALLOWED {
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
        }
        if status == StatusCode::UPGRADE_REQUIRED {
            let headers = response.headers_mut();
            headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        }
        response
    }
}

/// Returns `true` if a request asks for a WebSocket, whether or not it is valid. HTTP/1.0 requests for an upgrade are
/// ignored, and HTTP/2 has none (RFC 9110, section 7.8).
pub(crate) fn is_upgrade(version: Version, headers: &HeaderMap) -> bool {
    version == Version::HTTP_11 && list(headers, &UPGRADE).any(|protocol| is(protocol, "websocket"))
}

/// Returns the subprotocols that a client offers.
pub(crate) fn subprotocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|name| !name.is_empty())
}

/// Returns the key of a valid request for a WebSocket.
pub(crate) fn key(request: &Parts) -> Result<&HeaderValue, NotWebSocket> {
    let headers = &request.headers;
    if request.method != Method::GET {
        return Err(NotWebSocket::Method);
    }
    let may_upgrade = list(headers, &CONNECTION).any(|option| is(option, "upgrade"));
    if !may_upgrade || !is_upgrade(request.version, headers) {
        return Err(NotWebSocket::Headers);
    }
    host::resolve(request.version, &request.uri, headers).map_err(|_| NotWebSocket::Host)?;
    // A proxy could read the bytes after the head as content, and the server as frames.
    let length = headers.get(CONTENT_LENGTH);
    if headers.contains_key(TRANSFER_ENCODING) || length.is_some_and(|length| length != "0") {
        return Err(NotWebSocket::Content);
    }
    match (list(headers, &SEC_WEBSOCKET_VERSION).next(), list(headers, &SEC_WEBSOCKET_VERSION).count()) {
        (Some(b"13"), 1) => {}
        (_, 0 | 1) => return Err(NotWebSocket::Version),
        _ => return Err(NotWebSocket::Versions),
    }
    let mut keys = headers.get_all(SEC_WEBSOCKET_KEY).iter();
    match (keys.next(), keys.next()) {
        (Some(key), None) if is_key(key.as_bytes()) => Ok(key),
        _ => Err(NotWebSocket::Key),
    }
}

/// Returns `true` for 16 bytes in base64: 22 characters and two of padding.
fn is_key(key: &[u8]) -> bool {
    let base64 = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    key.len() == 24 && key.ends_with(b"==") && key[..22].iter().all(base64)
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    fn request(method: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method(method).header("host", "example.org");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    const GOOD: [(&str, &str); 4] = [
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "WebSocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];

    #[test]
    fn a_request_is_checked_as_the_rfc_says() {
        let with = |at: usize, value: &str| {
            let mut headers: [(&str, &str); 4] = GOOD;
            headers[at].1 = value;
            key(&request("GET", &headers)).map(|_| ())
        };
        assert_eq!(with(0, "upgrade"), Ok(()));
        assert_eq!(with(0, "close"), Err(NotWebSocket::Headers));
        assert_eq!(with(1, "h2c"), Err(NotWebSocket::Headers));
        assert_eq!(with(2, "8"), Err(NotWebSocket::Version));
        for bad in ["", "short", "dGhlIHNhbXBsZSBub25jZQ==dGhlIHNh", "dGhlIHNhbXBs*SBub25jZQ=="] {
            assert_eq!(with(3, bad), Err(NotWebSocket::Key), "{bad}");
        }
        assert_eq!(key(&request("POST", &GOOD)).unwrap_err(), NotWebSocket::Method);
    }

    #[test]
    fn a_repeated_header_that_must_be_sent_once_is_refused() {
        let with = |name, value| key(&request("GET", &[&GOOD[..], &[(name, value)]].concat())).map(|_| ()).unwrap_err();
        assert_eq!(with("sec-websocket-version", "13"), NotWebSocket::Versions);
        assert_eq!(with("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="), NotWebSocket::Key);
        assert_eq!(with("host", "example.org"), NotWebSocket::Host);
        assert_eq!(with("content-length", "1"), NotWebSocket::Content);
        assert_eq!(with("transfer-encoding", "chunked"), NotWebSocket::Content);
    }

    #[test]
    fn websocket_may_be_one_of_several_protocols_but_not_in_http_1_0() {
        let mut request = request("GET", &GOOD);
        request.headers.insert(UPGRADE, HeaderValue::from_static("h2c, WebSocket"));
        assert!(key(&request).is_ok());
        request.version = Version::HTTP_10;
        assert_eq!(key(&request).unwrap_err(), NotWebSocket::Headers);
    }

    #[test]
    fn an_old_version_gets_426_and_the_right_version() {
        let response = NotWebSocket::Version.into_response();
        assert_eq!(response.status(), 426);
        assert_eq!(response.headers()["sec-websocket-version"], "13");
        assert_eq!(response.headers()["connection"], "upgrade");
    }
}
