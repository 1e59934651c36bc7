//! A program that a test has started, which ends with the test process at the latest.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The shell that supervises the program: it knows its process id, so that no other process is ever signalled, and when
/// the pipe to its parent closes, however the parent ended, it has the program end: by force where it does not, as a
/// Redis that is asked while it writes its first append-only file never does.
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
    /// Starts it in `dir`, where its output goes to the file `log`.
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

    /// Sends it a signal, such as `HUP`.
    pub fn signal(&mut self, signal: &str) {
        writeln!(self.supervisor.stdin.as_mut().expect("the pipe is open until drop"), "{signal}").unwrap();
    }

    /// What it has written, since the first start in its directory.
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
