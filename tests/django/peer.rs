//! `Peer`: a Python process with layers of Python's packages. `peer/main.py` describes its commands.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, LazyLock};
use std::thread;

use parking_lot::Mutex;
use serde_json::{Value as Json, json};
use tokio::sync::oneshot;

use crate::support::{DEADLINE, within};

/// A running peer. Its commands run concurrently. It exits when this is dropped, or when the process of the tests ends
/// for any reason.
pub struct Peer {
    process: Child,
    commands: Mutex<Commands>,
    answers: Answers,
    /// Its standard error.
    log: File,
}

struct Commands {
    pipe: Option<ChildStdin>,
    next_id: u64,
}

/// The callers that wait for results, by the ids of their commands. `None` after the process has ended.
type Answers = Arc<Mutex<Option<HashMap<u64, oneshot::Sender<Result<Json, Refusal>>>>>>;

/// The future result of a command.
pub type Answer = oneshot::Receiver<Result<Json, Refusal>>;

/// The exception that a command ended with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The name of its class.
    pub kind: String,
    pub text: String,
}

impl Peer {
    /// The shared peer with asgi_redis.
    pub fn asgi_redis() -> &'static Self {
        static PEER: LazyLock<Peer> = LazyLock::new(|| Peer::start("asgi_redis"));
        &PEER
    }

    /// The shared peer with both layers of channels_redis.
    pub fn channels_redis() -> &'static Self {
        static PEER: LazyLock<Peer> = LazyLock::new(|| Peer::start("channels_redis"));
        &PEER
    }

    /// Starts a peer in the Python environment named `environment`.
    pub fn start(environment: &str) -> Self {
        let log = tempfile::tempfile().unwrap();
        let mut process = Command::new(python(environment))
            .arg(root().join("tests/django/peer/main.py"))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log.try_clone().unwrap())
            .spawn()
            .unwrap();
        let commands = Mutex::new(Commands { pipe: process.stdin.take(), next_id: 0 });
        let answers = Answers::new(Mutex::new(Some(HashMap::new())));
        let (lines, waiting) = (process.stdout.take().unwrap(), answers.clone());
        // A thread, because each test that shares the peer has its own runtime, which ends earlier.
        thread::spawn(move || forward_results(lines, &waiting));
        Self { process, commands, answers, log }
    }

    /// Runs a command of the layer with the number `layer` and returns its result. Panics if it takes too long.
    pub async fn request(&self, layer: u64, what: &str, arguments: Json) -> Result<Json, Refusal> {
        let answer = self.wait(self.send(layer, what, &arguments));
        within(DEADLINE, &format!("{what} by Python"), answer).await
    }

    /// Waits for a result without a time limit.
    pub async fn wait(&self, answer: Answer) -> Result<Json, Refusal> {
        answer.await.unwrap_or_else(|_| self.panic_with_log())
    }

    /// Sends a command without waiting for the result. There is no result if the process has ended.
    pub fn send(&self, layer: u64, what: &str, arguments: &Json) -> Answer {
        let (result, answer) = oneshot::channel();
        let mut commands = self.commands.lock();
        let id = commands.next_id;
        commands.next_id += 1;
        if let Some(answers) = self.answers.lock().as_mut() {
            answers.insert(id, result);
        }
        let command = json!({"id": id, "layer": layer, "do": what, "arguments": arguments});
        // If the process has ended, the thread that reads the results reports it.
        writeln!(commands.pipe.as_mut().expect("the pipe is open until drop"), "{command}").ok();
        answer
    }

    fn panic_with_log(&self) -> ! {
        let (mut log, mut text) = (&self.log, String::new());
        log.rewind().unwrap();
        log.read_to_string(&mut text).unwrap();
        panic!("the Python process has ended; its log: {text}");
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.commands.lock().pipe.take();
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// Forwards results to their callers until the process ends.
fn forward_results(lines: ChildStdout, waiting: &Answers) {
    for line in BufReader::new(lines).lines().map_while(Result::ok) {
        let mut answer: Json = serde_json::from_str(&line).expect("a result is JSON");
        let id = answer["id"].as_u64().expect("a result has an id");
        let result = match answer.get("error") {
            Some(error) => Err(Refusal {
                kind: error["type"].as_str().unwrap_or_default().to_owned(),
                text: error["text"].as_str().unwrap_or_default().to_owned(),
            }),
            None => Ok(answer["result"].take()),
        };
        if let Some(caller) = waiting.lock().as_mut().and_then(|waiting| waiting.remove(&id)) {
            // The caller may no longer wait.
            caller.send(result).ok();
        }
    }
    waiting.lock().take();
}

/// Returns the interpreter of an environment.
pub fn python(environment: &str) -> PathBuf {
    let python = root().join("target/python").join(environment).join("bin/python");
    assert!(python.exists(), "{} is missing: run scripts/python-environments", python.display());
    python
}

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
