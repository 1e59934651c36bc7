//! One round: starts what the plan says, lets it run, lets it come to rest, and looks at what is left.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use channel_layer::MemoryLayer;
use redis::aio::MultiplexedConnection;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::actors;
use super::backend::{Backend, Start, Started};
use super::history::{Event, History, Record};
use super::hub::Audience;
use super::oracle;
use super::plan::{Fault, NORMAL, PROCESSES, Plan};
use super::process::{CALL_DEADLINE, Context, Process, REST, chain};
use super::requests;
use super::servers::Servers;

/// How long nothing has to arrive before what is missing counts as lost.
const QUIET: Duration = Duration::from_secs(6);
/// How long messages may go on arriving when nobody writes any more.
const ARRIVAL_DEADLINE: Duration = Duration::from_secs(90);

/// Runs `plan` and returns what happened.
pub async fn run(plan: Plan) -> Vec<Record> {
    let round = Arc::new(Round::start(plan).await);
    for slot in 0..PROCESSES {
        let process = round.start_process(slot).await;
        *round.processes[slot].lock().await = process;
    }
    if let Some(audience) = &round.audience {
        audience.open().await;
    }
    round.inject_faults().await;
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
    processes: [Mutex<Option<Process>>; PROCESSES],
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
    async fn start_process(&self, slot: usize) -> Option<Process> {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        let settings = &self.plan.settings[slot];
        let (runtime, recorder) = Process::runtime(settings.threads);
        let (plan, urls, memory) = (Arc::clone(&self.plan), self.servers.urls(slot), Arc::clone(&self.memory));
        let history = Arc::clone(&self.history);
        let connecting = runtime.spawn(async move {
            let start = Start { plan: &plan, process: slot, servers: urls, memory };
            loop {
                match plan.backend.start(&start).await {
                    Ok(started) => return started,
                    Err(error) => history.record(number, Event::Fault(format!("cannot connect: {}", chain(&error)))),
                }
                sleep(Duration::from_millis(100)).await;
            }
        });
        let Ok(started) = timeout(CALL_DEADLINE, connecting).await else {
            self.history.record(number, Event::Overdue { call: "connect".to_owned() });
            runtime.shutdown_background();
            return None;
        };
        let Started { layer, events } = started.expect("connecting does not panic");
        let context = Context {
            layer,
            history: Arc::clone(&self.history),
            plan: Arc::clone(&self.plan),
            slot,
            process: number,
            writing: CancellationToken::new(),
            reading: CancellationToken::new(),
            watching: CancellationToken::new(),
        };
        context.record(Event::Started { slot, routes: Plan::routes(slot) });
        let mut process = Process::new(context, runtime, recorder);
        for events in events {
            process.watchers.push(process.spawn(actors::watch(process.context.clone(), events)));
        }
        match &self.audience {
            Some(audience) => audience.start_site(&mut process).await,
            None => self.start_actors(&mut process),
        }
        Some(process)
    }

    fn start_actors(&self, process: &mut Process) {
        let context = process.context.clone();
        let settings = &self.plan.settings[context.slot];
        for writer in 0..settings.writers {
            let writer = u32::try_from(context.process * 10 + writer).expect("there are few processes");
            process.writers.push(process.spawn(actors::write(context.clone(), writer)));
        }
        let requests = u32::try_from(context.process * 10 + settings.writers).expect("there are few processes");
        process.readers.push(process.spawn(requests::request(context.clone(), requests)));
        process.writers.push(process.spawn(actors::change_groups(context.clone())));
        process.writers.push(process.spawn(actors::measure(context.clone())));
        let single = Plan::single_routes(context.slot).to_vec();
        let mut readers =
            if settings.joins_readers { vec![single] } else { single.into_iter().map(|r| vec![r]).collect() };
        readers.push(NORMAL.map(str::to_owned).to_vec());
        for routes in readers {
            process.readers.push(process.spawn(actors::read(context.clone(), routes)));
        }
    }

    /// Injects the faults of the plan and returns when all have ended and writers had their time.
    async fn inject_faults(self: &Arc<Self>) {
        let start = Instant::now();
        let mut faults = JoinSet::new();
        for (at, fault) in self.plan.faults.clone() {
            let round = Arc::clone(self);
            faults.spawn(async move {
                sleep_until(start + at).await;
                round.inject(fault).await;
            });
        }
        sleep_until(start + self.plan.length).await;
        faults.join_all().await;
    }

    async fn inject(&self, fault: Fault) {
        let nobody = usize::MAX;
        self.history.record(nobody, Event::Fault(format!("{fault:?} begins")));
        match fault {
            Fault::Restart { process } | Fault::KillProcess { process } => {
                let mut running = self.processes[process].lock().await;
                if let Some(mut process) = running.take() {
                    if let Fault::Restart { .. } = fault {
                        process.close(false).await;
                        process.end().await;
                    } else {
                        process.kill().await;
                    }
                }
                *running = self.start_process(process).await;
            }
            Fault::Flush { process } => {
                if let Some(process) = &*self.processes[process].lock().await {
                    process.flush().await;
                }
            }
            _ => self.servers.inject(fault, &self.history).await,
        }
        self.history.record(nobody, Event::Fault(format!("{fault:?} has ended")));
    }

    /// Ends writing and waits until everything that was written has arrived.
    async fn come_to_rest(&self) {
        for slot in &self.processes {
            if let Some(process) = &mut *slot.lock().await {
                process.stop_writing().await;
            }
        }
        match &self.audience {
            Some(audience) => audience.stop_visits(),
            None => self.read_silent_routes().await,
        }
        self.wait_for_arrival().await;
        if let Some(audience) = &self.audience {
            let mut processes = Vec::new();
            for slot in &self.processes {
                processes.push(slot.lock().await);
            }
            audience.close(processes.iter().filter_map(|process| process.as_ref())).await;
        }
        for slot in &self.processes {
            if let Some(process) = &mut *slot.lock().await {
                process.stop_reading().await;
            }
        }
    }

    async fn read_silent_routes(&self) {
        // Only now, so that nothing has made room on these routes while anybody wrote.
        for slot in &self.processes {
            if let Some(process) = &mut *slot.lock().await {
                let silent = vec![Plan::silent_route(process.context.slot)];
                process.readers.push(process.spawn(actors::read(process.context.clone(), silent)));
            }
        }
    }

    /// Waits until everything has arrived, or nothing does any more.
    async fn wait_for_arrival(&self) {
        let end = Instant::now() + ARRIVAL_DEADLINE;
        let (mut length, mut since) = (self.history.len(), Instant::now());
        loop {
            sleep(Duration::from_millis(300)).await;
            let now = self.history.len();
            if now == length && self.lost_nothing().await {
                break;
            }
            if now == length && since.elapsed() > QUIET {
                self.look_for_stuck_readers().await;
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

    /// Whether everything has arrived, or is explained by what processes have counted.
    async fn lost_nothing(&self) -> bool {
        let mut records = self.history.records();
        for slot in &self.processes {
            let Some(process) = &mut *slot.lock().await else { continue };
            let (at, process_number) = (self.history.now(), process.context.process);
            let counted = process.dropped().into_iter();
            records.extend(counted.map(|event| Record { at, process: process_number, event }));
        }
        oracle::lost(&records, &self.plan.backend.rules(&self.plan)).is_empty()
    }

    /// Reports readers that do not take what waits for them.
    async fn look_for_stuck_readers(&self) {
        for slot in &self.processes {
            let process = slot.lock().await;
            let Some(context) = process.as_ref().map(|process| &process.context) else { continue };
            for route in Plan::routes(context.slot) {
                let waiting = context.layer.channel_statistics(&route);
                let waiting = context.soon(|| format!("channel_statistics of {route}"), waiting).await;
                if let Some(Ok(waiting)) =
                    waiting.filter(|waiting| waiting.as_ref().is_ok_and(|w| w.messages_pending > 0))
                {
                    let call = format!("the read of {} messages that wait on {route}", waiting.messages_pending);
                    context.record(Event::Overdue { call });
                }
            }
        }
    }

    /// Looks at what is left on the servers, before and after a flush.
    async fn look_at_keys(&self) {
        for server in 0..self.servers.count() {
            let mut connection = self.servers.connection(server).await;
            for key in keys(&mut connection).await {
                let left: i64 = redis::cmd("PTTL").arg(&key).query_async(&mut connection).await.unwrap();
                if left == -1 {
                    self.left(format!("key {key} on server {server} lives forever"));
                }
            }
        }
        if self.audience.is_some() {
            // Hubs make their groups again.
            return;
        }
        let flusher = self.processes[0].lock().await;
        let Some(flusher) = flusher.as_ref().map(|process| &process.context) else { return };
        let flushing = async {
            // The layer may not have tried again since the last fault.
            while let Err(error) = flusher.layer.flush().await {
                if !error.is_transient() {
                    self.left(format!("flush failed: {}", chain(&error)));
                    break;
                }
                sleep(Duration::from_millis(100)).await;
            }
        };
        if flusher.soon(|| "flush".to_owned(), flushing).await.is_none() {
            return;
        }
        for server in 0..self.servers.count() {
            let mut connection = self.servers.connection(server).await;
            let left = eventually_empty(async || keys(&mut connection).await).await;
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
                process.close(true).await;
                closed.push(process);
            }
        }
        self.servers.thaw();
        for server in 0..self.servers.count() {
            let mut connection = self.servers.connection(server).await;
            let left = eventually_empty(async || clients(&mut connection).await).await;
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
    list.lines().filter(|line| !line.starts_with(&format!("id={own} "))).map(str::to_owned).collect()
}
