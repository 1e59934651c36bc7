//! One round: starts what the plan says, lets it run, lets it come to rest, and looks at what is left.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use channel_layer::MemoryLayer;
use futures_util::future::join_all;
use redis::aio::MultiplexedConnection;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, sleep_until};

use super::backend::Backend;
use super::child::{Child, Handle};
use super::history::{Event, History, Record, is_disturbed};
use super::hub::Audience;
use super::oracle;
use super::plan::{Fault, PROCESSES, Plan};
use super::process::{Assignment, Command, Process, REST};
use super::servers::Servers;

/// How long nothing has to arrive before what is missing counts as lost.
const QUIET: Duration = Duration::from_secs(6);
/// How long messages may go on arriving when nobody writes any more.
const ARRIVAL_DEADLINE: Duration = Duration::from_secs(90);

/// Runs `plan` and returns what happened.
pub async fn run(plan: Plan) -> Vec<Record> {
    let round = Round::start(plan).await;
    for slot in 0..PROCESSES {
        let process = round.start_process(slot).await;
        *round.processes[slot].lock().await = process;
    }
    if let Some(audience) = &round.audience {
        audience.open().await;
    }
    round.inject_faults().await;
    round.servers.check(&round.history).await;
    if is_disturbed(&round.history.records()) {
        return round.history.records();
    }
    round.come_to_rest().await;
    round.look_at_keys().await;
    round.close().await;
    round.history.records()
}

struct Round {
    plan: Arc<Plan>,
    history: Arc<History>,
    servers: Servers,
    /// `None` where one could not be started.
    processes: [Mutex<Option<Handle>>; PROCESSES],
    started: AtomicUsize,
    /// Where the processes are those of a site.
    audience: Option<Audience>,
    memory: Arc<MemoryLayer>,
}

impl Round {
    async fn start(plan: Plan) -> Self {
        let servers = Servers::start(&plan).await;
        let memory = Arc::new(Backend::memory(&plan));
        let history = Arc::new(History::new());
        let audience = (plan.backend == Backend::Hub).then(|| Audience::new(plan.seed, Arc::clone(&history)));
        Self {
            plan: Arc::new(plan),
            history,
            audience,
            servers,
            processes: Default::default(),
            started: AtomicUsize::new(0),
            memory,
        }
    }

    /// Starts a process with its actors; `None` if its layer does not connect in time.
    async fn start_process(&self, slot: usize) -> Option<Handle> {
        let process = self.started.fetch_add(1, Ordering::Relaxed);
        let assignment = Assignment { slot, process, servers: self.servers.urls(slot).await };
        if self.plan.backend.has_children() {
            return Child::start(&self.plan, &self.history, assignment).await.map(Handle::Child);
        }
        let mut process = Process::start(&self.plan, &self.history, Arc::clone(&self.memory), assignment).await?;
        if let Some(audience) = &self.audience {
            audience.start_site(&mut process).await;
        }
        Some(Handle::Here(process))
    }

    /// Injects the faults of the plan and returns when all have ended and writers had their time.
    async fn inject_faults(&self) {
        let start = Instant::now();
        let faults = self.plan.faults.iter().map(async |(at, fault)| {
            sleep_until(start + *at).await;
            self.inject(*fault).await;
        });
        join_all(faults).await;
        sleep_until(start + self.plan.length).await;
    }

    async fn inject(&self, fault: Fault) {
        let nobody = usize::MAX;
        self.history.record(nobody, Event::Fault(format!("{fault:?} begins")));
        match fault {
            Fault::Restart { process } | Fault::KillProcess { process } => {
                let mut running = self.processes[process].lock().await;
                if let Some(mut process) = running.take() {
                    if let Fault::Restart { .. } = fault {
                        process.run(Command::Close { must_succeed: false }).await;
                        process.end().await;
                    } else {
                        process.kill().await;
                    }
                }
                *running = self.start_process(process).await;
            }
            Fault::Flush { process } => {
                if let Some(process) = &mut *self.processes[process].lock().await {
                    process.run(Command::Flush).await;
                }
            }
            _ => self.servers.inject(fault, &self.history).await,
        }
        self.history.record(nobody, Event::Fault(format!("{fault:?} has ended")));
    }

    /// Runs `command` in all processes, one after the other.
    async fn run_in_all(&self, command: Command) {
        for slot in &self.processes {
            if let Some(process) = &mut *slot.lock().await {
                process.run(command).await;
            }
        }
    }

