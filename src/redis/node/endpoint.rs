//! Where a server is and how to log in there, ready to be connected to.

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

/// An address with everything that connections to it need.
#[derive(Clone)]
pub(crate) struct Endpoint {
    info: ConnectionInfo,
    tls: TlsFiles,
}

/// Why there is no client for an endpoint. Its text shows no secret.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EndpointError {
    /// A file of the options is of no use.
    #[error("{option} = {path}: {reason}")]
    File { option: &'static str, path: String, reason: String },
    #[error("{}", fault::words(.0))]
    Redis(#[from] RedisError),
}

impl EndpointError {
    /// As the error of a configuration with this `host` for `option`, unless another option is wrong.
    pub(crate) fn of_option(self, option: String, host: &Host) -> Error {
        match self {
            Self::File { option, path, reason } => Error::config(option, path, reason),
            Self::Redis(error) => Error::config(option, host, error),
        }
    }
}

impl Endpoint {
    /// The server at `url`.
    pub(crate) fn at(url: &str, config: &Config) -> Result<Self, EndpointError> {
        let info = url.into_connection_info()?;
        Ok(Self::new(info, config))
    }

    /// The master of a service at `host` and `port`, as a sentinel has told.
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

    fn new(info: ConnectionInfo, config: &Config) -> Self {
        let info = info.set_tcp_settings(tcp_settings(config.tcp_keepalive, config.command_timeout));
        Self { info, tls: config.tls.clone() }
    }

    /// Where it is, for people.
    pub(crate) fn address(&self) -> String {
        shown(self.info.addr())
    }

    /// A client for it, with the certificates that the files hold now.
    pub(crate) fn client(&self) -> Result<Arc<Client>, EndpointError> {
        let client = match self.info.addr() {
            ConnectionAddr::TcpTls { .. } => {
                choose_cryptography();
                Client::build_with_tls(self.info.clone(), certificates(&self.tls)?)?
            }
            _ => Client::open(self.info.clone())?,
        };
        Ok(Arc::new(client))
    }
}

/// Where a server is, for people.
pub(crate) fn shown(address: &ConnectionAddr) -> String {
    match address {
        ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } if host.contains(':') => {
            format!("[{host}]:{port}")
        }
        other => other.to_string(),
    }
}

fn tcp_settings(keepalive: Duration, patience: Duration) -> TcpSettings {
    // A probe every few seconds after that finds a dead connection soon, where the system's own pace takes 11 minutes.
    let interval = (keepalive / 3).max(Duration::from_secs(1));
    let keepalive = socket2::TcpKeepalive::new().with_time(keepalive).with_interval(interval).with_retries(3);
    let settings = TcpSettings::default().set_nodelay(true).set_keepalive(keepalive);
    // What was given up shall not arrive after all: without this the kernel goes on sending what is in the buffers of a
    // connection that was closed, for minutes, and it would come behind what was sent after it.
    let settings = settings.set_linger_time(Duration::ZERO);
    #[cfg(target_os = "linux")]
    let settings = settings.set_user_timeout(patience);
    #[cfg(not(target_os = "linux"))]
    let _ = patience;
    settings
}

/// Without a choice rustls panics in programs where other crates have built it with a second provider.
pub(crate) fn choose_cryptography() {
    if CryptoProvider::get_default().is_none() {
        // It fails if another thread was faster, which is as good.
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

/// The content of a file that has to hold a block of this kind; the client takes one without any for an empty list.
fn read_pem(option: &'static str, path: &Path, kind: &str) -> Result<Vec<u8>, EndpointError> {
    let refuse = |reason| EndpointError::File { option, path: path.display().to_string(), reason };
    let pem = std::fs::read(path).map_err(|error: io::Error| refuse(error.to_string()))?;
    let end = format!("{kind}-----");
    if !String::from_utf8_lossy(&pem).lines().any(|line| line.starts_with("-----BEGIN ") && line.ends_with(&end)) {
        return Err(refuse(format!("it holds no {} in PEM", kind.to_lowercase())));
    }
    Ok(pem)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_sent_any_more_over_a_connection_that_was_given_up() {
        let patience = Duration::from_secs(3);
        let endpoint = Endpoint::at("redis://a", &Config::new().command_timeout(patience)).unwrap();
        let settings = endpoint.info.tcp_settings();
        assert_eq!(settings.user_timeout(), Some(patience));
        assert!(format!("{settings:?}").contains("linger_time: Some(0ns)"), "{settings:?}");
    }
}
