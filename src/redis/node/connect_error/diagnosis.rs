//! What answers at the address of a server when no connection comes about: the usual mix-ups, by the first bytes that it says.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use redis::{Client, ConnectionAddr};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The longest that a diagnosis takes.
const LONGEST: Duration = Duration::from_secs(1);
/// How long a server may take that speaks first: to send away a client, or because it is none that waits for commands.
const GREETING: Duration = Duration::from_millis(100);
/// Redis takes it for `PING` and an empty command, an HTTP server for a bad request.
const QUESTION: &[u8] = b"PING\r\n\r\n";
/// Bytes of an answer that are looked at, and characters of it that are shown.
const LOOKED_AT: usize = 256;
const SHOWN: usize = 40;

/// Why what answers is not the server that is wanted.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(crate) enum Mismatch {
    /// Redis takes no more clients. Its words.
    #[error("{0}")]
    Full(String),
    #[error(
        "the server is in protected mode: while it has no password it takes only clients of its own machine; give it a \
         password, or set protected-mode no"
    )]
    Protected,
    #[error("the server speaks TLS: begin the URL with rediss://")]
    Tls,
    #[error("the server does not speak TLS: begin the URL with redis://")]
    Plain,
    #[error("an HTTP server answers there, and no Redis server")]
    Http,
    #[error("no Redis server answers there, but one that says {0:?}")]
    Other(String),
}

impl Mismatch {
    /// Whether it stays so until somebody changes the configuration here or there.
    pub(crate) fn is_mistake(&self) -> bool {
        !matches!(self, Self::Full(_))
    }
}

/// What answers at the address of `client`; `None` if it is a Redis server with which nothing is wrong, or says nothing.
pub(crate) async fn of(client: &Client, patience: Duration) -> Option<Mismatch> {
    let (host, port, tls) = match client.get_connection_info().addr() {
        ConnectionAddr::Tcp(host, port) => (host, *port, false),
        ConnectionAddr::TcpTls { host, port, .. } => (host, *port, true),
        _ => return None,
    };
    let asking = async {
        let said = ask(host, port, QUESTION).await;
        match said {
            Ok(said) if !said.is_empty() => judge(&said, tls),
            _ if tls => None,
            // A server that speaks TLS ends a connection on which a client does not.
            _ => judge(&ask(host, port, &hello(host)?).await.ok()?, tls),
        }
    };
    tokio::time::timeout(patience.min(LONGEST), asking).await.unwrap_or_default()
}

/// What the server says by itself, or else to `question`.
async fn ask(host: &str, port: u16, question: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect((host, port)).await?;
    let mut said = [0; LOOKED_AT];
    let length = match tokio::time::timeout(GREETING, stream.read(&mut said)).await {
        Ok(length) => length?,
        Err(_) => {
            stream.write_all(question).await?;
            stream.read(&mut said).await?
        }
    };
    Ok(said[..length].to_vec())
}

/// What a server is that said these bytes, `tls` being expected of it or not.
fn judge(said: &[u8], tls: bool) -> Option<Mismatch> {
    let text = String::from_utf8_lossy(said);
    let line = text.lines().next().unwrap_or_default();
    match said {
        // A record of TLS: a handshake or an alert.
        [0x15 | 0x16, 3, ..] => (!tls).then_some(Mismatch::Tls),
        _ if line.starts_with("-ERR max number of clients") => Some(Mismatch::Full(line[1..].to_owned())),
        _ if line.starts_with("-DENIED") => Some(Mismatch::Protected),
        [b'-' | b'+' | b'$' | b':' | b'*', ..] => tls.then_some(Mismatch::Plain),
        [] => None,
        _ if line.starts_with("HTTP/") => Some(Mismatch::Http),
        _ => Some(Mismatch::Other(line.chars().take(SHOWN).collect())),
    }
}

/// The first bytes of a client that speaks TLS.
fn hello(host: &str) -> Option<Vec<u8>> {
    crate::redis::node::endpoint::choose_cryptography();
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
    fn the_first_bytes_tell_what_a_server_is() {
        let full = || Some(Mismatch::Full("ERR max number of clients reached".into()));
        for (said, plain, tls) in [
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
            assert_eq!((judge(said, false), judge(said, true)), (plain, tls), "{said:?}");
        }
        let banner = b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3 and so on and so on\r\n";
        let other = Mismatch::Other("SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3 a".into());
        assert_eq!(judge(banner, false), Some(other));
    }

    #[test]
    fn a_client_of_tls_says_hello() {
        for host in ["localhost", "127.0.0.1", "::1"] {
            assert_eq!(hello(host).expect("it is a name")[..2], [0x16, 3], "{host}");
        }
    }
}
