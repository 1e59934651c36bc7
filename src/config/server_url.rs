//! `ServerUrl`: parses the URL of a server in every spelling of common Redis clients, and writes the spelling that
//! connections use.

use std::fmt;

use url::Url;

use crate::config::sources::python::option_for;

pub(crate) const DEFAULT_PORT: u16 = 6379;

/// The address of a server, without credentials.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Address {
    Tcp { host: String, port: u16, db: u32 },
    Unix { path: String, db: u32 },
}

/// A parsed server URL.
pub(crate) struct ServerUrl {
    /// The URL in the spelling that connections use: user and password in their place, and the scheme `redis`, `rediss`
    /// or `unix`.
    pub(crate) url: Url,
    pub(crate) address: Address,
}

impl ServerUrl {
    /// Parses `text`. The reason of an error contains no part of `text` that may be secret.
    pub(crate) fn read(text: &str) -> Result<Self, String> {
        Self::parse(text).map_err(|reason| if is_unescaped(text) { format!("{reason}; {ESCAPING}") } else { reason })
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut url =
            Url::parse(text).map_err(|error| format!("expected a URL such as redis://localhost:6379: {error}"))?;
        let scheme = match url.scheme() {
            "redis" | "valkey" => "redis",
            "rediss" | "valkeys" => "rediss",
            "unix" | "redis+unix" | "valkey+unix" => "unix",
            _ => return Err("the scheme must be redis, rediss, valkey, valkeys, unix or redis+unix".into()),
        };
        url.set_scheme(scheme).map_err(|()| "the scheme must be redis, rediss or unix")?;
        let parameters: Vec<_> = url.query_pairs().into_owned().collect();
        url.set_query(None);
        let address = if scheme == "unix" { unix_address(&url)? } else { tcp_address(&url)? };
        match url.fragment() {
            Some("insecure") if scheme == "rediss" => {}
            Some(_) => return Err("a fragment is allowed only as rediss://...#insecure".into()),
            None => {}
        }
        let mut server = Self { url, address };
        parameters.iter().try_for_each(|(name, value)| server.set_parameter(name, value))?;
        Ok(server)
    }

    fn set_parameter(&mut self, name: &str, value: &str) -> Result<(), String> {
        match name {
            "db" => self.set_db(parse_db(value)?),
            "user" | "username" => return self.set_username(value),
            "pass" | "password" => return self.set_password(value),
            "protocol" if matches!(value, "2" | "resp2" | "3" | "resp3") => self.set_query("protocol", value),
            "protocol" => return Err("parameter protocol must be resp2 or resp3".into()),
            "ssl_cert_reqs" => return self.set_certificates(value),
            _ => {
                // An unknown name is not shown: it may be the end of a password that contains a '?'.
                return Err(match option_for(name) {
                    Some(ours) => format!("parameter {name} is not supported; set the option {ours} instead"),
                    None => {
                        "unsupported parameter; the parameters are db, username, password, protocol and ssl_cert_reqs"
                            .into()
                    }
                });
            }
        }
        Ok(())
    }

    pub(crate) fn set_db(&mut self, number: u32) {
        match &mut self.address {
            Address::Tcp { db, .. } => {
                *db = number;
                self.url.set_path(&number.to_string());
            }
            Address::Unix { db, .. } => {
                *db = number;
                self.set_query("db", &number.to_string());
            }
        }
    }

    pub(crate) fn set_username(&mut self, username: &str) -> Result<(), String> {
        if self.is_unix() {
            self.set_query("user", username);
            return Ok(());
        }
        self.url.set_username(username).map_err(|()| "this URL cannot have credentials".into())
    }

    pub(crate) fn set_password(&mut self, password: &str) -> Result<(), String> {
        if self.is_unix() {
            self.set_query("pass", password);
            return Ok(());
        }
        self.url.set_password(Some(password)).map_err(|()| "this URL cannot have credentials".into())
    }

    /// Makes connections use TLS.
    pub(crate) fn set_tls(&mut self) -> Result<(), String> {
        if self.is_unix() {
            return Err("a unix socket does not support TLS".into());
        }
        self.url.set_scheme("rediss").map_err(|()| "this URL cannot use TLS".into())
    }

    /// Sets the check of certificates from redis-py's `ssl_cert_reqs`.
    pub(crate) fn set_certificates(&mut self, required: &str) -> Result<(), String> {
        match required {
            "none" if self.is_tls() => {
                self.url.set_fragment(Some("insecure"));
                Ok(())
            }
            "required" | "none" => Ok(()),
            _ => Err("ssl_cert_reqs must be required or none; none accepts any certificate, as #insecure does".into()),
        }
    }

    fn set_query(&mut self, name: &str, value: &str) {
        let kept: Vec<_> = self.url.query_pairs().into_owned().filter(|(other, _)| other != name).collect();
        self.url.query_pairs_mut().clear().extend_pairs(kept).append_pair(name, value);
    }

    fn is_unix(&self) -> bool {
        matches!(self.address, Address::Unix { .. })
    }

    pub(crate) fn is_tls(&self) -> bool {
        self.url.scheme() == "rediss"
    }

    /// The settings of connections to the server that do not depend on its address.
    pub(crate) fn login(&self) -> (&str, &str, Option<&str>, Option<&str>, Option<&str>) {
        let url = &self.url;
        (url.scheme(), url.username(), url.password(), url.query(), url.fragment())
    }

