//! TLS: the certificate of the server, and the handshake.

use std::fmt;
use std::io;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::server::TlsStream;

use crate::error::BoxError;

/// The certificate and private key of a server. Clients use TLS 1.2 or 1.3, and HTTP/2 if they support it.
#[derive(Clone)]
pub struct Tls {
    acceptor: TlsAcceptor,
}

/// Why a certificate or a key cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("invalid {what} for TLS")]
pub struct InvalidTls {
    what: &'static str,
    #[source]
    source: BoxError,
}

impl Tls {
    /// Reads two PEM files: the certificate chain, with the certificate of the server first, and the private key.
    ///
    /// # Errors
    ///
    /// If a file is invalid, or the key does not match the certificate.
    pub fn from_pem(certificates: &[u8], key: &[u8]) -> Result<Self, InvalidTls> {
        let invalid = |what, source: BoxError| InvalidTls { what, source };
        let chain = CertificateDer::pem_slice_iter(certificates)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| invalid("certificate", error.into()))?;
        if chain.is_empty() {
            return Err(invalid("certificate", "the file contains none".into()));
        }
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| invalid("private key", error.into()))?;
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .and_then(|config| config.with_no_client_auth().with_single_cert(chain, key))
            .map_err(|error| invalid("certificate or private key", error.into()))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)) })
    }

    pub(crate) async fn accept<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S) -> io::Result<TlsStream<S>> {
        self.acceptor.accept(stream).await
    }
}

/// Returns `true` if the client has selected HTTP/2 in the handshake.
pub(crate) fn is_http2<S>(stream: &TlsStream<S>) -> bool {
    stream.get_ref().1.alpn_protocol() == Some(b"h2")
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}
