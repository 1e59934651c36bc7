//! `RedisServer`: a real redis-server for one test, which ends with the test process at the latest.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::ReservedPort;

/// Longer than a server needs to answer, or to start, on a busy machine.
const ANSWER_DEADLINE: Duration = Duration::from_secs(20);

/// The source of a library that gives a server its own clock.
const CLOCK_SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/clock.c");
/// The file in the directory of a server that holds how many seconds its clock is ahead.
const CLOCK_FILE: &str = "clock";

/// The shell that supervises the server. It knows the process id of the server, so no other process is ever signalled.
/// When the pipe to its parent closes, however the parent ended, it kills the server and removes the directory. It
/// survives the interrupt from a terminal, which the whole process group gets.
const SUPERVISOR: &str = r#"
    trap '' INT TERM HUP
    dir=$1; shift
    pid=
    while read -r command argument; do
        case $command in
            start) redis-server "$@" --bind 127.0.0.1 --port "$argument" --dir "$dir" >>"$dir/log" 2>&1 & pid=$! ;;
            kill) kill -KILL "$pid"; wait "$pid"; pid= ;;
            freeze) kill -STOP "$pid"; while kill -0 "$pid" && ! grep -q '^State:.[TZ]' "/proc/$pid/status"; do :; done ;;
            thaw) kill -CONT "$pid" ;;
        esac
        echo done
    done
    if [ -n "$pid" ]; then kill -KILL "$pid"; wait "$pid"; fi
    rm -rf "$dir"
"#;

/// A redis-server with its own directory, on a free port of the loopback address or on a Unix socket.
pub struct RedisServer {
    supervisor: Child,
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    dir: PathBuf,
    address: Address,
}

enum Address {
    /// Keeps the port reserved while the server is stopped.
    Tcp(ReservedPort),
    Unix(PathBuf),
}

impl RedisServer {
    /// Starts a server without persistence.
    pub fn start() -> Self {
        Self::with(&["--appendonly", "no"])
    }

    /// Starts a server that writes every change to disk before it answers, so that even a kill loses nothing.
    pub fn durable() -> Self {
        Self::with(&["--appendonly", "yes", "--appendfsync", "always"])
    }

    /// Starts a server with more arguments.
    pub fn with(arguments: &[&str]) -> Self {
        Self::launched(&new_dir(), &[&["--save", ""], arguments].concat(), Address::Tcp(ReservedPort::new()))
    }

    /// Starts a server with more arguments and a clock that [`set_clock`](Self::set_clock) sets.
    pub fn with_clock(arguments: &[&str]) -> Self {
        let dir = new_dir();
        let (file, library) = (dir.join(CLOCK_FILE), dir.join("clock.so"));
        std::fs::write(&file, 0_i64.to_ne_bytes()).expect("the directory was just made");
        let cc = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
        let compiled = Command::new(cc).args(["-shared", "-fPIC", "-O1", CLOCK_SOURCE, "-o"]).arg(&library).status();
        assert!(
            compiled.is_ok_and(|status| status.success()),
            "the C compiler that Rust links with compiles {CLOCK_SOURCE}"
        );
        let environment = [("LD_PRELOAD", &*library), ("CLOCK_FILE", &file)];
        let arguments = [&["--save", ""], arguments].concat();
        let mut server = Self::supervise(&dir, &arguments, &environment, Address::Tcp(ReservedPort::new()));
        server.start_again();
        server
    }

    /// Sets the clock of a server that was started [with one](Self::with_clock) to this many seconds ahead of, or
    /// behind, the clock of the machine.
    pub fn set_clock(&self, seconds: i64) {
        // Written in place, because the server has mapped the file.
        let file = std::fs::OpenOptions::new().write(true).open(self.dir.join(CLOCK_FILE));
        file.and_then(|file| file.write_all_at(&seconds.to_ne_bytes(), 0)).expect("the server has a clock");
    }

    /// Starts a sentinel with these lines of configuration.
    pub fn sentinel(configuration: &str) -> Self {
        let dir = new_dir();
        let file = dir.join("sentinel.conf");
        std::fs::write(&file, configuration).expect("the directory was just made");
        let arguments = [&*file.display().to_string(), "--sentinel"];
        Self::launched(&dir, &arguments, Address::Tcp(ReservedPort::new()))
    }

    /// Starts a server without persistence that listens on a Unix socket only.
    pub fn unix() -> Self {
        let dir = new_dir();
        let socket = dir.join("redis.sock");
        let path = socket.display().to_string();
        Self::launched(&dir, &["--save", "", "--unixsocket", &path], Address::Unix(socket))
    }

    fn launched(dir: &Path, arguments: &[&str], address: Address) -> Self {
        let mut server = Self::supervise(dir, arguments, &[], address);
        server.start_again();
        server
    }

