//! `FakeServer`: a server that is no Redis, or not the expected one.

use std::net::Ipv4Addr;
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Listens on a free port of the loopback address. Dropping it ends it and its connections.
pub struct FakeServer {
    port: u16,
    accepting: JoinHandle<()>,
}

impl FakeServer {
    /// Starts a server that reports this version in the Redis protocol, and answers `OK` to all other commands.
    pub async fn of_version(version: &str) -> Self {
        Self::of_version_and_clock(version, Duration::ZERO).await
    }

    /// Starts a server whose clock is `ahead`.
    pub async fn of_version_and_clock(version: &str, ahead: Duration) -> Self {
        let info = format!("# Server\r\nredis_version:{version}\r\nredis_mode:standalone\r\n");
        let info = format!("${}\r\n{info}\r\n", info.len());
        Self::start(move |stream| say_version(stream, info.clone(), ahead)).await
    }

    /// Starts a server that answers every command with `answer`.
    pub async fn saying(answer: &'static str) -> Self {
        Self::start(move |mut stream: TcpStream| async move {
            let mut buffer = [0; 4096];
            while let Ok(1..) = stream.read(&mut buffer).await {
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        })
        .await
    }

    /// Starts a server that sends `greeting` to each client and closes the connection.
    pub async fn greeting(greeting: &'static str) -> Self {
        Self::start(move |mut stream: TcpStream| async move {
            // The client may have disconnected.
            let _ = stream.write_all(greeting.as_bytes()).await;
        })
        .await
    }

    /// Starts a server that accepts connections and sends nothing.
    pub async fn silent() -> Self {
        Self::start(|mut stream: TcpStream| async move { while let Ok(1..) = stream.read(&mut [0; 4096]).await {} })
            .await
    }

    async fn start<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let accepting = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream));
            }
        });
        Self { port, accepting }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }
}

impl Drop for FakeServer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn say_version(stream: TcpStream, info: String, ahead: Duration) {
    let mut stream = BufReader::new(stream);
    while let Some(command) = read_command(&mut stream).await {
        let answer = match &*command {
            "INFO" => info.clone(),
            "TIME" => {
                let seconds = (SystemTime::now() + ahead).duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
                format!("*2\r\n${}\r\n{seconds}\r\n$1\r\n0\r\n", seconds.to_string().len())
            }
            _ => "+OK\r\n".to_owned(),
        };
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// Reads one command, an array of bulk strings, and returns its first word.
async fn read_command(stream: &mut BufReader<TcpStream>) -> Option<String> {
    let count = read_number(stream, '*').await?;
    let mut words = Vec::new();
    for _ in 0..count {
        let length = read_number(stream, '$').await?;
        let mut word = vec![0; length + 2];
        stream.read_exact(&mut word).await.ok()?;
        words.push(String::from_utf8_lossy(&word[..length]).to_uppercase());
    }
    words.into_iter().next()
}

async fn read_number(stream: &mut BufReader<TcpStream>, mark: char) -> Option<usize> {
    let mut line = String::new();
    stream.read_line(&mut line).await.ok()?;
    line.trim_end().strip_prefix(mark)?.parse().ok()
}
