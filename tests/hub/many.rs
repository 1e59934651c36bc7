//! Thousands of open sockets: ten thousand if the heavy tests are enabled.
//!
//! One process may not have as many files open as both sides need, so the clients run in a separate process. It is a
//! Python program: the tests need Python anyway, it needs no build, it speaks RFC 6455 without code of this project,
//! and it costs less than as many sockets of a client in a debug build.

use std::path::Path;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use super::App;
use crate::support::{DEADLINE, needs_files, scaled, within};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broadcast_reaches_thousands_of_open_sockets() {
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
    // A deadline for each step, not for all of them, because the total time depends on the machine.
    let mut prints = async |line: String| {
        let printed = within(DEADLINE, &line, lines.next_line()).await.unwrap();
        assert_eq!(printed.as_ref(), Some(&line));
    };
    for count in 1..=sockets {
        prints(format!("open {count}")).await;
    }
    // A client gets its response before the handler of the server runs.
    while app.hub.count("lobby") < sockets {
        app.enters().await;
    }
    assert_eq!(app.hub.status().connections, sockets);
    assert_eq!(app.hub.broadcast("lobby", "hello").await.unwrap(), sockets);
    for _ in 0..sockets {
        prints("received hello".to_owned()).await;
    }
    let ended = within(DEADLINE, "the end of the clients", clients.wait()).await.unwrap();
    assert!(ended.success(), "{ended}");
    app.is_empty().await;
}
