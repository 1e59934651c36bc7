//! The files of `deploy/`, tested with the programs that read them.

mod cluster;
mod containers;
mod documents;
mod kubernetes;
mod nginx;
mod proxied;
mod redis;
mod sentinel;
mod servers;
mod supervised;
mod systemd;
mod troubleshooting;
mod workers;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use channel_layer::{Config, InterfaceServer, MemoryLayer};
use regex::Regex;

/// The path of the files of Redis in containers.
const MOUNTED: &str = "/usr/local/etc/redis";

/// Returns the text of a file of the project.
fn read(path: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&file).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Replaces `from`, which must occur exactly once in `text`.
fn replace_once(text: &str, from: &str, to: &str) -> String {
    assert_eq!(text.matches(from).count(), 1, "{from}");
    text.replace(from, to)
}

/// Returns the default of an option of the interface server, in seconds.
fn server_default(option: &str) -> u64 {
    seconds_in(&format!("{:?}", InterfaceServer::new(Arc::new(MemoryLayer::new()))), option)
}

/// Returns the default of an option of a layer, in seconds.
fn layer_default(option: &str) -> u64 {
    seconds_in(&format!("{:?}", Config::new()), option)
}

fn seconds_in(shown: &str, option: &str) -> u64 {
    let found = Regex::new(&format!(r"\b{option}: (\d+) ?s\b")).unwrap().captures(shown);
    found.unwrap_or_else(|| panic!("{option} is not in {shown}"))[1].parse().unwrap()
}
