//! A Python process that holds layers of Python's packages; what it can do is told in `peer/main.py`.

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

/// A running peer. Commands run beside each other, and it ends when this is dropped or the tests end, however they do.
pub struct Peer {
    process: Child,
    commands: Mutex<Commands>,
    answers: Answers,
    /// What it writes to standard error.
    log: File,
}

struct Commands {
    pipe: Option<ChildStdin>,
    next_id: u64,
}

/// The callers that wait for answers, by the ids of their commands; `None` when the process has ended.
type Answers = Arc<Mutex<Option<HashMap<u64, oneshot::Sender<Result<Json, Refusal>>>>>>;

/// What will come of a command.
pub type Answer = oneshot::Receiver<Result<Json, Refusal>>;

/// The exception that a command ended with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The name of its class.
    pub kind: String,
    pub text: String,
}

impl Peer {
    /// The one with asgi_redis that tests share.
    pub fn asgi_redis() -> &'static Self {
        static PEER: LazyLock<Peer> = LazyLock::new(|| Peer::start("asgi_redis"));
        &PEER
    }

    /// The one with both layers of channels_redis that tests share.
    pub fn channels_redis() -> &'static Self {
        static PEER: LazyLock<Peer> = LazyLock::new(|| Peer::start("channels_redis"));
        &PEER
    }

    /// Starts one in the Python environment named `environment`.
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
        // Tests that share a peer have runtimes of their own, which end earlier.
        thread::spawn(move || hear(lines, &waiting));
        Self { process, commands, answers, log }
    }

    /// Has the layer with the number `layer` do something and gives its answer, which has to come.
    pub async fn ask(&self, layer: u64, what: &str, arguments: Json) -> Result<Json, Refusal> {
        let answer = self.answer(self.tell(layer, what, &arguments));
        within(DEADLINE, &format!("{what} by Python"), answer).await
    }

    /// Waits for an answer, however long.
    pub async fn answer(&self, answer: Answer) -> Result<Json, Refusal> {
        answer.await.unwrap_or_else(|_| self.mourn())
    }

    /// As [`ask`](Self::ask), without waiting for the answer; there is none if the process has ended.
    pub fn tell(&self, layer: u64, what: &str, arguments: &Json) -> Answer {
        let (give, answer) = oneshot::channel();
        let mut commands = self.commands.lock();
        let id = commands.next_id;
        commands.next_id += 1;
        if let Some(answers) = self.answers.lock().as_mut() {
            answers.insert(id, give);
        }
        let command = json!({"id": id, "layer": layer, "do": what, "arguments": arguments});
        // If nobody reads it any more the end of the answers tells.
        writeln!(commands.pipe.as_mut().expect("the pipe is open until drop"), "{command}").ok();
        answer
    }

    fn mourn(&self) -> ! {
        let (mut log, mut said) = (&self.log, String::new());
        log.rewind().unwrap();
        log.read_to_string(&mut said).unwrap();
        panic!("the Python process has ended; it said: {said}");
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.commands.lock().pipe.take();
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// Passes answers on until there are no more.
fn hear(lines: ChildStdout, waiting: &Answers) {
    for line in BufReader::new(lines).lines().map_while(Result::ok) {
        let mut answer: Json = serde_json::from_str(&line).expect("the peer speaks JSON");
        let id = answer["id"].as_u64().expect("an answer has an id");
        let result = match answer.get("error") {
            Some(error) => Err(Refusal {
                kind: error["type"].as_str().unwrap_or_default().to_owned(),
                text: error["text"].as_str().unwrap_or_default().to_owned(),
            }),
            None => Ok(answer["result"].take()),
        };
        if let Some(give) = waiting.lock().as_mut().and_then(|waiting| waiting.remove(&id)) {
            // Who asked may not wait any more.
            give.send(result).ok();
        }
    }
    waiting.lock().take();
}

/// The interpreter of an environment.
pub fn python(environment: &str) -> PathBuf {
    let python = root().join("target/python").join(environment).join("bin/python");
    assert!(python.exists(), "{} is missing: run scripts/python-environments, which makes it", python.display());
    python
}

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
