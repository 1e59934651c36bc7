//! TLS connections, with authorities that the tests create.

use std::path::{Path, PathBuf};
use std::time::Duration;

use channel_layer::{ChannelLayer, Config, Error, Fallback, FallbackLayer, Mode, PubSubLayer, RedisLayer, message};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tempfile::TempDir;

use tokio::process::Command;

use super::tools::{Site, ask, connect, number, numbered, publishes, shares_with_python, take_number};
use crate::support::{DEADLINE, RedisServer, ReservedPort, random_prefix, within};

/// A server with a TLS port and a plain port, and its files.
pub struct TlsServer {
    pub server: RedisServer,
    pub port: ReservedPort,
    pub files: Files,
}

/// An authority and the certificates that it has signed, in their own directory.
pub struct Files {
    dir: TempDir,
}

impl Files {
    pub fn new() -> Self {
        let files = Self { dir: tempfile::tempdir().unwrap() };
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, random_prefix());
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        files.write("ca.pem", &ca.pem());
        let here = || vec!["127.0.0.1".into()];
        for (name, names) in [
            ("server", here()),
            ("host", vec!["localhost".into()]),
            ("client", vec![]),
            ("named", vec!["other".into()]),
            ("expired", here()),
        ] {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(names).unwrap();
            if name == "expired" {
                params.not_after = rcgen::date_time_ymd(2020, 1, 1);
            }
            let certificate = params.signed_by(&key, &ca).unwrap();
            files.write(&format!("{name}.pem"), &certificate.pem());
            files.write(&format!("{name}.key"), &key.serialize_pem());
        }
        files
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, content: &str) {
        std::fs::write(self.path(name), content).unwrap();
    }
}

impl TlsServer {
    pub fn start(certificate: &str, more: &[&str]) -> Self {
        Self::with(Files::new(), certificate, more)
    }

