//! Forged entries that claim a million recipients. Readers allocate no memory for these recipients.

use std::process::Stdio;

use channel_layer::{ChannelLayer, Config};
use redis::AsyncCommands;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use super::tools::{Site, connect, now_ms, numbered};
use crate::support::{DEADLINE, RedisServer, within};

/// How many local parts fit into an entry of 2 MiB.
const LOCALS: u32 = 1 << 20;
const KEY: &str = "a key of this deployment";

/// A forged group message for the local parts of a million members.
async fn forged(server: &RedisServer, sealed: bool) -> Vec<u8> {
    let lifetime = 600_000_u64;
    let expires = now_ms(&mut server.connection().await).await + lifetime;
    let head = if sealed { 0x1b } else { 0x13 };
    let mut entry = [&expires.to_be_bytes(), &[head][..], &lifetime.to_be_bytes(), b"\x01g", &[0; 8]].concat();
    entry.extend(LOCALS.to_be_bytes());
    entry.extend(b"\x01a".repeat(LOCALS as usize));
    // The body: a byte that MessagePack does not use, or bytes in place of a sealed message.
    entry.extend(if sealed { vec![7; 100] } else { b"\xc1".to_vec() });
    entry
}

#[tokio::test]
async fn forged_entries_take_no_memory_for_claimed_recipients() {
    for sealed in [true, false] {
        let server = RedisServer::start();
        let site = Site::on(std::slice::from_ref(&server));
        let keyed = |config: Config| if sealed { config.symmetric_encryption_keys([KEY]) } else { config };
        let layer = connect(keyed(site.config())).await;
        let entry = forged(&server, sealed).await;
        for _ in 0..4 {
            let () = server.connection().await.rpush(site.list("l!"), &entry).await.unwrap();
        }
        layer.send("l!a", numbered(1)).await.unwrap();

        let mut reader = Command::new(env!("CARGO_BIN_EXE_channel-layer"));
        reader.args(["receive", "l!", "--redis", &server.url()]).env_clear();
        reader.env("CHANNEL_LAYER_PREFIX", &site.prefix);
        if sealed {
            reader.args(["--encryption-key", KEY]);
        }
        let mut reader = reader.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
        let mut lines = BufReader::new(reader.stdout.take().unwrap()).lines();
        let line = within(DEADLINE, "the message behind them", lines.next_line()).await.unwrap().unwrap();
        assert!(line.contains(r#""number":1"#), "{line}");
        let most = most_memory(reader.id().unwrap());
        assert!(most < 150 << 20, "the reader took {} MiB", most >> 20);
    }
}

/// The peak memory of a process, in bytes.
fn most_memory(process: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let most = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    most.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
}
