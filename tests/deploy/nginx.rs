//! A real nginx with the configuration of `deploy/`, on a free port and in front of instances that a test has started.

use std::fs;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use super::supervised::Supervised;
use super::{read, replace_once};
use crate::support::{ReservedPort, eventually};

/// A running nginx.
pub struct Nginx {
    process: Supervised,
    port: ReservedPort,
    _dir: TempDir,
}

impl Nginx {
    /// Starts nginx in front of the instances at two addresses.
    pub async fn before(instances: [&str; 2]) -> Self {
        let (dir, port) = (tempfile::tempdir().unwrap(), ReservedPort::new());
        write_configuration(dir.path(), port.number(), instances);
        let arguments = arguments(dir.path());
        let command: Vec<_> = ["nginx"].into_iter().chain(arguments.iter().map(String::as_str)).collect();
        let nginx = Self { process: Supervised::start(dir.path(), &command), port, _dir: dir };
        eventually("nginx to start", async || (nginx.starts() > 0).then_some(())).await;
        nginx
    }

    /// Host and port.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port.number())
    }

    /// Makes nginx reload its configuration. New workers accept new connections, and old ones keep the open
    /// connections.
    pub async fn reload(&mut self) {
        let before = self.starts();
        self.process.signal("HUP");
        eventually("nginx to reload", async || (self.starts() > before).then_some(())).await;
    }

    /// Returns how often nginx has started workers, which happens after it listens.
    fn starts(&self) -> usize {
        self.process.log().matches("start worker processes").count()
    }
}

/// Returns whether `nginx -t` accepts the configuration, and its output.
pub fn check() -> (bool, String) {
    let (dir, port) = (tempfile::tempdir().unwrap(), ReservedPort::new());
    write_configuration(dir.path(), port.number(), ["127.0.0.1:1", "127.0.0.1:2"]);
    let output = Command::new("nginx").arg("-t").args(arguments(dir.path())).output();
    let output = output.expect("nginx is missing: scripts/test installs it");
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn arguments(dir: &Path) -> [String; 8] {
    let here = dir.display();
    let global = format!("daemon off; pid {here}/nginx.pid;");
    ["-p", &here.to_string(), "-c", &format!("{here}/nginx.conf"), "-e", "stderr", "-g", &global].map(str::to_owned)
}

/// Writes the configuration with other addresses and paths.
fn write_configuration(dir: &Path, port: u16, instances: [&str; 2]) {
    let here = dir.display();
    let places = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let places = places.map(|place| format!("{place}_temp_path {here}/{place};")).join(" ");
    let mut text = read("deploy/nginx/nginx.conf");
    for (original, here) in [
        ("listen 80;", format!("listen 127.0.0.1:{port};")),
        ("demo-1:8000", instances[0].to_owned()),
        ("demo-2:8000", instances[1].to_owned()),
        ("error_log /dev/stderr warn;", "error_log stderr notice;".to_owned()),
        ("access_log /dev/stdout;", format!("access_log {here}/access; {places}")),
    ] {
        text = replace_once(&text, original, &here);
    }
    fs::write(dir.join("nginx.conf"), text).unwrap();
}
