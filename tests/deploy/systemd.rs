//! The units of systemd, checked by systemd.

use std::process::Command;

use super::read;

#[test]
fn systemd_accepts_the_units() {
    let dir = tempfile::tempdir().unwrap();
    let names = [
        "channel-layer@.service",
        "channel-layer-server.service",
        "channel-layer-server.socket",
        "channel-layer-worker@.service",
    ];
    for name in names {
        let unit = read(&format!("deploy/systemd/{name}"));
        let ours = concat!("ExecStart=", env!("CARGO_BIN_EXE_channel-layer"));
        std::fs::write(dir.path().join(name), unit.replace("ExecStart=/usr/local/bin/channel-layer", ours)).unwrap();
    }
    let units = names.map(|name| dir.path().join(name.replace('@', "@8001")));
    let checked = Command::new("systemd-analyze").arg("verify").args(&units).output();
    let checked = checked.expect("systemd-analyze is missing: scripts/test installs it");
    // Unknown settings are only warnings.
    assert!(checked.status.success() && checked.stderr.is_empty(), "{}", String::from_utf8_lossy(&checked.stderr));
}
