//! The commands of docs/troubleshooting.md work as they are written.

use std::path::Path;
use std::process::{Command, Stdio};

use super::read;
use crate::support::RedisServer;

/// Returns the commands of the page.
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
        assert!(output.status.success() && !is_redis_error(&said), "{command}: {said}{complained}");
    }
}

/// Whether the output of redis-cli is an error: a code in capital letters, and a text.
fn is_redis_error(output: &str) -> bool {
    let code = output.lines().next().and_then(|line| line.split_once(' ')).map_or("", |(code, _)| code);
    code.len() > 2 && code.bytes().all(|byte| byte.is_ascii_uppercase())
}
