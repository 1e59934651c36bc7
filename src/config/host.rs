//! `Host`: a configured Redis server.

use std::fmt;

use super::server_url::{Address, DEFAULT_PORT, ServerUrl};
use super::value;

/// A Redis server: a URL, and optionally a name that stays the same when the server moves.
///
/// | URL | |
/// |---|---|
/// | `redis://[user[:password]@]host[:port][/db]` | TCP; the defaults are port 6379 and database 0 |
/// | `rediss://...` | the same over TLS; `#insecure` at the end accepts any certificate, which allows an attacker to intercept the connection |
/// | `unix:///path[?db=0&username=...&password=...]` | a unix socket; `redis+unix` means the same |
///
/// `valkey://` and `valkeys://` mean the same as `redis://` and `rediss://`. Database, user and password may also be
/// parameters, as in redis-py: `redis://host?db=3`.
///
/// With several hosts, a hash of the host names decides which host stores a channel or group. A host without a name is
/// hashed by its address and database. Credentials can therefore change at any time, and a named host can move.
///
/// ```
/// use channel_layer::Host;
///
/// let host = Host::new("redis://user:secret@10.0.0.1/2").name("a");
/// assert_eq!(host.to_string(), "a (redis://10.0.0.1/2)");
/// assert_eq!(Host::from(("10.0.0.1", 6380)).to_string(), "redis://10.0.0.1:6380/0");
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Host {
    name: Option<String>,
    url: String,
}

impl Host {
    /// Creates a host from its URL. The URL is checked with the whole configuration.
    pub fn new(url: impl Into<String>) -> Self {
        Self { name: None, url: url.into() }
    }

    /// Names the host. The name, instead of the address, then decides which channels and groups it stores.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// The URL in the spelling that connections use, with credentials.
    pub(crate) fn url(&self) -> String {
        self.url_with_port(DEFAULT_PORT)
    }

    /// As [`url`](Self::url), with `port` if the URL has no port.
    pub(crate) fn url_with_port(&self, port: u16) -> String {
        ServerUrl::read(&self.url).map_or_else(|_| self.url.clone(), |server| server.url_with_port(port))
    }

    /// Whether connections use TLS.
    pub(crate) fn is_tls(&self) -> bool {
        ServerUrl::read(&self.url).is_ok_and(|server| server.is_tls())
    }

    /// Whether connections to this host use the same user, password, scheme and check of certificates as those to
    /// `other`.
    pub(crate) fn logs_in_as(&self, other: &Self) -> bool {
        match (ServerUrl::read(&self.url), ServerUrl::read(&other.url)) {
            (Ok(one), Ok(other)) => one.login() == other.login(),
            _ => false,
        }
    }

    /// The text that sharding hashes: the name, or else the address and database in one normal spelling. It has no
    /// credentials.
    pub(crate) fn identity(&self) -> String {
        match (&self.name, self.address()) {
            (Some(name), _) => name.clone(),
            (None, Ok(address)) => address.to_string(),
            (None, Err(_)) => self.redacted(),
        }
    }

    pub(crate) fn given_name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// The address of the server, or the reason why the URL is invalid. The reason contains no part of the URL that may
    /// be secret.
    pub(crate) fn address(&self) -> Result<Address, String> {
        ServerUrl::read(&self.url).map(|server| server.address)
    }

    /// The URL for display, without secrets. An invalid URL is shown as its scheme only, because a password may be
    /// anywhere in it.
    fn redacted(&self) -> String {
        match ServerUrl::read(&self.url) {
            Ok(server) => server.to_string(),
            Err(_) if self.url.is_empty() => String::new(),
            Err(_) => match self.url.split_once("://") {
                Some((scheme @ ("redis" | "rediss" | "unix" | "http" | "https"), _)) => format!("{scheme}://..."),
                _ => "...".into(),
            },
        }
    }
}

/// A server in parts, as in Python's configurations.
#[derive(Default)]
pub(crate) struct Parts {
    pub(crate) url: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) host: Option<String>,
    pub(crate) port: Option<u16>,
    pub(crate) path: Option<String>,
    pub(crate) db: Option<u32>,
    pub(crate) username: Option<String>,
    pub(crate) password: Option<String>,
    pub(crate) tls: bool,
    pub(crate) certificates: Option<String>,
}

