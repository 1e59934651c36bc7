//! The servers of a round, each with one proxy for each process, and the faults that they have.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use tokio::time::{Instant, sleep};

use super::cluster::ClusterServers;
use super::history::{Event, History};
use super::plan::{Fault, PROCESSES, Plan};
use crate::support::{DEADLINE, Proxy, RedisServer};

pub struct Servers {
    standalone: Vec<Server>,
    /// In place of them.
    cluster: Option<ClusterServers>,
    durable: bool,
}

struct Server {
    /// Its process; all that is done to it blocks.
    redis: Arc<Mutex<RedisServer>>,
    /// Held by one fault at a time.
    turn: tokio::sync::Mutex<()>,
    proxies: Vec<Proxy>,
}

impl Servers {
    pub async fn start(plan: &Plan) -> Self {
        if plan.backend.is_cluster() {
            let cluster = Some(ClusterServers::start(plan).await);
            return Self { standalone: Vec::new(), cluster, durable: plan.durable };
        }
        let mut standalone = Vec::new();
        for _ in 0..plan.backend.servers() {
            standalone.push(Server::start(plan).await);
        }
        Self { standalone, cluster: None, durable: plan.durable }
    }

    /// Where a process reaches them.
    pub async fn urls(&self, process: usize) -> Vec<String> {
        match &self.cluster {
            Some(cluster) => cluster.urls().await,
            None => self.standalone.iter().map(|server| server.proxies[process].url()).collect(),
        }
    }

    /// Connections that no fault of the network touches, to all servers that are no replicas.
    pub async fn connections(&self) -> Vec<MultiplexedConnection> {
        if let Some(cluster) = &self.cluster {
            return cluster.connections().await;
        }
        let mut connections = Vec::new();
        for server in &self.standalone {
            connections.push(server.try_connection().await.expect("a server without faults answers"));
        }
        connections
    }

    /// Records whether the machine has disturbed the nodes of a cluster.
    pub async fn check(&self, history: &History) {
        if let Some(cluster) = &self.cluster {
            cluster.check(history).await;
        }
    }

    /// Injects a fault and ends it, and records when a server cannot be used.
    pub async fn inject(&self, fault: Fault, history: &History) {
        let nobody = usize::MAX;
        if let Some(cluster) = &self.cluster {
            return cluster.inject(fault, history).await;
        }
        let Some((server, slot)) = fault.outage() else { return self.run(fault, history).await };
        history.record(nobody, Event::ServerAway { server, slot });
        self.run(fault, history).await;
        history.record(nobody, Event::ServerBack { server, slot });
    }

    /// Faults of one server that cannot be at the same time wait for each other.
    async fn run(&self, fault: Fault, history: &History) {
        match fault {
            Fault::KillServer { server, away } => self.kill(server, away, history).await,
            Fault::FreezeServer { server, frozen } => {
                let server = &self.standalone[server];
                let _turn = server.turn.lock().await;
                server.operate(RedisServer::freeze).await;
                sleep(frozen).await;
                server.operate(RedisServer::thaw).await;
            }
            Fault::PauseClients { server, paused, writes_only } => {
                let time = paused.as_millis().to_string();
                let what = if writes_only { "WRITE" } else { "ALL" };
                self.standalone[server].during(paused, &["CLIENT", "PAUSE", &time, what], &["PING"]).await;
            }
            Fault::KillClients { server } => {
                self.standalone[server].during(Duration::ZERO, &["CLIENT", "KILL", "TYPE", "normal"], &["PING"]).await;
            }
            Fault::FlushScripts { server } => {
                self.standalone[server].during(Duration::ZERO, &["SCRIPT", "FLUSH"], &["PING"]).await;
            }
            Fault::FillMemory { server, full } => {
                let set = |bytes| ["CONFIG", "SET", "maxmemory", bytes];
                self.standalone[server].during(full, &set("1"), &set("0")).await;
            }
            Fault::LackReplicas { server, lacking } => {
                let set = |replicas| ["CONFIG", "SET", "min-replicas-to-write", replicas];
                self.standalone[server].during(lacking, &set("1"), &set("0")).await;
            }
            Fault::Demote { server, demoted } => {
                // Nobody listens on the port, so that the server keeps its data and takes no writes.
                let nobody = ["REPLICAOF", "127.0.0.1", "1"];
                self.standalone[server].during(demoted, &nobody, &["REPLICAOF", "NO", "ONE"]).await;
            }
            Fault::StepClock { server, seconds } => {
                // A pause of clients ends by this clock, so a step back would make it longer.
                let _turn = self.standalone[server].turn.lock().await;
                self.standalone[server].operate(move |redis| redis.set_clock(seconds)).await;
                history.record(usize::MAX, Event::ClockStepped { server });
            }
            Fault::Cut { process, server } => self.proxy(process, server).cut(),
            Fault::HalfOpen { process, server } => self.proxy(process, server).freeze(),
            Fault::Deafen { process, server } => self.proxy(process, server).deafen(),
            Fault::Stall { process, server, stalled } => {
                self.proxy(process, server).stall();
                sleep(stalled).await;
                self.proxy(process, server).resume();
            }
            Fault::Throttle { process, server, pace, throttled } => {
                self.proxy(process, server).slow_down(pace);
                sleep(throttled).await;
                self.proxy(process, server).slow_down(None);
            }
            Fault::Delay { process, server, delay, delayed } => {
                self.proxy(process, server).delay(delay);
                sleep(delayed).await;
                self.proxy(process, server).delay(Duration::ZERO);
            }
            Fault::Refuse { process, server, refused } => {
                self.proxy(process, server).refuse();
                sleep(refused).await;
                self.proxy(process, server).admit();
            }
            Fault::Restart { .. } | Fault::KillProcess { .. } | Fault::Flush { .. } => {
                unreachable!("processes are no part of the servers")
            }
            Fault::MoveSlots { .. } | Fault::FailOver { .. } | Fault::AddNode { .. } | Fault::KillNode { .. } => {
                unreachable!("only a cluster has such a fault")
            }
        }
    }

