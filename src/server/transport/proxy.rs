//! `TrustedProxies`: the proxies whose headers name the client of a request.

use std::net::{IpAddr, SocketAddr};

use axum::http::HeaderMap;
use ipnet::IpNet;

use crate::error::{Error, Result};
use crate::server::transport::listener::Peer;

/// The proxies in front of an interface server, by address.
///
/// The server takes the address of the client (with port 0, unless the proxy names one) and the scheme from
/// `X-Forwarded-For` and `X-Forwarded-Proto` of a trusted proxy. From any other client these headers are only passed
/// on, because any client can set them. Each proxy appends the address that it sees to `X-Forwarded-For`. So the server
/// reads the list from the end, past further trusted proxies, up to the first address that is not trusted.
#[derive(Clone, Debug, Default)]
pub struct TrustedProxies {
    networks: Vec<IpNet>,
    unix: bool,
}

impl TrustedProxies {
    /// Parses addresses (`10.0.0.7`), networks (`10.0.0.0/8`), and `unix` for the peers of a unix socket.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if a value is none of these.
    pub fn parse<T: AsRef<str>>(proxies: impl IntoIterator<Item = T>) -> Result<Self> {
        let mut trusted = Self::default();
        for proxy in proxies {
            match proxy.as_ref().trim() {
                "unix" => trusted.unix = true,
                text => trusted.networks.push(network(text).ok_or_else(|| {
                    Error::config("trusted_proxies", text, "expected an address, a network or \"unix\"")
                })?),
            }
        }
        Ok(trusted)
    }

    /// Returns `peer` with the client and the scheme that a trusted proxy names in these headers.
    pub(crate) fn resolve(&self, peer: Peer, headers: &HeaderMap) -> Peer {
        let trusted = peer.client.map_or(self.unix, |client| self.contains(client.ip()));
        if !trusted {
            return peer;
        }
        let client = self.client(headers).or(peer.client);
        let secure = last(headers, "x-forwarded-proto").map_or(peer.secure, is_secure);
        Peer { client, secure, ..peer }
    }

    /// Returns the nearest address that is not trusted, or the farthest trusted one if there is no other.
    fn client(&self, headers: &HeaderMap) -> Option<SocketAddr> {
        let lines = headers.get_all("x-forwarded-for").iter();
        let hops = lines.flat_map(|line| line.as_bytes().split(|&byte| byte == b','));
        let hops: Vec<_> = hops.map(|hop| address(std::str::from_utf8(hop).ok()?.trim())).collect();
        let mut client = None;
        // The addresses before an invalid one are unknown.
        for hop in hops.into_iter().rev().map_while(|hop| hop) {
            client = Some(hop);
            if !self.contains(hop.ip()) {
                break;
            }
        }
        client
    }

    fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.networks.iter().any(|network| network.contains(&address))
    }
}

fn network(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(|address| address.to_canonical().into()))
}

fn address(hop: &str) -> Option<SocketAddr> {
    let bare = hop.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(hop);
    bare.parse::<IpAddr>().map(|address| SocketAddr::new(address, 0)).or_else(|_| hop.parse()).ok()
}

/// Returns the last value of a header to which each proxy appends its own.
fn last<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get_all(name).iter().next_back()?.to_str().ok()?.rsplit(',').next().map(str::trim)
}

fn is_secure(scheme: &str) -> bool {
    scheme.eq_ignore_ascii_case("https") || scheme.eq_ignore_ascii_case("wss")
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn seen(from: Option<&str>, headers: &[(&'static str, &'static str)]) -> (Option<String>, bool) {
        let trusted = TrustedProxies::parse(["10.0.0.0/8", "::1", "192.0.2.7", "unix"]).unwrap();
        let headers: HeaderMap =
            headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        let peer = Peer { client: from.map(|from| from.parse().unwrap()), ..Peer::default() };
        let resolved = trusted.resolve(peer, &headers);
        (resolved.client.map(|client| client.to_string()), resolved.secure)
    }

    fn client(from: &str, forwarded: &'static str) -> String {
        seen(Some(from), &[("x-forwarded-for", forwarded)]).0.unwrap()
    }

    #[test]
    fn only_trusted_proxies_set_the_client() {
        assert_eq!(client("10.1.2.3:400", "203.0.113.9"), "203.0.113.9:0");
        assert_eq!(client("192.0.2.7:400", "203.0.113.9"), "203.0.113.9:0");
        assert_eq!(client("[::ffff:10.1.2.3]:400", "203.0.113.9"), "203.0.113.9:0");
        assert_eq!(client("192.0.2.8:400", "203.0.113.9"), "192.0.2.8:400");
        let forged = [("x-forwarded-proto", "https")];
        assert_eq!(seen(Some("192.0.2.8:400"), &forged), (Some("192.0.2.8:400".to_owned()), false));
    }

    #[test]
    fn a_client_cannot_forge_an_address() {
        assert_eq!(client("10.0.0.1:1", "198.51.100.1, 203.0.113.9, 10.9.9.9"), "203.0.113.9:0");
        assert_eq!(client("10.0.0.1:1", "198.51.100.1, nonsense, 10.9.9.9"), "10.9.9.9:0");
        assert_eq!(client("10.0.0.1:1", "nonsense"), "10.0.0.1:1");
    }

    #[test]
    fn bytes_that_are_not_utf8_hide_no_client() {
        let headers = HeaderMap::from_iter([(
            "x-forwarded-for".parse().unwrap(),
            HeaderValue::from_bytes(b"\xff, 203.0.113.9, 10.0.0.2").unwrap(),
        )]);
        let trusted = TrustedProxies::parse(["10.0.0.0/8"]).unwrap();
        assert_eq!(trusted.client(&headers), Some("203.0.113.9:0".parse().unwrap()));
    }

    #[test]
    fn several_header_lines_form_one_list() {
        let mut headers = HeaderMap::new();
        for line in ["198.51.100.1", "203.0.113.9:77, 10.0.0.2"] {
            headers.append("x-forwarded-for", line.parse().unwrap());
        }
        let trusted = TrustedProxies::parse(["10.0.0.0/8"]).unwrap();
        assert_eq!(trusted.client(&headers), Some("203.0.113.9:77".parse().unwrap()));
    }

    #[test]
    fn ipv6_addresses_are_read_with_and_without_brackets_and_port() {
        for (forwarded, expected) in [("2001:db8::7", "[2001:db8::7]:0"), ("[2001:db8::7]", "[2001:db8::7]:0")] {
            assert_eq!(client("10.0.0.1:1", forwarded), expected);
        }
        assert_eq!(client("10.0.0.1:1", "[2001:db8::7]:99"), "[2001:db8::7]:99");
    }

    #[test]
    fn a_proxy_on_a_unix_socket_names_the_client() {
        let headers = [("x-forwarded-for", "203.0.113.9"), ("x-forwarded-proto", "http, https")];
        assert_eq!(seen(None, &headers), (Some("203.0.113.9:0".to_owned()), true));
        assert_eq!(seen(None, &[]), (None, false));
    }

    #[test]
    fn an_invalid_network_is_named_in_the_error() {
        let error = TrustedProxies::parse(["10.0.0.0/33"]).unwrap_err();
        assert!(error.to_string().contains("10.0.0.0/33"), "{error}");
    }
}
