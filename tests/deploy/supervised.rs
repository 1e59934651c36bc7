//! A program that a test has started. It ends with the test process at the latest.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A shell that starts the program and sends it the signals that the test writes to a pipe. Only the shell knows the
/// process id, so that no other process is ever signalled. When the pipe closes, however the test ended, the shell
/// terminates the program, and kills it after 5 s: a Redis that is terminated while it writes its first append-only
/// file never ends.
const SUPERVISOR: &str = r#"
    trap '' INT TERM HUP
    "$@" >>log 2>&1 & pid=$!
    while read -r signal; do kill "-$signal" "$pid"; done
    kill -TERM "$pid"
    { sleep 5; kill -KILL "$pid"; } & force=$!
    wait "$pid"; kill -KILL "$force"
"#;

/// A running program.
pub struct Supervised {
    supervisor: Child,
    dir: PathBuf,
}

impl Supervised {
    /// Starts the program in `dir`. Its output goes to the file `log` there.
    pub fn start(dir: &Path, command: &[&str]) -> Self {
        let supervisor = Command::new("sh")
            .args(["-c", SUPERVISOR, "supervisor"])
            .args(command)
            .current_dir(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { supervisor, dir: dir.to_owned() }
    }

    /// Sends a signal, such as `HUP`, to the program.
    pub fn signal(&mut self, signal: &str) {
        writeln!(self.supervisor.stdin.as_mut().expect("the pipe is open until drop"), "{signal}").unwrap();
    }

    /// Returns all output since the first start in this directory.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        drop(self.supervisor.stdin.take());
        self.supervisor.wait().ok();
    }
}
