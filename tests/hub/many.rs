//! Ten thousand sockets at once.
//!
//! One process may not have as many files open as both sides need, so that the clients are in one of their own. That is a
//! program in Python, which the tests need in any case: it needs no build, speaks what RFC 6455 says and nothing of this
//! project's, and costs less than as many sockets of a client that was built for debugging.

use std::path::Path;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use super::App;
use crate::support::{DEADLINE, needs_files, scaled, within};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_sockets_are_there_at_once_and_all_are_reached() {
    let sockets = scaled(10_000);
    needs_files(sockets);
    let app = App::start().await;
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hub/clients.py");
    let mut clients = Command::new("python3")
        .arg(program)
        .args([app.address.port().to_string(), "lobby".to_owned(), sockets.to_string()])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(clients.stdout.take().unwrap()).lines();
    // A deadline for each step and not for all: the time that all take is that of the machine.
    let mut says = async |line: String| {
        let said = within(DEADLINE, &line, lines.next_line()).await.unwrap();
        assert_eq!(said.as_ref(), Some(&line));
    };
    for count in 1..=sockets {
        says(format!("open {count}")).await;
    }
    // The client has its answer before the server has its socket.
    while app.hub.count("lobby") < sockets {
        app.enters().await;
    }
    assert_eq!(app.hub.status().connections, sockets);
    assert_eq!(app.hub.broadcast("lobby", "hello").await.unwrap(), sockets);
    for _ in 0..sockets {
        says("heard hello".to_owned()).await;
    }
    let ended = within(DEADLINE, "the end of the clients", clients.wait()).await.unwrap();
    assert!(ended.success(), "{ended}");
    app.is_empty().await;
}
