//! A process of the program under test.

use std::process::{ExitStatus, Stdio};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::support::{DEADLINE, within};

/// A running `channel-layer demo`, killed when it is dropped.
pub struct Instance {
    process: Child,
    /// Host and port.
    pub address: String,
}

impl Instance {
    pub async fn start(options: &[&str]) -> Self {
        Self::run(&[&["demo", "--port", "0"], options].concat(), &[]).await
    }

    /// Starts the program with these arguments and only these environment variables.
    pub async fn run(arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut command = program();
        command.args(arguments).envs(variables.iter().copied()).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let line = within(DEADLINE, "the address of the chat", lines.next_line()).await.unwrap();
        let line = line.expect("the program prints the address of the chat");
        let address = line.split_once("http://").expect("the line has a URL").1.to_owned();
        Self { process, address }
    }

    pub async fn kill(&mut self) {
        self.process.kill().await.unwrap();
    }

    /// Terminates the process as a service manager does.
    pub async fn terminate(&mut self) -> ExitStatus {
        let id = self.process.id().expect("the process has not been awaited").to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().await.unwrap().success());
        within(DEADLINE, "the end of the program", self.process.wait()).await.unwrap()
    }

    /// Returns the whole response to a request for `path`.
    pub async fn get(&self, path: &str) -> String {
        get(&self.address, path).await
    }
}

/// Returns the whole response of the server at `address` to a request for `path`.
pub async fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    within(DEADLINE, "the page", stream.read_to_string(&mut answer)).await.unwrap();
    answer
}

/// Runs the program until it fails with status 1. Returns its standard error.
pub async fn fails(options: &[&str]) -> String {
    let output =
        program().arg("demo").args(options).stdout(Stdio::piped()).stderr(Stdio::piped()).output().await.unwrap();
    assert_eq!(output.status.code(), Some(1), "{options:?}");
    assert!(output.stdout.is_empty(), "{options:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// A command without the environment of the tests.
fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_channel-layer"));
    command.env_clear().stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    command
}
