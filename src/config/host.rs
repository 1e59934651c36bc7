//! One Redis server as it is configured.

use std::fmt;

use url::Url;

const DEFAULT_PORT: u16 = 6379;

/// Parameters that the query of a URL may have, without and with a socket.
const TCP_PARAMETERS: &[&str] = &["protocol"];
const UNIX_PARAMETERS: &[&str] = &["db", "user", "pass", "protocol"];

/// A Redis server: its URL, and a name that stays the same when the server moves.
///
/// | URL | |
/// |---|---|
/// | `redis://[user[:password]@]host[:port][/db]` | TCP; port 6379 and database 0 where they are left out |
/// | `rediss://...` | the same over TLS; `#insecure` at the end accepts any certificate, and so anybody in between |
/// | `unix:///path[?db=0&user=...&pass=...]` | a unix socket; `redis+unix` is the same |
///
/// Where several hosts share the load, each channel and group has its place by a hash of the host's name, or of its
/// address and database where it has no name. So credentials can change freely, and a named host can move.
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

/// Where a server is, without how to log in.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Address {
    Tcp { host: String, port: u16, db: u32 },
    Unix { path: String, db: u32 },
}

impl Host {
    /// The server at `url`.
    pub fn new(url: impl Into<String>) -> Self {
        Self { name: None, url: url.into() }
    }

    /// This server under a name that decides its share of channels and groups, whatever its address.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// The URL, credentials included.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The URL, credentials included, with `port` where it names none.
    pub(crate) fn url_with_port(&self, port: u16) -> String {
        let Ok(mut url) = Url::parse(&self.url) else { return self.url.clone() };
        if url.port().is_some() || url.set_port(Some(port)).is_err() {
            return self.url.clone();
        }
        url.into()
    }

    /// Whether it is reached over TLS.
    pub(super) fn is_tls(&self) -> bool {
        Url::parse(&self.url).is_ok_and(|url| url.scheme() == "rediss")
    }

    /// What sharding hashes: the name, else address and database in one spelling, never credentials.
    pub(crate) fn identity(&self) -> String {
        match (&self.name, self.address()) {
            (Some(name), _) => name.clone(),
            (None, Ok(address)) => address.to_string(),
            (None, Err(_)) => self.redacted(),
        }
    }

    pub(super) fn given_name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Where the server is, or what is wrong with the URL; the reason repeats nothing of it that may be secret.
    pub(super) fn address(&self) -> Result<Address, String> {
        let url = Url::parse(&self.url).map_err(|error| format!("it is no URL: {error}"))?;
        let (allowed, address) = match url.scheme() {
            "redis" | "rediss" => (TCP_PARAMETERS, tcp_address(&url)?),
            "unix" | "redis+unix" => (UNIX_PARAMETERS, unix_address(&url)?),
            _ => return Err("the scheme must be redis, rediss, unix or redis+unix".into()),
        };
        check_parameters(&url, allowed)?;
        match url.fragment() {
            Some("insecure") if url.scheme() == "rediss" => Ok(address),
            Some(_) => Err("a fragment is allowed only as rediss://...#insecure".into()),
            None => Ok(address),
        }
    }

    /// The URL without what may be secret, for people. It holds for texts that are no URL too.
    pub(super) fn redacted(&self) -> String {
        let scheme = self.url.split_once("://").map(|(scheme, _)| format!("{scheme}://")).unwrap_or_default();
        let (url, query) = self.url.split_once('?').unwrap_or((&self.url, ""));
        match url.rsplit_once('@') {
            // The '?' may stand in a password, so that the text before it is the beginning of one.
            _ if query.contains('@') => format!("{scheme}..."),
            Some((_, after)) => format!("{scheme}{after}"),
            // What stands where the port should be may be a password whose '@' was forgotten.
            None if !scheme.is_empty() && Url::parse(url).is_err() => format!("{scheme}..."),
            None => url.to_owned(),
        }
    }
}

fn tcp_address(url: &Url) -> Result<Address, String> {
    let host = url.host_str().filter(|host| !host.is_empty()).ok_or("the host is missing")?.to_ascii_lowercase();
    if matches!(host.as_str(), "0.0.0.0" | "[::]") {
        return Err("a wildcard address cannot be connected to".into());
    }
    let port = url.port().unwrap_or(DEFAULT_PORT);
    if port == 0 {
        return Err("port 0 cannot be connected to".into());
    }
    let db = match url.path().trim_matches('/') {
        "" => 0,
        db => parse_db(db)?,
    };
    Ok(Address::Tcp { host, port, db })
}

fn unix_address(url: &Url) -> Result<Address, String> {
    let path = url.to_file_path().ok().filter(|path| path.as_os_str().len() > 1);
    let path = path.and_then(|path| path.into_os_string().into_string().ok());
    let path = path.ok_or("it must have an absolute path, as in unix:///run/redis.sock")?;
    let db = url.query_pairs().find(|(name, _)| name == "db").map_or(Ok(0), |(_, db)| parse_db(&db))?;
    Ok(Address::Unix { path, db })
}

fn parse_db(db: &str) -> Result<u32, String> {
    db.parse().map_err(|_| "the database must be a number, as in redis://localhost:6379/0".into())
}

