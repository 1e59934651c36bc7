//! An interface server with TLS, and clients with a choice of protocols.

use std::sync::Arc;

use channel_layer::InterfaceServer;
use channel_layer::server::Tls;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::running::Running;

/// A server with a certificate, and a connector for clients that trust it.
pub struct Certified {
    pub server: Running,
    connector: TlsConnector,
}

impl Certified {
    pub async fn start(protocols: &[&str]) -> Self {
        Self::with(protocols, |server| server).await
    }

    pub async fn with(protocols: &[&str], set: impl FnOnce(InterfaceServer) -> InterfaceServer) -> Self {
        let generated = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let tls =
            Tls::from_pem(generated.cert.pem().as_bytes(), generated.signing_key.serialize_pem().as_bytes()).unwrap();
        let server = Running::with(|server| set(server.tls(tls))).await;
        let mut roots = RootCertStore::empty();
        roots.add(generated.cert.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        Self { server, connector: TlsConnector::from(Arc::new(config)) }
    }

    pub async fn connect(&self) -> tokio_rustls::client::TlsStream<TcpStream> {
        let stream = TcpStream::connect(&self.server.address).await.unwrap();
        self.connector.connect(ServerName::try_from("localhost").unwrap(), stream).await.unwrap()
    }
}