    fn supervise(dir: &Path, arguments: &[&str], environment: &[(&str, &Path)], address: Address) -> Self {
        let there = Command::new("redis-server").arg("--version").stdout(Stdio::null()).status();
        assert!(there.is_ok(), "redis-server is not installed: run scripts/test, which installs it");
        let mut supervisor = Command::new("sh")
            .args(["-c", SUPERVISOR, "redis-supervisor"])
            .arg(dir)
            .args(arguments)
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh starts");
        let commands = supervisor.stdin.take();
        let answers = BufReader::new(supervisor.stdout.take().expect("stdout is piped"));
        Self { supervisor, commands, answers, dir: dir.to_owned(), address }
    }

    /// Returns the URL of the server.
    pub fn url(&self) -> String {
        match &self.address {
            Address::Tcp(port) => format!("redis://127.0.0.1:{}/0", port.number()),
            Address::Unix(path) => format!("unix://{}", path.display()),
        }
    }

    /// Returns the port of the server, unless it listens on a Unix socket.
    pub fn port(&self) -> u16 {
        match &self.address {
            Address::Tcp(port) => port.number(),
            Address::Unix(_) => panic!("a server on a Unix socket has no port"),
        }
    }

    /// Returns the working directory of the server.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Opens a connection for inspecting keys.
    pub async fn connection(&self) -> redis::aio::MultiplexedConnection {
        Self::connection_to(&self.url()).await.expect("the server answers")
    }

    /// The same for the server at `url`, if it is reachable.
    pub async fn connection_to(url: &str) -> redis::RedisResult<redis::aio::MultiplexedConnection> {
        let client = redis::Client::open(url)?;
        // The default timeout of 500 ms is too short for a busy machine.
        let patient = redis::AsyncConnectionConfig::new();
        let patient = patient.set_connection_timeout(Some(ANSWER_DEADLINE)).set_response_timeout(Some(ANSWER_DEADLINE));
        client.get_multiplexed_async_connection_with_config(&patient).await
    }

    /// Kills the server and waits until it has ended.
    pub fn stop(&mut self) {
        self.command("kill");
    }

    /// Starts the server again at the same address after [`stop`](Self::stop), with its data on disk.
    ///
    /// # Panics
    ///
    /// If it does not answer in time.
    pub fn start_again(&mut self) {
        let port = if let Address::Tcp(port) = &self.address { port.number() } else { 0 };
        self.command(&format!("start {port}"));
        assert!(self.answers_in_time(), "redis-server did not start; its log: {}", self.log());
    }

    /// Stops the server and starts it again at the same address: with its data if it is [`durable`](Self::durable),
    /// empty otherwise.
    pub fn restart(&mut self) {
        self.stop();
        self.start_again();
    }

    /// Freezes the server: connections stay open and it answers nothing.
    pub fn freeze(&mut self) {
        self.command("freeze");
    }

    /// Continues a frozen server.
    pub fn thaw(&mut self) {
        self.command("thaw");
    }

    /// Has the supervisor run `command` to its end.
    fn command(&mut self, command: &str) {
        let commands = self.commands.as_mut().expect("the pipe is open until drop");
        writeln!(commands, "{command}").expect("the supervisor reads");
        let mut answer = String::new();
        self.answers.read_line(&mut answer).expect("the supervisor answers");
        assert_eq!(answer, "done\n", "the supervisor of redis-server ended");
    }

    fn answers_in_time(&self) -> bool {
        let end = Instant::now() + ANSWER_DEADLINE;
        while Instant::now() < end {
            if self.is_loaded().unwrap_or(false) {
                return true;
            }
            sleep(Duration::from_millis(5));
        }
        false
    }

    fn is_loaded(&self) -> std::io::Result<bool> {
        match &self.address {
            Address::Tcp(port) => {
                let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port.number()))?;
                stream.set_read_timeout(Some(ANSWER_DEADLINE))?;
                serves(stream)
            }
            Address::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(ANSWER_DEADLINE))?;
                serves(stream)
            }
        }
    }

    /// Returns the log of the server.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        drop(self.commands.take());
        self.supervisor.wait().ok();
    }
}

/// Whether the server at the other end has loaded its data.
fn serves(mut stream: impl Read + Write) -> std::io::Result<bool> {
    stream.write_all(b"PING\r\n")?;
    let mut answer = [0; 5];
    stream.read_exact(&mut answer)?;
    Ok(&answer == b"+PONG")
}

fn new_dir() -> PathBuf {
    let dir = tempfile::Builder::new().prefix("channel-layer-").tempdir().expect("a temporary directory can be made");
    dir.keep().canonicalize().expect("the directory was just made")
}