    /// Lets half-open connections end that their processes have closed.
    pub fn thaw(&self) {
        self.standalone.iter().flat_map(|server| &server.proxies).for_each(Proxy::thaw);
    }

    async fn kill(&self, server: usize, away: Duration, history: &History) {
        let server = &self.standalone[server];
        let _turn = server.turn.lock().await;
        let wipe = history.number();
        let nobody = usize::MAX;
        if !self.durable {
            history.record(nobody, Event::Wiping { wipe, reason: "the server restarts without its data".to_owned() });
        }
        server.operate(RedisServer::stop).await;
        sleep(away).await;
        server.operate(RedisServer::start_again).await;
        if !self.durable {
            history.record(nobody, Event::Wiped { wipe });
        }
    }

    fn proxy(&self, process: usize, server: usize) -> &Proxy {
        &self.standalone[server].proxies[process]
    }
}

impl Server {
    async fn start(plan: &Plan) -> Self {
        // What is written without waiting for the disk survives the death of the server, if not that of the machine.
        let arguments = ["--appendonly", if plan.durable { "yes" } else { "no" }, "--appendfsync", "no"];
        let start = if plan.steps_clock { RedisServer::with_clock } else { RedisServer::with };
        let redis = start(&arguments);
        let mut proxies = Vec::new();
        for _ in 0..PROCESSES {
            proxies.push(Proxy::before(&redis.url()).await);
        }
        Self { redis: Arc::new(Mutex::new(redis)), turn: tokio::sync::Mutex::default(), proxies }
    }

    async fn operate(&self, work: impl FnOnce(&mut RedisServer) + Send + 'static) {
        let redis = Arc::clone(&self.redis);
        let operating = tokio::task::spawn_blocking(move || work(&mut redis.lock().unwrap()));
        operating.await.expect("the supervisor of a server does what it is told");
    }

    async fn try_connection(&self) -> redis::RedisResult<MultiplexedConnection> {
        let url = self.redis.lock().unwrap().url();
        RedisServer::connection_to(&url).await
    }

    /// Gives the server a command, and another one some time later.
    async fn during(&self, time: Duration, first: &[&str], then: &[&str]) {
        let _turn = self.turn.lock().await;
        self.command(first).await;
        sleep(time).await;
        self.command(then).await;
    }

    /// Gives the server a command, again while it is not there to take it.
    async fn command(&self, words: &[&str]) {
        let mut command = redis::cmd(words[0]);
        words[1..].iter().for_each(|word| _ = command.arg(*word));
        let end = Instant::now() + DEADLINE;
        while let Err(error) = self.query(&command).await {
            let log = || self.redis.lock().unwrap().log();
            assert!(Instant::now() < end, "the server did not take {words:?}: {error}; its log: {}", log());
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn query(&self, command: &redis::Cmd) -> redis::RedisResult<redis::Value> {
        command.query_async(&mut self.try_connection().await?).await
    }
}