    /// Ends writing and waits until everything that was written has arrived.
    async fn come_to_rest(&self) {
        self.run_in_all(Command::StopWriting).await;
        match &self.audience {
            Some(audience) => audience.stop_visits(),
            None => self.run_in_all(Command::ReadSilentRoute).await,
        }
        self.wait_for_arrival().await;
        if let Some(audience) = &self.audience {
            audience.close().await;
            for slot in &self.processes {
                if let Some(Handle::Here(process)) = &*slot.lock().await {
                    process.wait_for_an_empty_hub().await;
                }
            }
        }
        self.run_in_all(Command::StopReading).await;
    }

    /// Waits until everything has arrived, or nothing does any more.
    async fn wait_for_arrival(&self) {
        let end = Instant::now() + ARRIVAL_DEADLINE;
        let (mut length, mut since) = (self.history.events(), Instant::now());
        loop {
            sleep(Duration::from_millis(300)).await;
            let now = self.history.events();
            if now == length && self.lost_nothing() {
                break;
            }
            if now == length && since.elapsed() > QUIET {
                self.run_in_all(Command::ReportStuckReaders).await;
                break;
            }
            if Instant::now() > end {
                self.history.record(usize::MAX, Event::Overdue { call: "the arrival of what was written".to_owned() });
                break;
            }
            if now != length {
                (length, since) = (now, Instant::now());
            }
        }
    }

    /// Whether everything has arrived, or is explained.
    fn lost_nothing(&self) -> bool {
        oracle::lost(&self.history.records(), &self.plan.backend.rules(&self.plan)).is_empty()
    }

    /// Looks at what is left on the servers, before and after a flush.
    async fn look_at_keys(&self) {
        for (server, connection) in self.servers.connections().await.iter_mut().enumerate() {
            for key in keys(connection).await {
                let left: i64 = redis::cmd("PTTL").arg(&key).query_async(connection).await.unwrap();
                if left == -1 {
                    self.left(format!("key {key} on server {server} lives forever"));
                }
            }
        }
        if self.audience.is_some() {
            // Hubs make their groups again.
            return;
        }
        self.run_in_all(Command::Settle).await;
        match &mut *self.processes[0].lock().await {
            Some(flusher) => flusher.run(Command::FlushAtRest).await,
            None => return,
        }
        for (server, connection) in self.servers.connections().await.iter_mut().enumerate() {
            let left = eventually_empty(async || keys(connection).await).await;
            for key in left {
                self.left(format!("key {key} on server {server} after a flush"));
            }
        }
    }

    /// Closes all layers, after which nothing is connected any more, and ends their processes.
    async fn close(&self) {
        let mut closed = Vec::new();
        for slot in &self.processes {
            if let Some(mut process) = slot.lock().await.take() {
                process.run(Command::Close { must_succeed: true }).await;
                closed.push(process);
            }
        }
        self.servers.thaw();
        for (server, connection) in self.servers.connections().await.iter_mut().enumerate() {
            let left = eventually_empty(async || clients(connection).await).await;
            for client in left {
                self.left(format!("connection to server {server}: {client}"));
            }
        }
        for process in closed {
            process.end().await;
        }
    }

    fn left(&self, what: String) {
        self.history.record(usize::MAX, Event::Left { what });
    }
}

/// What `look` finds after it should find nothing any more.
async fn eventually_empty(mut look: impl AsyncFnMut() -> Vec<String>) -> Vec<String> {
    let end = Instant::now() + REST;
    loop {
        let found = look().await;
        if found.is_empty() || Instant::now() > end {
            return found;
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// The keys on a server but for those that outlive a flush.
async fn keys(connection: &mut MultiplexedConnection) -> Vec<String> {
    let keys: Vec<String> = redis::cmd("KEYS").arg("*").query_async(connection).await.unwrap();
    let outlives =
        |key: &str| key.contains("epoch") || key.starts_with("channel-layer:settings:") || key.ends_with(":quarantine");
    keys.into_iter().filter(|key| !outlives(key)).collect()
}

/// The connections to a server but for this one.
async fn clients(connection: &mut MultiplexedConnection) -> Vec<String> {
    let own: i64 = redis::cmd("CLIENT").arg("ID").query_async(connection).await.unwrap();
    let list: String = redis::cmd("CLIENT").arg("LIST").query_async(connection).await.unwrap();
    // A replica of a cluster is a client of its master.
    let is_own = |line: &&str| line.starts_with(&format!("id={own} ")) || line.contains(" flags=S ");
    list.lines().filter(|line| !is_own(line)).map(str::to_owned).collect()
}
