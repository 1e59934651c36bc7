//! The page for operators: its commands, as they stand there.

use std::path::Path;
use std::process::{Command, Stdio};

use super::read;
use crate::support::RedisServer;

/// The lines of its blocks of commands.
fn commands() -> Vec<String> {
    let page = read("docs/troubleshooting.md");
    let blocks = page.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    blocks.flat_map(str::lines).filter(|line| !line.starts_with("export ")).map(str::to_owned).collect()
}

#[test]
fn the_commands_of_the_page_work() {
    let redis = RedisServer::start();
    let program = Path::new(env!("CARGO_BIN_EXE_channel-layer")).parent().unwrap().display().to_string();
    let path = format!("{program}:{}", std::env::var("PATH").unwrap());
    let dir = tempfile::tempdir().unwrap();
    let commands = commands();
    assert!(commands.len() > 20, "{commands:?}");
    for command in commands {
        let command = command.replace("<group>", "room");
        let output = Command::new("sh")
            .args(["-c", &command])
            .current_dir(dir.path())
            .env("PATH", &path)
            .envs([("REDIS", redis.url()), ("CHANNEL_LAYER_HOSTS", redis.url())])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let complained = String::from_utf8_lossy(&output.stderr);
        // redis-cli succeeds whatever the server answers.
        assert!(output.status.success() && !said.starts_with("ERR"), "{command}: {said}{complained}");
    }
}