    /// Whether the URL has a user or a password.
    pub(crate) fn has_login(&self) -> bool {
        let in_query = |name: &str| matches!(name, "user" | "pass");
        self.url.authority().contains('@') || self.url.query_pairs().any(|(name, _)| in_query(&name))
    }

    /// Whether the URL has a database other than 0.
    pub(crate) fn has_db(&self) -> bool {
        let (Address::Tcp { db, .. } | Address::Unix { db, .. }) = &self.address;
        *db != 0
    }

    /// The URL with credentials, and with `port` if it has no port.
    pub(crate) fn url_with_port(&self, port: u16) -> String {
        let mut url = self.url.clone();
        if url.port().is_none() && !self.is_unix() {
            // A TCP URL has a host, so that setting its port cannot fail.
            let _ = url.set_port(Some(port));
        }
        url.into()
    }
}

impl fmt::Display for ServerUrl {
    /// The URL without credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            Address::Tcp { .. } => {
                write!(f, "{}://{}", self.url.scheme(), self.url.host_str().unwrap_or_default())?;
                self.url.port().map_or(Ok(()), |port| write!(f, ":{port}"))?;
                f.write_str(self.url.path())?;
                self.url.fragment().map_or(Ok(()), |fragment| write!(f, "#{fragment}"))
            }
            Address::Unix { path, db: 0 } => write!(f, "unix://{path}"),
            Address::Unix { path, db } => write!(f, "unix://{path}?db={db}"),
        }
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

/// Connection strings of other products have options, including passwords, after commas.
const CONNECTION_STRING: &str = "invalid character in the host; write options after a ?, as in redis://host?db=1";
const ESCAPING: &str = "in a user or a password, write # as %23, / as %2F, ? as %3F, : as %3A, @ as %40 and % as %25";

/// Whether an `@` follows the end of the address. This happens if a password contains a character that ends the
/// address.
fn is_unescaped(text: &str) -> bool {
    let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
    rest.split_once(['/', '?', '#']).is_some_and(|(_, behind)| behind.contains('@'))
}

fn tcp_address(url: &Url) -> Result<Address, String> {
    let host = url.host_str().filter(|host| !host.is_empty()).ok_or("the host is missing")?.to_ascii_lowercase();
    let plain = |host: &str| host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte));
    if !plain(&host) && !host.starts_with('[') {
        return Err(CONNECTION_STRING.into());
    }
    if matches!(host.as_str(), "0.0.0.0" | "[::]") {
        return Err("cannot connect to a wildcard address".into());
    }
    let port = url.port().unwrap_or(DEFAULT_PORT);
    if port == 0 {
        return Err("cannot connect to port 0".into());
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
    let path = path.ok_or("expected an absolute path, as in unix:///run/redis.sock")?;
    if path.contains([',', '=']) {
        return Err(CONNECTION_STRING.into());
    }
    Ok(Address::Unix { path, db: 0 })
}

fn parse_db(db: &str) -> Result<u32, String> {
    db.parse().map_err(|_| "the database must be a number, as in redis://localhost:6379/0".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> String {
        ServerUrl::read(text).unwrap_or_else(|reason| panic!("{text}: {reason}")).url_with_port(DEFAULT_PORT)
    }

    #[test]
    fn every_spelling_becomes_the_url_that_connections_use() {
        for (text, expected) in [
            ("redis://a", "redis://a:6379"),
            ("valkey://u:p@a:1/2", "redis://u:p@a:1/2"),
            ("valkeys://a:1", "rediss://a:1"),
            ("redis://a?db=3", "redis://a:6379/3"),
            ("redis://a/1?db=3&password=p%40&username=u", "redis://u:p%40@a:6379/3"),
            ("rediss://:p@a:1?ssl_cert_reqs=none", "rediss://:p@a:1#insecure"),
            ("rediss://a:1/0?ssl_cert_reqs=required", "rediss://a:1/0"),
            ("redis://a:1?protocol=3", "redis://a:1?protocol=3"),
            ("unix:///run/redis.sock?db=2&password=p", "unix:///run/redis.sock?db=2&pass=p"),
            ("redis+unix:///run/redis.sock?username=u&pass=p", "unix:///run/redis.sock?user=u&pass=p"),
        ] {
            assert_eq!(url(text), expected, "{text}");
        }
    }

    #[test]
    fn a_parameter_of_redis_py_is_refused_with_the_name_of_our_option() {
        for (parameter, option) in [("socket_timeout", "command_timeout"), ("max_connections", "pool_size")] {
            let refused = ServerUrl::read(&format!("redis://a?{parameter}=1")).err().expect(parameter);
            assert!(refused.ends_with(&format!("set the option {option} instead")), "{refused}");
        }
    }

    #[test]
    fn an_unescaped_password_is_refused_with_a_hint_at_escaping() {
        for url in ["redis://:a#b@h", "redis://u:a/b@h", "redis://:1?b@h", "redis://u:1/b@h:1", "rediss://:1#b@h/0"] {
            let refused = ServerUrl::read(url).err().expect(url);
            assert!(refused.contains("write # as %23"), "{url}: {refused}");
        }
        let refused = ServerUrl::read("redis://h/first").err().expect("it is refused");
        assert!(!refused.contains("%23"), "{refused}");
    }
}
