//! Connections over TLS, with authorities made here.

use std::path::{Path, PathBuf};

use channel_layer::{ChannelLayer, Config, Error, RedisLayer, message};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tempfile::TempDir;

use super::tools::{Site, ask, connect, number, numbered, publishes, shares_with_python, take_number};
use crate::support::{DEADLINE, RedisServer, ReservedPort, random_prefix, within};

/// A server that speaks TLS beside its plain port, and the files around it.
struct TlsServer {
    server: RedisServer,
    port: ReservedPort,
    files: Files,
}

/// An authority and what it has signed, in a directory of their own.
struct Files {
    dir: TempDir,
}

impl Files {
    fn new() -> Self {
        let files = Self { dir: tempfile::tempdir().unwrap() };
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, random_prefix());
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        files.write("ca.pem", &ca.pem());
        for (name, names) in [("server", vec!["127.0.0.1".into()]), ("client", vec![]), ("named", vec!["other".into()])]
        {
            let key = KeyPair::generate().unwrap();
            let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &ca).unwrap();
            files.write(&format!("{name}.pem"), &certificate.pem());
            files.write(&format!("{name}.key"), &key.serialize_pem());
        }
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, content: &str) {
        std::fs::write(self.path(name), content).unwrap();
    }
}

impl TlsServer {
    fn start(certificate: &str, more: &[&str]) -> Self {
        let (files, port) = (Files::new(), ReservedPort::new());
        let text = |path: PathBuf| path.to_str().unwrap().to_owned();
        let (ca, key) = (text(files.path("ca.pem")), text(files.path(&format!("{certificate}.key"))));
        let certificate = text(files.path(&format!("{certificate}.pem")));
        let port_text = port.number().to_string();
        let tls = [
            "--tls-port",
            &port_text,
            "--tls-cert-file",
            &certificate,
            "--tls-key-file",
            &key,
            "--tls-ca-cert-file",
            &ca,
        ];
        Self { server: RedisServer::with(&[&tls, more].concat()), port, files }
    }

    fn config(&self) -> Config {
        self.config_as("", "")
    }

    fn config_as(&self, login: &str, fragment: &str) -> Config {
        Site::at([format!("rediss://{login}127.0.0.1:{}/0{fragment}", self.port.number())]).config()
    }
}

const ANY_CLIENT: [&str; 2] = ["--tls-auth-clients", "no"];

async fn refusal(config: Config) -> (Error, String) {
    let error = within(DEADLINE, "a refusal", RedisLayer::connect(config)).await.expect_err("it is refused");
    let mut said = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        said = format!("{said}: {error}");
        cause = error.source();
    }
    (error, said)
}

/// Sends and reads on every kind of connection that a layer has.
async fn works(config: Config) {
    let layer = connect(config).await;
    let reading = layer.clone();
    let waiting = tokio::spawn(async move { reading.receive(&["l!"]).await });
    layer.group_add("g", "l!a").await.unwrap();
    layer.group_send("g", numbered(1)).await.unwrap();
    assert_eq!(number(&within(DEADLINE, "a message", waiting).await.unwrap().unwrap()), 1);
    layer.send("n", message! { "bytes": channel_layer::Bytes::from(vec![7; 1 << 20]), "number": 2 }).await.unwrap();
    assert_eq!(take_number(&layer, "n").await, 2);
    layer.close().await.unwrap();
}

#[tokio::test]
async fn all_connections_are_made_over_tls_and_checked_by_the_authority_given() {
    let server = TlsServer::start("server", &ANY_CLIENT);
    works(server.config().tls_ca_file(server.files.path("ca.pem"))).await;
    let () =
        ask(&mut server.server.connection().await, redis::cmd("CONFIG").arg(&["SET", "requirepass", "secret"])).await;
    works(server.config_as(":secret@", "").tls_ca_file(server.files.path("ca.pem"))).await;
}

#[tokio::test]
async fn a_server_of_another_authority_is_refused() {
    let (server, other) = (TlsServer::start("server", &ANY_CLIENT), Files::new());
    for config in [server.config(), server.config().tls_ca_file(other.path("ca.pem"))] {
        let (error, said) = refusal(config).await;
        assert!(matches!(error, Error::Redis { shard: 0, .. }) && said.contains("UnknownIssuer"), "{said}");
    }
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused() {
    let server = TlsServer::start("named", &ANY_CLIENT);
    let (_, said) = refusal(server.config().tls_ca_file(server.files.path("ca.pem"))).await;
    assert!(said.contains("not valid for name"), "{said}");
}

#[tokio::test]
async fn insecure_accepts_any_certificate() {
    let server = TlsServer::start("named", &ANY_CLIENT);
    works(server.config_as("", "#insecure")).await;
}

#[tokio::test]
async fn a_server_that_wants_a_certificate_of_us_gets_it() {
    let (server, other) = (TlsServer::start("server", &[]), Files::new());
    let ours = |files: &Files| {
        let config = server.config().tls_ca_file(server.files.path("ca.pem"));
        config.tls_cert_file(files.path("client.pem")).tls_key_file(files.path("client.key"))
    };
    works(ours(&server.files)).await;
    publishes(ours(&server.files)).await;
    shares_with_python(ours(&server.files)).await;
    for config in [server.config().tls_ca_file(server.files.path("ca.pem")), ours(&other)] {
        let (error, said) = refusal(config).await;
        assert!(matches!(error, Error::Redis { shard: 0, .. }), "{said}");
    }
}

#[tokio::test]
async fn files_that_cannot_work_are_named() {
    let server = TlsServer::start("server", &ANY_CLIENT);
    let files = &server.files;
    files.write("empty.pem", "");
    let named = |option: &str, path: &Path| format!("{option} = {}", path.display());
    for (option, file) in [("tls_ca_file", "missing.pem"), ("tls_ca_file", "empty.pem"), ("tls_ca_file", "server.key")]
    {
        let (error, said) = refusal(server.config().tls_ca_file(files.path(file))).await;
        assert!(matches!(error, Error::InvalidConfig { .. }), "{said}");
        assert!(said.contains(&named(option, &files.path(file))), "{said}");
    }
    let with = |cert: &str, key: &str| {
        let config = server.config().tls_ca_file(files.path("ca.pem"));
        refusal(config.tls_cert_file(files.path(cert)).tls_key_file(files.path(key)))
    };
    let (_, said) = with("missing.pem", "client.key").await;
    assert!(said.contains(&named("tls_cert_file", &files.path("missing.pem"))), "{said}");
    let (_, said) = with("client.pem", "client.pem").await;
    assert!(said.contains(&named("tls_key_file", &files.path("client.pem"))), "{said}");
}
