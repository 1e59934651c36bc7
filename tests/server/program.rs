//! A command of the program that runs until a signal ends it.

use std::process::{ExitStatus, Stdio};

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::support::{DEADLINE, within};

/// A running command; killed on drop.
pub struct Program {
    process: Child,
    /// The first line of its output.
    pub line: String,
}

impl Program {
    pub async fn start(arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_channel-layer"));
        command.args(arguments).env_clear().envs(variables.iter().copied()).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = command.spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let line = within(DEADLINE, "the first line of the program", lines.next_line()).await.unwrap();
        Self { process, line: line.expect("the program prints a line when it has started") }
    }

    /// Returns the first address in that line.
    pub fn address(&self) -> &str {
        let (_, addresses) = self.line.split_once(" at ").unwrap();
        addresses.split(", ").next().unwrap()
    }

    pub async fn kill(&mut self) {
        self.process.kill().await.unwrap();
    }

    /// Sends a signal by its name.
    pub async fn signal(&self, name: &str) {
        let id = self.process.id().expect("the process has not been awaited").to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &id]).status().await.unwrap().success());
    }

    pub async fn ends(&mut self) -> ExitStatus {
        within(DEADLINE, "the end of the program", self.process.wait()).await.unwrap()
    }
}
