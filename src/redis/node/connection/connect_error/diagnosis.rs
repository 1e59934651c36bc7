//! Diagnosis of a failed connection: recognizes the usual misconfigurations by the first bytes that the server sends.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use redis::{Client, ConnectionAddr};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The longest duration of a diagnosis.
const LONGEST: Duration = Duration::from_secs(1);
/// How long the server may take to send bytes before it is sent any: Redis does so when it refuses a client, and
/// servers of other protocols greet their clients.
const GREETING: Duration = Duration::from_millis(100);
/// Redis reads it as `PING` and an empty command, an HTTP server as a bad request.
const QUESTION: &[u8] = b"PING\r\n\r\n";
/// The most bytes of an answer that are read.
const MAX_BYTES: usize = 256;
/// The most characters of an answer that are shown.
const MAX_SHOWN: usize = 40;

/// Why the server cannot be used.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(crate) enum Mismatch {
    /// Redis accepts no more clients. Holds the text of its error.
    #[error("{0}")]
    Full(String),
    #[error(
        "the server is in protected mode: without a password it accepts only clients of its own machine; set a password, \
         or set protected-mode no"
    )]
    Protected,
    #[error("the server speaks TLS: begin the URL with rediss://")]
    Tls,
    #[error("the server does not speak TLS: begin the URL with redis://")]
    Plain,
    #[error("this is an HTTP server and not a Redis server")]
    Http,
    #[error("this is not a Redis server: it answered {0:?}")]
    Other(String),
}

impl Mismatch {
    /// Whether it lasts until the configuration of this program or of the server is changed.
    pub(crate) fn is_mistake(&self) -> bool {
        !matches!(self, Self::Full(_))
    }
}

/// What is wrong with the server at the address of `client`. `None` if it is a Redis server without a fault, or sends
/// nothing.
pub(crate) async fn of(client: &Client, timeout: Duration) -> Option<Mismatch> {
    let (host, port, tls) = match client.get_connection_info().addr() {
        ConnectionAddr::Tcp(host, port) => (host, *port, false),
        ConnectionAddr::TcpTls { host, port, .. } => (host, *port, true),
        _ => return None,
    };
    let diagnosing = async {
        match first_bytes(host, port, QUESTION).await {
            Ok(answer) if !answer.is_empty() => judge(&answer, tls),
            _ if tls => None,
            // A TLS server closes a connection on which the client does not speak TLS.
            _ => judge(&first_bytes(host, port, &hello(host)?).await.ok()?, tls),
        }
    };
    tokio::time::timeout(timeout.min(LONGEST), diagnosing).await.unwrap_or_default()
}

/// The first bytes that the server sends, by itself or else in answer to `question`.
async fn first_bytes(host: &str, port: u16, question: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect((host, port)).await?;
    let mut answer = [0; MAX_BYTES];
    let length = match tokio::time::timeout(GREETING, stream.read(&mut answer)).await {
        Ok(length) => length?,
        Err(_) => {
            stream.write_all(question).await?;
            stream.read(&mut answer).await?
        }
    };
    Ok(answer[..length].to_vec())
}

/// What is wrong with a server that sent `answer`. `tls` says whether it should speak TLS.
fn judge(answer: &[u8], tls: bool) -> Option<Mismatch> {
    let text = String::from_utf8_lossy(answer);
    let line = text.lines().next().unwrap_or_default();
    match answer {
        // A TLS record: a handshake or an alert.
        [0x15 | 0x16, 3, ..] => (!tls).then_some(Mismatch::Tls),
        _ if line.starts_with("-ERR max number of clients") => Some(Mismatch::Full(line[1..].to_owned())),
        _ if line.starts_with("-DENIED") => Some(Mismatch::Protected),
        [b'-' | b'+' | b'$' | b':' | b'*', ..] => tls.then_some(Mismatch::Plain),
        [] => None,
        _ if line.starts_with("HTTP/") => Some(Mismatch::Http),
        _ => Some(Mismatch::Other(line.chars().take(MAX_SHOWN).collect())),
    }
}

/// The first bytes of a TLS client.
fn hello(host: &str) -> Option<Vec<u8>> {
    crate::redis::node::endpoint::install_crypto_provider();
    let config = ClientConfig::builder().with_root_certificates(RootCertStore::empty()).with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).ok()?;
    let mut connection = ClientConnection::new(Arc::new(config), name).ok()?;
    let mut bytes = Vec::new();
    connection.write_tls(&mut bytes).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_show_what_a_server_is() {
        let full = || Some(Mismatch::Full("ERR max number of clients reached".into()));
        for (answer, plain, tls) in [
            (&b"+PONG\r\n"[..], None, Some(Mismatch::Plain)),
            (b"-NOAUTH Authentication required.\r\n", None, Some(Mismatch::Plain)),
            (b"-LOADING Redis is loading the dataset in memory\r\n", None, Some(Mismatch::Plain)),
            (b"-ERR max number of clients reached\r\n", full(), full()),
            (
                b"-DENIED Redis is running in protected mode because\r\n",
                Some(Mismatch::Protected),
                Some(Mismatch::Protected),
            ),
            (b"\x15\x03\x03\x00\x02\x02\x46", Some(Mismatch::Tls), None),
            (b"\x16\x03\x03\x00\x7a\x02", Some(Mismatch::Tls), None),
            (b"HTTP/1.1 400 Bad Request\r\n", Some(Mismatch::Http), Some(Mismatch::Http)),
            (b"", None, None),
        ] {
            assert_eq!((judge(answer, false), judge(answer, true)), (plain, tls), "{answer:?}");
        }
        let banner = b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3 and so on and so on\r\n";
        let other = Mismatch::Other("SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3 a".into());
        assert_eq!(judge(banner, false), Some(other));
    }

    #[test]
    fn a_tls_client_begins_with_a_handshake() {
        for host in ["localhost", "127.0.0.1", "::1"] {
            assert_eq!(hello(host).expect("it is a name")[..2], [0x16, 3], "{host}");
        }
    }
}
