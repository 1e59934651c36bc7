//! Interface servers in Python, and their clients.

use std::process::Stdio;

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStderr, Command};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::{Error, Message as Frame};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use super::peer::{python, root};
use crate::support::{DEADLINE, within};

/// The line that daphne logs when it is ready. The address follows.
const LISTENING: &str = "Listening on TCP address ";

/// A server in Python. It exits when this is dropped, or when the process of the tests ends for any reason.
pub struct PythonServer {
    /// Host and port.
    pub address: String,
    _process: Child,
}

impl PythonServer {
    /// Runs a Python module with arguments in `folder` of the project, with the Python environment named `environment`.
    pub async fn start(environment: &str, folder: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut process = Command::new(python(environment))
            .arg("-B")
            .arg(root().join("tests/django/peer/until_orphaned.py"))
            .args(arguments)
            .envs(variables.iter().copied())
            .current_dir(root().join(folder))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let address = within(DEADLINE, "the server to listen", address(lines)).await;
        Self { address, _process: process }
    }
}

/// Reads the log of a server up to its address. The rest is discarded, so that the pipe never fills.
async fn address(mut lines: Lines<BufReader<ChildStderr>>) -> String {
    let mut log = String::new();
    while let Some(line) = lines.next_line().await.unwrap() {
        if let Some((_, address)) = line.split_once(LISTENING) {
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
            return address.to_owned();
        }
        log = format!("{log}{line}\n");
    }
    panic!("the server ended; its log: {log}");
}

/// Returns the whole response to a request for a page.
pub async fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    within(DEADLINE, "the page", stream.read_to_string(&mut answer)).await.unwrap();
    answer
}

/// A client of a WebSocket.
#[derive(Debug)]
pub struct Client(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Client {
    pub async fn connect(address: &str, path: &str) -> Self {
        Self::try_connect(address, path).await.unwrap()
    }

    /// Connects as a page of the same site does.
    pub async fn try_connect(address: &str, path: &str) -> Result<Self, Error> {
        let mut request = format!("ws://{address}{path}").into_client_request()?;
        request.headers_mut().insert("Origin", HeaderValue::try_from(format!("http://{address}")).unwrap());
        let (socket, _) = within(DEADLINE, "the handshake", connect_async(request)).await?;
        Ok(Self(socket))
    }

    pub async fn send(&mut self, frame: Frame) {
        self.0.send(frame).await.unwrap();
    }

    /// Receives the next message from the server.
    pub async fn receive(&mut self) -> Frame {
        loop {
            let frame = within(DEADLINE, "a frame", self.0.next()).await.expect("the socket is open").unwrap();
            if !matches!(frame, Frame::Ping(_) | Frame::Pong(_)) {
                return frame;
            }
        }
    }

    /// Closes the socket and waits for the server to confirm.
    pub async fn close(mut self) {
        self.0.close(None).await.unwrap();
        while within(DEADLINE, "the end of the socket", self.0.next()).await.is_some_and(|frame| frame.is_ok()) {}
    }
}
