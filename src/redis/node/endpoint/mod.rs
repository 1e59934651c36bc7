//! `Endpoint`: the address of a server, its login and the settings of connections to it.
//!
//! A [`source`] returns the address at each connect. The address is configured, or a group of [`sentinel`]s reports it.

pub(crate) mod sentinel;
pub(crate) mod source;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use redis::io::tcp::{TcpSettings, socket2};
use redis::{
    Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo, RedisError,
    TlsCertificates,
};
use rustls::crypto::{CryptoProvider, ring};

use crate::config::{Config, Host, ServiceLogin, TlsFiles};
use crate::error::Error;
use crate::redis::node::fault;

/// An address and the settings of connections to it.
#[derive(Clone)]
pub(crate) struct Endpoint {
    info: ConnectionInfo,
    tls: TlsFiles,
}

/// Why no client can be made for an endpoint. Its text contains no secret.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EndpointError {
    /// A file that an option names cannot be used.
    #[error("{option} = {path}: {reason}")]
    File { option: &'static str, path: String, reason: String },
    #[error("{}", fault::text(.0))]
    Redis(#[from] RedisError),
}

impl EndpointError {
    /// The configuration error of `option`, which has the value `host`, or of the option that names an unusable file.
    pub(crate) fn of_option(self, option: String, host: &Host) -> Error {
        match self {
            Self::File { option, path, reason } => Error::config(option, path, reason),
            Self::Redis(error) => Error::config(option, host, error),
        }
    }
}

impl Endpoint {
    /// The endpoint of the server at `url`.
    pub(crate) fn at(url: &str, config: &Config) -> Result<Self, EndpointError> {
        let info = url.into_connection_info()?;
        Ok(Self::new(info, config))
    }

    /// The endpoint of the master of a service, which the sentinels located at `host` and `port`.
    pub(crate) fn of_service(host: String, port: u16, config: &Config) -> Result<Self, EndpointError> {
        let ServiceLogin { username, password, db, tls } = &config.service_login;
        let addr = if *tls {
            ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
        } else {
            ConnectionAddr::Tcp(host, port)
        };
        let mut login = RedisConnectionInfo::default().set_db((*db).into());
        if let Some(username) = username {
            login = login.set_username(username);
        }
        if let Some(password) = password {
            login = login.set_password(password);
        }
        Ok(Self::new(addr.into_connection_info()?.set_redis_settings(login), config))
    }

    /// The endpoint of another node of the same cluster, with the same login and TLS settings.
    pub(crate) fn sibling(&self, host: String, port: u16) -> Self {
        let addr = match self.info.addr() {
            ConnectionAddr::TcpTls { insecure, .. } => {
                ConnectionAddr::TcpTls { host, port, insecure: *insecure, tls_params: None }
            }
            _ => ConnectionAddr::Tcp(host, port),
        };
        Self { info: self.info.clone().set_addr(addr), tls: self.tls.clone() }
    }

    fn new(info: ConnectionInfo, config: &Config) -> Self {
        let info = info.set_tcp_settings(tcp_settings(config.tcp_keepalive, config.command_timeout));
        Self { info, tls: config.tls.clone() }
    }

    /// The address as text.
    pub(crate) fn address(&self) -> String {
        shown(self.info.addr())
    }

    /// The host; empty for a unix socket.
    pub(crate) fn host(&self) -> &str {
        match self.info.addr() {
            ConnectionAddr::Tcp(host, _) | ConnectionAddr::TcpTls { host, .. } => host,
            _ => "",
        }
    }

    /// A client for the endpoint. Reads the files with certificates anew.
    pub(crate) fn client(&self) -> Result<Arc<Client>, EndpointError> {
        let client = match self.info.addr() {
            ConnectionAddr::TcpTls { .. } => {
                install_crypto_provider();
                Client::build_with_tls(self.info.clone(), certificates(&self.tls)?)?
            }
            _ => Client::open(self.info.clone())?,
        };
        Ok(Arc::new(client))
    }
}

/// `address` as text, with an IPv6 address in brackets.
pub(crate) fn shown(address: &ConnectionAddr) -> String {
    match address {
        ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } if host.contains(':') => {
            format!("[{host}]:{port}")
        }
        other => other.to_string(),
    }
}

fn tcp_settings(keepalive: Duration, timeout: Duration) -> TcpSettings {
    // Probes every few seconds find a dead connection soon. With the default interval of the system it takes 11
    // minutes.
    let interval = (keepalive / 3).max(Duration::from_secs(1));
    let keepalive = socket2::TcpKeepalive::new().with_time(keepalive).with_interval(interval).with_retries(3);
    let settings = TcpSettings::default().set_nodelay(true).set_keepalive(keepalive);
    // A command that timed out must not arrive later. Without this the kernel sends the buffered data of a closed
    // connection for minutes, and it would arrive behind commands that were sent after it.
    let settings = settings.set_linger_time(Duration::ZERO);
    #[cfg(target_os = "linux")]
    let settings = settings.set_user_timeout(timeout);
    #[cfg(not(target_os = "linux"))]
    let _ = timeout;
    settings
}

/// Installs a default provider. Without one, rustls panics in programs in which other crates enable a second provider.
pub(crate) fn install_crypto_provider() {
    if CryptoProvider::get_default().is_none() {
        // Fails if another thread was faster, and then a provider is installed too.
        let _ = ring::default_provider().install_default();
    }
}

fn certificates(files: &TlsFiles) -> Result<TlsCertificates, EndpointError> {
    let root_cert = match &files.ca {
        Some(path) => Some(read_pem("tls_ca_file", path, "CERTIFICATE")?),
        None => None,
    };
    let client_tls = match (&files.cert, &files.key) {
        (Some(cert), Some(key)) => Some(ClientTlsConfig {
            client_cert: read_pem("tls_cert_file", cert, "CERTIFICATE")?,
            client_key: read_pem("tls_key_file", key, "PRIVATE KEY")?,
        }),
        _ => None,
    };
    Ok(TlsCertificates { client_tls, root_cert })
}

/// The content of a PEM file. Fails if the file has no block of this `kind`, because the client reads such a file as an
/// empty list.
fn read_pem(option: &'static str, path: &Path, kind: &str) -> Result<Vec<u8>, EndpointError> {
    let refuse = |reason| EndpointError::File { option, path: path.display().to_string(), reason };
    let pem = std::fs::read(path).map_err(|error: io::Error| refuse(error.to_string()))?;
    let end = format!("{kind}-----");
    if !String::from_utf8_lossy(&pem).lines().any(|line| line.starts_with("-----BEGIN ") && line.ends_with(&end)) {
        return Err(refuse(format!("the file contains no {} in PEM format", kind.to_lowercase())));
    }
    Ok(pem)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_closed_connection_sends_no_buffered_data() {
        let timeout = Duration::from_secs(3);
        let endpoint = Endpoint::at("redis://a", &Config::new().command_timeout(timeout)).unwrap();
        let settings = endpoint.info.tcp_settings();
        assert_eq!(settings.user_timeout(), Some(timeout));
        assert!(format!("{settings:?}").contains("linger_time: Some(0ns)"), "{settings:?}");
    }
}