    fn with(files: Files, certificate: &str, more: &[&str]) -> Self {
        let port = ReservedPort::new();
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

pub const ANY_CLIENT: [&str; 2] = ["--tls-auth-clients", "no"];

async fn refusal(config: Config) -> (Error, String) {
    let error = within(DEADLINE, "a refusal", RedisLayer::connect(config)).await.expect_err("it is refused");
    let said = error.to_string();
    (error, said)
}

/// Sends and reads on every kind of connection that a layer has.
async fn works(config: Config) {
    let layer = connect(config.max_message_size(2 << 20)).await;
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
async fn all_connections_use_tls_and_verify_the_configured_authority() {
    let server = TlsServer::start("server", &ANY_CLIENT);
    works(server.config().tls_ca_file(server.files.path("ca.pem"))).await;
    let () =
        ask(&mut server.server.connection().await, redis::cmd("CONFIG").arg(&["SET", "requirepass", "secret"])).await;
    works(server.config_as(":secret@", "").tls_ca_file(server.files.path("ca.pem"))).await;
}

#[tokio::test]
async fn an_authority_from_the_environment_applies_to_a_server_from_an_option() {
    let server = TlsServer::start("server", &ANY_CLIENT);
    let mut send = Command::new(env!("CARGO_BIN_EXE_channel-layer"));
    send.args(["send", "work", "{}", "--redis", &format!("rediss://127.0.0.1:{}", server.port.number())]);
    send.env_clear().env("CHANNEL_LAYER_TLS_CA_FILE", server.files.path("ca.pem")).kill_on_drop(true);
    let output = within(DEADLINE, "the end of the command", send.output()).await.unwrap();
    assert!(output.status.success(), "{output:?}");
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
async fn a_mismatch_of_tls_and_plain_is_reported() {
    let server = TlsServer::start("server", &ANY_CLIENT);
    let (port, plain) = (server.port.number(), server.server.port());
    let (_, said) = refusal(Site::at([format!("redis://127.0.0.1:{port}")]).config()).await;
    let expected = format!("cannot connect to Redis at 127.0.0.1:{port}: the server speaks TLS: ");
    assert!(said.starts_with(&expected), "{said}");
    // The server reads the handshake as an unfinished command and waits for its end.
    let config = Site::at([format!("rediss://127.0.0.1:{plain}")]).config().connect_timeout(Duration::from_millis(500));
    let (_, said) = refusal(config.command_timeout(Duration::from_secs(1))).await;
    let expected = format!("cannot connect to Redis at 127.0.0.1:{plain}: the server does not speak TLS: ");
    assert!(said.starts_with(&expected), "{said}");
}

/// Runs an `openssl` command in a directory.
async fn openssl(dir: &Path, command: &str) {
    let made = Command::new("sh").args(["-c", command]).current_dir(dir).output().await.unwrap();
    assert!(made.status.success(), "{command}: {}", String::from_utf8_lossy(&made.stderr));
}

#[tokio::test]
async fn the_certificate_of_the_manual_works() {
    let files = Files::new();
    let page = include_str!("../../docs/troubleshooting.md");
    let command = page.lines().find(|line| line.starts_with("openssl req")).expect("the page has the command");
    openssl(files.dir.path(), command).await;
    let server = TlsServer::with(files, "redis", &ANY_CLIENT);
    let named = |host: &str| {
        let config = Site::at([format!("rediss://{host}:{}", server.port.number())]).config();
        config.tls_ca_file(server.files.path("redis.pem"))
    };
    works(named("127.0.0.1")).await;
    publishes(named("localhost")).await;
}

/// `openssl req -x509` creates such a certificate by default.
#[tokio::test]
async fn a_ca_certificate_as_server_certificate_is_refused_with_advice() {
    let files = Files::new();
    let names = "-subj /CN=own -addext subjectAltName=IP:127.0.0.1";
    let command = format!("openssl req -x509 -newkey rsa:2048 -nodes -keyout own.key -out own.pem {names}");
    openssl(files.dir.path(), &command).await;
    let server = TlsServer::with(files, "own", &ANY_CLIENT);
    let (_, said) = refusal(server.config().tls_ca_file(server.files.path("own.pem"))).await;
    let expected = format!("cannot connect to Redis at 127.0.0.1:{}: invalid peer certificate: ", server.port.number());
    assert!(said.starts_with(&expected), "{said}");
    assert!(said.contains("is a CA certificate (CA:TRUE)") && said.contains("CA:FALSE"), "{said}");
    for refused in refused_though_it_falls_back(server.config().tls_ca_file(server.files.path("own.pem"))).await {
        assert!(refused.is_some(), "a wrong certificate is not an outage");
    }
}

#[tokio::test]
async fn the_insecure_fragment_accepts_any_certificate() {
    let server = TlsServer::start("named", &ANY_CLIENT);
    works(server.config_as("", "#insecure")).await;
}

#[tokio::test]
async fn a_server_that_requires_a_client_certificate_gets_it() {
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

/// Starts layers with a fallback with `config`. Returns their errors; `None` if they start without a server.
async fn refused_though_it_falls_back(config: Config) -> [Option<Error>; 2] {
    let config = config.fallback(Fallback::Local);
    let alone = async |layer: &dyn ChannelLayer| {
        assert_eq!(*layer.mode().borrow(), Mode::LocalOnly);
        layer.send("n", numbered(1)).await.unwrap();
        layer.health().await.shards.remove(0).reason.unwrap()
    };
    let falls_back = within(DEADLINE, "a layer", FallbackLayer::connect(config.clone())).await;
    let publishes = within(DEADLINE, "a layer", PubSubLayer::connect(config)).await;
    if let (Ok(falls_back), Ok(publishes)) = (&falls_back, &publishes) {
        for reason in [alone(falls_back).await, alone(publishes).await] {
            assert!(reason.contains("expired"), "{reason}");
        }
    }
    [falls_back.err(), publishes.err()]
}

#[tokio::test]
async fn an_untrusted_certificate_at_the_start_is_not_an_outage() {
    let (server, named, other) =
        (TlsServer::start("server", &[]), TlsServer::start("named", &ANY_CLIENT), Files::new());
    let ours = server.config().tls_ca_file(server.files.path("ca.pem"));
    let strange =
        |files: &Files| ours.clone().tls_cert_file(files.path("client.pem")).tls_key_file(files.path("client.key"));
    for (config, mistake) in [
        (server.config().tls_ca_file(other.path("ca.pem")), "UnknownIssuer"),
        (named.config().tls_ca_file(named.files.path("ca.pem")), "not valid for name"),
        (ours.clone(), "CertificateRequired"),
        (strange(&other), "UnknownCA"),
    ] {
        for refused in refused_though_it_falls_back(config).await {
            let refused = refused.unwrap_or_else(|| panic!("the layer started despite {mistake}"));
            let said = refused.to_string();
            assert!(matches!(refused, Error::Redis { shard: 0, .. }) && said.contains(mistake), "{said}");
        }
    }
}

#[tokio::test]
async fn a_layer_with_a_fallback_starts_despite_an_expired_certificate() {
    let server = TlsServer::start("expired", &ANY_CLIENT);
    let refused = refused_though_it_falls_back(server.config().tls_ca_file(server.files.path("ca.pem"))).await;
    assert!(refused.iter().all(Option::is_none), "{refused:?}");
}

#[tokio::test]
async fn invalid_files_are_reported() {
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