impl Parts {
    /// Builds the host, or returns the reason why the parts are invalid.
    pub(crate) fn into_host(self) -> Result<Host, String> {
        let mut server = match (self.url, self.path, self.host) {
            (Some(_), _, Some(_)) => return Err("set either url or host, not both".into()),
            (Some(_), ..) if self.port.is_some() => return Err("write the port into the url".into()),
            (Some(url), ..) => ServerUrl::read(&url)?,
            (None, Some(path), _) => ServerUrl::read(&format!("unix://{path}"))?,
            (None, None, host) => {
                let (host, port) = (host.as_deref().unwrap_or("localhost"), self.port.unwrap_or(DEFAULT_PORT));
                ServerUrl::read(&tcp_url(host, port))?
            }
        };
        // The URL takes precedence, as in redis-py.
        if !server.has_db() {
            self.db.inspect(|db| server.set_db(*db));
        }
        if !server.has_login() {
            self.username.map_or(Ok(()), |username| server.set_username(&username))?;
            self.password.map_or(Ok(()), |password| server.set_password(&password))?;
        }
        if self.tls {
            server.set_tls()?;
        }
        self.certificates.map_or(Ok(()), |required| server.set_certificates(&required))?;
        Ok(Host { name: self.name, url: server.url.into() })
    }
}

fn tcp_url(host: &str, port: u16) -> String {
    let is_ipv6 = host.contains(':') && !host.starts_with('[');
    if is_ipv6 { format!("redis://[{host}]:{port}/0") } else { format!("redis://{host}:{port}/0") }
}

impl From<&str> for Host {
    fn from(url: &str) -> Self {
        Self::new(url)
    }
}

impl From<String> for Host {
    fn from(url: String) -> Self {
        Self::new(url)
    }
}

impl From<(&str, u16)> for Host {
    fn from((host, port): (&str, u16)) -> Self {
        Self::new(tcp_url(host, port))
    }
}

