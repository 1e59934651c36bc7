//! The units of systemd, as systemd reads them.

use std::process::Command;

use super::{read, replace_once};

#[test]
fn systemd_takes_the_unit() {
    let dir = tempfile::tempdir().unwrap();
    let unit = read("deploy/systemd/channel-layer@.service");
    let unit = replace_once(
        &unit,
        "ExecStart=/usr/local/bin/channel-layer",
        concat!("ExecStart=", env!("CARGO_BIN_EXE_channel-layer")),
    );
    std::fs::write(dir.path().join("channel-layer@.service"), unit).unwrap();
    let checked =
        Command::new("systemd-analyze").arg("verify").arg(dir.path().join("channel-layer@8001.service")).output();
    let checked = checked.expect("systemd-analyze is installed: scripts/test does it");
    // Of what it does not know it only warns.
    assert!(checked.status.success() && checked.stderr.is_empty(), "{}", String::from_utf8_lossy(&checked.stderr));
}
