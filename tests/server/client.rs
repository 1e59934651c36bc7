//! A client that writes any bytes to its connection, and reads the response.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{DEADLINE, within};

pub struct Client<S = TcpStream> {
    stream: S,
    read: Vec<u8>,
}

impl Client {
    pub async fn connect(address: &str) -> Self {
        Self::over(TcpStream::connect(address).await.unwrap())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    pub fn over(stream: S) -> Self {
        Self { stream, read: Vec::new() }
    }

    pub async fn send(&mut self, text: impl AsRef<[u8]>) {
        self.stream.write_all(text.as_ref()).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    /// Reads up to and including `end`.
    pub async fn until(&mut self, end: &str) -> String {
        let read = async {
            loop {
                if let Some(at) = find(&self.read, end.as_bytes()) {
                    let rest = self.read.split_off(at + end.len());
                    return std::mem::replace(&mut self.read, rest);
                }
                let read = self.stream.read_buf(&mut self.read).await.unwrap();
                assert!(read > 0, "the connection ended: {}", String::from_utf8_lossy(&self.read));
            }
        };
        String::from_utf8_lossy(&within(DEADLINE, end, read).await).into_owned()
    }

    /// Reads the first line and the headers of a response.
    pub async fn head(&mut self) -> String {
        self.until("\r\n\r\n").await
    }

    /// Reads and discards up to the end of the connection.
    pub async fn closes(&mut self) {
        let read = async { while let Ok(1..) = self.stream.read(&mut [0; 4096]).await {} };
        within(DEADLINE, "the end of the connection", read).await;
    }

    /// Reads up to the end of the connection, whether it is orderly or not.
    pub async fn rest(&mut self) -> String {
        let read = async { while let Ok(1..) = self.stream.read_buf(&mut self.read).await {} };
        within(DEADLINE, "the end of the connection", read).await;
        String::from_utf8(std::mem::take(&mut self.read)).unwrap()
    }
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}