impl fmt::Display for Host {
    /// The name and the URL, without credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{} ({})", value::shown(name), self.redacted()),
            None => f.write_str(&self.redacted()),
        }
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host")
            .field("name", &self.name.as_deref().map(value::shown))
            .field("url", &self.redacted())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn identity(url: &str) -> String {
        Host::new(url).identity()
    }

    #[test]
    fn an_identity_is_the_same_for_every_spelling_of_an_address() {
        for url in [
            "redis://localhost",
            "redis://LOCALHOST:6379",
            "redis://localhost/",
            "redis://localhost:6379/0",
            "rediss://user:secret@localhost:6379/0",
            "redis://:secret@localhost?protocol=resp3",
        ] {
            assert_eq!(identity(url), "localhost:6379/0", "{url}");
        }
        assert_eq!(identity("redis://localhost/1"), "localhost:6379/1");
        assert_eq!(identity("redis://[::1]:6380"), "[::1]:6380/0");
        assert_eq!(identity("redis://[0:0:0:0:0:0:0:1]:6380"), "[::1]:6380/0");
        assert_eq!(identity("unix:///run/redis.sock"), "/run/redis.sock?db=0");
        assert_eq!(identity("redis+unix:///run/redis.sock?pass=secret&db=2"), "/run/redis.sock?db=2");
        assert_eq!(Host::new("redis://localhost").name("a").identity(), "a");
    }

    #[test]
    fn a_host_and_a_port_make_a_url() {
        assert_eq!(Host::from(("10.0.0.1", 6380)).url(), "redis://10.0.0.1:6380/0");
        assert_eq!(Host::from(("::1", 6380)).url(), "redis://[::1]:6380/0");
        Host::from(("a/b", 6380)).address().expect_err("the host is invalid");
    }

    #[test]
    fn url_with_port_adds_a_missing_port() {
        for (url, with_port) in [
            ("redis://:p@a", "redis://:p@a:26379"),
            ("rediss://a:1#insecure", "rediss://a:1#insecure"),
            ("redis://[::1]", "redis://[::1]:26379"),
        ] {
            assert_eq!(Host::new(url).url_with_port(26379), with_port);
        }
    }

    #[test]
    fn invalid_urls_are_refused_with_a_reason() {
        for (url, reason) in [
            ("", "expected a URL"),
            ("localhost", "expected a URL"),
            ("127.0.0.1:6379", "expected a URL"),
            ("localhost:6379", "the scheme must be"),
            ("http://localhost", "the scheme must be"),
            ("redis://", "host"),
            ("redis:///0", "host"),
            ("redis://localhost:port", "port"),
            ("redis://localhost:65536", "port"),
            ("redis://localhost:0", "port 0"),
            ("redis://0.0.0.0", "wildcard"),
            ("redis://[::]", "wildcard"),
            ("redis://localhost/first", "database"),
            ("redis://localhost/-1", "database"),
            ("redis://localhost?ssl_cert_reqs=optional", "ssl_cert_reqs must be"),
            ("redis://localhost?protocol=4", "parameter protocol must be"),
            ("redis://localhost#insecure", "fragment"),
            ("unix://", "absolute path"),
            ("unix:redis.sock", "absolute path"),
            ("unix:///run/redis.sock?db=x", "database"),
        ] {
            let refused = Host::new(url).address().expect_err(url);
            assert!(refused.contains(reason), "{url}: {refused}");
        }
    }

    #[test]
    fn no_form_of_a_host_shows_credentials() {
        for url in [
            "redis://user:secret@localhost:6379/0",
            "redis://:secret@localhost",
            "redis://user:se@secret@localhost",
            "redis://user:secret/@localhost:x",
            "redis://user:secret",
            "user:secret@localhost",
            "redis://user:1secret?secret@localhost",
            "redis://user:1?secret@localhost",
            "redis://user:1?secret=@localhost",
            "redis://localhost?password=secret",
            "unix:///run/redis.sock?user=user&pass=1@secret",
            "unix:///run/redis.sock?user=user&pass=secret",
            "unix:///run/redis.sock?password=secret",
            "unix:///run/redis.sock,password=secret",
            "unix://user:secret@/run/redis.sock",
            "unix://user:secret@localhost/run/redis.sock",
            "cache.example.net:6380,password=secret,ssl=True,abortConnect=False",
            "Server=localhost;Port=6379;Password=secret",
            "host=localhost port=6379 password=secret",
            "redis://localhost:6379,password=secret",
            "redis://localhost,password=secret",
            "redis://localhost/0,password=secret",
            "redis://localhost/0#secret",
            "redis://localhost/secret",
            "redis://localhost?secret",
            "redis://localhost?secret=1",
            "redis://localhost?protocol=secret",
            "rediss://localhost?ssl_cert_reqs=secret",
            "redis://default:secret:6379",
            "redis://:sec#secret@localhost",
            "redis://secret#@localhost",
            "redis://:secret@[::1",
            "redis:secret@localhost",
            "redis:/:secret@localhost",
            "//:secret@localhost",
            "localhost:6379:secret",
            "secret",
            "https://user:secret@localhost",
            "redis-sentinel://:secret@localhost",
            "secret://localhost",
        ] {
            let host = Host::new(url);
            let reason = host.address().err().unwrap_or_default();
            let config = Config::new().host(url);
            let refused = config.validate().map_or_else(|error| error.to_string(), |()| String::new());
            let json = format!(r#"{{"hosts": [{{"host": {url:?}, "db": 1}}, [{url:?}, "1"]]}}"#);
            let read = Config::from_json(&json).and_then(|config| config.validate());
            let read = read.map_or_else(|error| error.to_string(), |()| String::new());
            let shown = [host.to_string(), format!("{host:?} {config:?}"), host.identity(), reason, refused];
            for shown in shown.into_iter().chain((url != "secret").then_some(read)) {
                assert!(!shown.contains("secret") && !shown.contains("user:"), "{url}: {shown}");
            }
        }
    }

    #[test]
    fn parts_make_a_url_with_its_credentials_escaped() {
        let parts = Parts {
            host: Some("h".into()),
            port: Some(1),
            db: Some(2),
            username: Some("u@".into()),
            password: Some("p/:@".into()),
            ..Parts::default()
        };
        assert_eq!(parts.into_host().expect("they are good").url(), "redis://u%40:p%2F%3A%40@h:1/2");
        let parts =
            Parts { url: Some("unix:///s".into()), db: Some(2), password: Some("p&".into()), ..Parts::default() };
        assert_eq!(parts.into_host().expect("they are good").url(), "unix:///s?db=2&pass=p%26");
        let parts = Parts { password: Some("p".into()), ..Parts::default() };
        assert_eq!(parts.into_host().expect("they are good").url(), "redis://:p@localhost:6379/0");
    }
}
