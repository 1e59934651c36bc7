//! Processes of a round as processes of the system, which SIGKILL can end: the test runs itself again for each.
//!
//! The standard input of a child is a socket. It carries commands to the child and records back to the test. A child
//! writes each record at once, so that what it began before it was killed is known.

use std::io::{self, BufReader, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::backend::Backend;
use super::history::{Event, History, Record};
use super::plan::Plan;
use super::process::{Assignment, CALL_DEADLINE, Command, Process};

/// The variable that makes the test a child. It holds a [`ChildStart`].
const VARIABLE: &str = "SOAK_PROCESS";

/// What a child needs to know.
#[derive(Debug, Serialize, Deserialize)]
struct ChildStart {
    seed: u64,
    /// When the history began.
    began: SystemTime,
    assignment: Assignment,
}

/// A process of a round.
pub enum Handle {
    /// In the process of the test.
    Here(Process),
    Child(Child),
}

/// A process of a round that is a process of the system.
pub struct Child {
    slot: usize,
    process: usize,
    history: Arc<History>,
    os_process: tokio::process::Child,
    commands: UnixStream,
    /// Gets an item when the child is ready for a command.
    ready: mpsc::UnboundedReceiver<()>,
    reading: JoinHandle<()>,
}

impl Handle {
    /// Runs `command` to its end.
    pub async fn run(&mut self, command: Command) {
        match self {
            Self::Here(process) => process.run(command).await,
            Self::Child(child) => child.run(command).await,
        }
    }

    /// Ends the process at once.
    pub async fn kill(self) {
        let (history, process, slot) = match &self {
            Self::Here(Process { context, .. }) => (Arc::clone(&context.history), context.process, context.slot),
            Self::Child(child) => (Arc::clone(&child.history), child.process, child.slot),
        };
        let mut routes = Plan::routes(slot);
        routes.push(Plan::reply_pattern(slot));
        // Before, for a message that is popped meanwhile may be lost already.
        history.record(process, Event::Killed { routes: routes.clone() });
        match self {
            Self::Here(process) => process.end().await,
            Self::Child(child) => child.kill().await,
        }
        history.record(process, Event::Killed { routes });
    }

    /// Ends a process whose layer is closed.
    pub async fn end(self) {
        match self {
            Self::Here(process) => process.end().await,
            Self::Child(child) => child.end().await,
        }
    }
}

impl Child {
    /// Starts a child; `None` if it does not start its layer in time.
    pub async fn start(plan: &Plan, history: &Arc<History>, assignment: Assignment) -> Option<Self> {
        let (slot, process) = (assignment.slot, assignment.process);
        let start = ChildStart { seed: plan.seed, began: history.began(), assignment };
        let (commands, input) = UnixStream::pair().expect("a pair of sockets");
        let os_process = tokio::process::Command::new(std::env::current_exe().expect("the test has a file"))
            .args([plan.backend.name(), "--exact", "--nocapture"])
            .env(VARIABLE, serde_json::to_string(&start).expect("a start is JSON"))
            .stdin(OwnedFd::from(input))
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("the test runs itself");
        let (done, ready) = mpsc::unbounded_channel();
        let (records, history) = (commands.try_clone().expect("a clone of a socket"), Arc::clone(history));
        let kept = Arc::clone(&history);
        let reading = std::thread::spawn(move || read(records, &kept, &done));
        let mut child = Self { slot, process, history, os_process, commands, ready, reading };
        if child.ready.recv().await.is_none() {
            child.end().await;
            return None;
        }
        Some(child)
    }

    async fn run(&mut self, command: Command) {
        // If the child has ended, no answer comes.
        let _ = self.commands.write_all(&rmp_serde::to_vec(&command).expect("a command is MessagePack"));
        if self.ready.recv().await.is_none() {
            let what = format!("process {} has ended by itself: {:?}", self.process, self.os_process.try_wait());
            self.history.record(self.process, Event::Left { what });
        }
    }

    async fn end(mut self) {
        // The child ends when no more commands can come.
        let _ = self.commands.shutdown(Shutdown::Write);
        match timeout(2 * CALL_DEADLINE, self.os_process.wait()).await {
            Ok(Ok(status)) if status.success() => {}
            ended => {
                let what = format!("process {} ended with {ended:?}", self.process);
                self.history.record(self.process, Event::Left { what });
            }
        }
        self.kill().await;
    }

    /// Sends SIGKILL, unless the child has ended, and waits until all of its records are in the history.
    async fn kill(mut self) {
        let _ = self.os_process.kill().await;
        let joining = spawn_blocking(|| self.reading.join());
        joining.await.expect("a join does not panic").expect("records are read without a panic");
    }
}

/// Reads the records of a child until it ends. The last one may be incomplete.
fn read(records: UnixStream, history: &History, done: &mpsc::UnboundedSender<()>) {
    let mut records = BufReader::new(records);
    while let Ok(record) = rmp_serde::from_read::<_, Option<Record>>(&mut records) {
        match record {
            Some(record) => history.keep(record),
            None => _ = done.send(()),
        }
    }
}

/// Runs the process that this process of the system was started for; `false` if it was started for none.
pub fn run(backend: Backend) -> bool {
    let Ok(start) = std::env::var(VARIABLE) else { return false };
    let ChildStart { seed, began, assignment } = serde_json::from_str(&start).expect("a child gets its start");
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned().expect("a child has a standard input"));
    let records = socket.try_clone().expect("a clone of a socket");
    let history = Arc::new(History::of_child(began, assignment.process, records));
    let plan = Arc::new(Plan::new(backend, seed));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    runtime.block_on(async {
        let memory = Arc::new(Backend::memory(&plan));
        let Some(mut process) = Process::start(&plan, &history, memory, assignment).await else { return };
        history.report_ready();
        let mut commands = BufReader::new(socket);
        while let Ok(command) = rmp_serde::from_read(&mut commands) {
            process.run(command).await;
            history.report_ready();
        }
        process.end().await;
    });
    true
}
