//! Interface servers and workers as separate processes, by their compose file and their units.

use std::process::Stdio;

use tokio::process::Command;

use super::documents::{compose, texts};
use super::nginx::Nginx;
use super::read;
use crate::chat::{Guest, get};
use crate::server::Program;
use crate::support::{RedisServer, ReservedPort, eventually};

#[tokio::test]
async fn the_servers_and_workers_of_compose_serve_one_chat_behind_nginx() {
    let redis = RedisServer::start();
    let url = redis.url();
    let variables = [("CHANNEL_LAYER_HOSTS", &*url)];
    let services = compose("deploy/compose.workers.yaml")["services"].take();
    let start = async |name: &str| {
        let arguments = texts(&services[name]["command"]).join(" ").replace("0.0.0.0:8000", "127.0.0.1:0");
        Program::start(&arguments.split(' ').collect::<Vec<_>>(), &variables).await
    };
    let (first, second, _worker) = (start("demo-1").await, start("demo-2").await, start("worker").await);
    let nginx = Nginx::before([first.address(), second.address()]).await;
    let ada = Guest::enter_at(&nginx.address(), "lobby", "Ada").await.unwrap();
    for (server, name) in [(&first, "Bob"), (&second, "Eve")] {
        let other = Guest::enter_at(server.address(), "lobby", name).await.unwrap();
        ada.says(&format!("hello {name}"));
        other.sees_line(&format!("Ada: hello {name}")).await;
        assert!(get(server.address(), "/ready").await.starts_with("HTTP/1.1 200 "));
    }
}

/// Returns the command of a unit.
fn command(unit: &str) -> Vec<String> {
    let unit = read(&format!("deploy/systemd/{unit}"));
    let command = unit.lines().find_map(|line| line.strip_prefix("ExecStart=/usr/local/bin/channel-layer ")).unwrap();
    command.split(' ').map(str::to_owned).collect()
}

#[tokio::test]
async fn the_units_start_a_worker_and_a_server_on_a_socket_of_systemd() {
    let redis = RedisServer::start();
    let url = redis.url();
    let variables = [("CHANNEL_LAYER_HOSTS", &*url)];
    let worker = command("channel-layer-worker@.service");
    let _worker = Program::start(&worker.iter().map(String::as_str).collect::<Vec<_>>(), &variables).await;
    let port = ReservedPort::new();
    let address = format!("127.0.0.1:{}", port.number());
    // This passes the socket to the server with the first connection, as systemd does.
    let mut server = Command::new("systemd-socket-activate");
    server.args(["--listen", &address, "--setenv", &format!("CHANNEL_LAYER_HOSTS={url}")]);
    server.arg(env!("CARGO_BIN_EXE_channel-layer")).args(command("channel-layer-server.service"));
    server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let _server = server.spawn().expect("systemd-socket-activate is missing: scripts/test installs it");
    eventually("the socket", async || tokio::net::TcpStream::connect(&address).await.ok()).await;
    let answer = get(&address, "/hello").await;
    assert!(answer.ends_with("GET /hello over HTTP/1.1\n"), "{answer}");
}