fn check_parameters(url: &Url, allowed: &[&str]) -> Result<(), String> {
    for (name, value) in url.query_pairs() {
        if !allowed.contains(&&*name) {
            // Anything else may be the end of a password with a '?' in it.
            let is_name = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_') && !value.contains('@');
            return Err(format!("parameter {} is not supported", if is_name { &name } else { "..." }));
        }
        if name == "protocol" && !matches!(&*value, "2" | "resp2" | "3" | "resp3") {
            return Err("parameter protocol must be resp2 or resp3".into());
        }
    }
    Ok(())
}

/// A server given in parts, as Python's configurations may have it.
#[derive(Default)]
pub(super) struct Parts {
    pub(super) url: Option<String>,
    pub(super) name: Option<String>,
    pub(super) host: Option<String>,
    pub(super) port: Option<u16>,
    pub(super) db: Option<u32>,
    pub(super) username: Option<String>,
    pub(super) password: Option<String>,
}

impl Parts {
    /// The host of these parts, or what is wrong with them.
    pub(super) fn into_host(self) -> Result<Host, String> {
        let text = match (self.url, self.host) {
            (Some(_), Some(_)) => return Err("it has both a url and a host".into()),
            (Some(_), None) if self.port.is_some() => return Err("the port of a url belongs into the url".into()),
            (Some(url), None) => url,
            (None, host) => {
                tcp_url(host.as_deref().unwrap_or("localhost"), self.port.unwrap_or(DEFAULT_PORT), self.db.unwrap_or(0))
            }
        };
        let mut host = Host { name: self.name, url: text };
        if self.db.is_some() || self.username.is_some() || self.password.is_some() {
            let address = host.address()?;
            let mut url = Url::parse(&host.url).map_err(|error| format!("it is no URL: {error}"))?;
            match address {
                Address::Tcp { .. } => {
                    self.db.inspect(|db| url.set_path(&db.to_string()));
                    let set = |done: Result<(), ()>| done.map_err(|()| "it cannot have credentials".to_owned());
                    self.username.map_or(Ok(()), |user| set(url.set_username(&user)))?;
                    self.password.map_or(Ok(()), |password| set(url.set_password(Some(&password))))?;
                }
                Address::Unix { .. } => {
                    let db = self.db.map(|db| db.to_string());
                    replace_parameters(&mut url, &[("db", db), ("user", self.username), ("pass", self.password)]);
                }
            }
            host.url = url.into();
        }
        Ok(host)
    }
}

fn replace_parameters(url: &mut Url, given: &[(&str, Option<String>)]) {
    let kept: Vec<(String, String)> = url
        .query_pairs()
        .filter(|(name, _)| !given.iter().any(|(other, value)| other == name && value.is_some()))
        .map(|(name, value)| (name.into_owned(), value.into_owned()))
        .collect();
    let given = given.iter().filter_map(|(name, value)| value.as_deref().map(|value| (*name, value)));
    url.query_pairs_mut().clear().extend_pairs(kept).extend_pairs(given);
}

fn tcp_url(host: &str, port: u16, db: u32) -> String {
    let is_ipv6 = host.contains(':') && !host.starts_with('[');
    if is_ipv6 { format!("redis://[{host}]:{port}/{db}") } else { format!("redis://{host}:{port}/{db}") }
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
        Self::new(tcp_url(host, port, 0))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port, db } => write!(f, "{host}:{port}/{db}"),
            Self::Unix { path, db } => write!(f, "{path}?db={db}"),
        }
    }
}

impl fmt::Display for Host {
    /// The name and the URL, without credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{name} ({})", self.redacted()),
            None => f.write_str(&self.redacted()),
        }
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").field("name", &self.name).field("url", &self.redacted()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        Host::from(("a/b", 6380)).address().expect_err("it is no host");
    }

    #[test]
    fn a_port_can_be_given_to_those_who_have_none() {
        for (url, with_port) in [
            ("redis://:p@a", "redis://:p@a:26379"),
            ("rediss://a:1#insecure", "rediss://a:1#insecure"),
            ("redis://[::1]", "redis://[::1]:26379"),
        ] {
            assert_eq!(Host::new(url).url_with_port(26379), with_port);
        }
    }

    #[test]
    fn urls_that_cannot_work_are_refused_with_a_reason() {
        for (url, reason) in [
            ("", "it is no URL"),
            ("localhost", "it is no URL"),
            ("127.0.0.1:6379", "it is no URL"),
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
            ("redis://localhost?ssl_cert_reqs=none", "parameter ssl_cert_reqs is not supported"),
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
        ] {
            let host = Host::new(url);
            let reason = host.address().err().unwrap_or_default();
            for shown in [host.to_string(), format!("{host:?}"), host.identity(), reason] {
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
            Parts { url: Some("unix:///s?db=1".into()), db: Some(2), password: Some("p&".into()), ..Parts::default() };
        assert_eq!(parts.into_host().expect("they are good").url(), "unix:///s?db=2&pass=p%26");
        let parts = Parts { password: Some("p".into()), ..Parts::default() };
        assert_eq!(parts.into_host().expect("they are good").url(), "redis://:p@localhost:6379/0");
    }
}
